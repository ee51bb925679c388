"""`final`: blend files, the final run and its baselines, and what became of the prediction."""

import logging
from typing import Any

from nemo_demix.artifacts import is_done, read_json, write_json, write_text
from nemo_demix.config import DemixConfig
from nemo_demix.errors import ConfigError
from nemo_demix.fidelity.cost import cost_ledger
from nemo_demix.fidelity.outcome import write_outcome
from nemo_demix.fidelity.record import load_fidelity
from nemo_demix.prepared import PreparedRun
from nemo_demix.ranks.leader import launch
from nemo_demix.search.identity import search_fingerprint
from nemo_demix.search.space import search_folder
from nemo_demix.stages.external import add_external_scores
from nemo_demix.stages.identity import final_fingerprint, final_shares
from nemo_demix.stages.models import forget_jobs
from nemo_demix.stages.retraining import confirm_retraining
from nemo_demix.stages.score import score_target, targets_to_score
from nemo_demix.stages.tables import print_result
from nemo_demix.stages.trust import judge
from nemo_demix.training.jobs import blend_paths

logger = logging.getLogger(__name__)


def final_stage(config: DemixConfig) -> None:
    """Write the blend, train on it and on the baselines' from the same base, score all, and compare."""
    run = PreparedRun.open(config)
    mixture_path = search_folder(config) / "mixture.json"
    if not is_done(mixture_path, search_fingerprint(run)):
        raise ConfigError(f"{mixture_path}: not there, or of another configuration; run `nemo-demix search` first")
    mixture = read_json(mixture_path)
    fidelity = load_fidelity(run)
    check_trust(run, mixture, fidelity)
    shares = final_shares(run, mixture)
    for name in (name for name in config.final.baselines if name not in shares):
        logger.warning("final: the %s mixture is the chosen one, so one model is trained and nothing compared", name)
    folder = config.run_dir / "final"
    write_json(folder / "shares.json", shares)
    write_blend(run, mixture["data_shares"])

    jobs = run.finals(shares)
    expected = final_fingerprint(run, mixture, jobs, fidelity)
    if config.force:
        forget_jobs(jobs)
    if config.force or not is_done(folder / "result.json", expected):
        targets = [score_target(job) for job in jobs]
        names = [job.name for job in jobs if not job.is_done]
        to_score = targets_to_score(run, targets)
        confirm_retraining(config, jobs)
        if names or to_score:
            launch(config, "final", {"task": "train_and_score", "jobs": [("final", names)], "targets": to_score})
        add_external_scores(run, targets)
        write_outcome(run, expected)
    else:
        logger.info("final: done already")
    cost = cost_ledger(run, jobs)
    write_json(config.run_dir / "cost.json", cost)
    print_result(run.manifest, mixture, read_json(folder / "result.json"), cost)


def check_trust(run: PreparedRun, mixture: dict[str, Any], fidelity: dict[str, Any] | None) -> None:
    """Refuse a mixture that failed a trust gate, by today's thresholds and the latest `verify`.

    Raises:
        ConfigError: if a gate failed and `accept_untrusted` is not set.
    """
    trust = judge(run, mixture.get("proxy", "merge"), mixture.get("cross_validation"), fidelity)
    failed = [f"{gate['name']}: {gate['reason']}" for gate in trust["gates"] if gate["passed"] is False]
    if not failed:
        return
    text = f"the mixture failed {len(failed)} of {len(trust['gates'])} trust gates: {'; '.join(failed)}"
    if not run.config.accept_untrusted:
        raise ConfigError(f"{text}. Set accept_untrusted=true to train on it anyway")
    logger.warning("final: %s (accept_untrusted=true)", text)


def write_blend(run: PreparedRun, data_shares: dict[str, float]) -> None:
    """Write Megatron's blend files: `blend.txt` for --data-path, `blend.json` for --per-split-data-args-path.

    NeMo's `PreTrainingDataModule(paths=...)` takes the same list.
    """
    manifest = run.manifest
    shares = {name: share for name, share in data_shares.items() if share > 0}
    train = blend_paths(shares, manifest, "train")
    splits = {"train": train}
    if all(manifest.datasets[name].heldout_prefix for name in shares):
        splits |= dict.fromkeys(("valid", "test"), blend_paths(shares, manifest, "heldout"))
    folder = run.folder / "final"
    write_json(folder / "blend.json", splits)
    write_text(folder / "blend.txt", " ".join(train) + "\n")
