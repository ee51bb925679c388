"""`final`: blend files, the final run and its baselines, and what became of the prediction."""

import logging
from typing import Any

from nemo_demix.artifacts import DataManifest, fingerprint, is_done, read_json, write_json, write_text
from nemo_demix.config import DemixConfig
from nemo_demix.errors import ConfigError
from nemo_demix.launch.local import launch
from nemo_demix.scoring.scores import compare, macro
from nemo_demix.scoring.store import load_scores
from nemo_demix.scoring.suite import build_suite
from nemo_demix.search.space import baseline_shares, search_fingerprint, search_folder
from nemo_demix.stages.cost import cost_ledger
from nemo_demix.stages.models import load_manifest, score_target, targets_to_score
from nemo_demix.stages.tables import print_result
from nemo_demix.training.jobs import component_jobs, final_jobs
from nemo_demix.training.train import blend_paths

logger = logging.getLogger(__name__)
CHOSEN = "mixture"  # the final run's name among its baselines


def final_stage(config: DemixConfig) -> None:
    """Write the blend, train on it and on the baselines' from the same base, score all, and compare."""
    manifest = load_manifest(config)
    mixture_path = search_folder(config) / "mixture.json"
    if not is_done(mixture_path, search_fingerprint(config, manifest, component_jobs(config, manifest))):
        raise ConfigError(f"{mixture_path}: not there, or of another configuration; run `nemo-demix search` first")
    mixture = read_json(mixture_path)
    available = baseline_shares(config, manifest)
    for name in config.final.baselines:
        if name not in available:
            raise ConfigError(f"final.baselines: {name} is unknown; expected some of {', '.join(available)}")
    shares = {CHOSEN: mixture["data_shares"], **{name: available[name] for name in config.final.baselines}}
    folder = config.run_dir / "final"
    write_json(folder / "shares.json", shares)
    write_blend(config, manifest, mixture["data_shares"])

    jobs = final_jobs(config, manifest, shares)
    expected = fingerprint(mixture=mixture["fingerprint"], models=[job.fingerprint for job in jobs])
    result_path = folder / "result.json"
    if config.force:
        for job in jobs:
            job.record_path.unlink(missing_ok=True)
            (job.folder / "job.json").unlink(missing_ok=True)
    targets = [score_target(job) for job in jobs]
    todo = targets_to_score(config, manifest, targets)
    if config.force or todo or any(not job.is_done for job in jobs):
        names = [job.name for job in jobs]
        launch(config, "final", {"task": "train_and_score", "jobs": [("final", names)], "targets": todo})
    write_json(result_path, {**_result(config, manifest, mixture, list(shares)), "fingerprint": expected})
    write_json(config.run_dir / "cost.json", cost_ledger(config, manifest, jobs))
    print_result(manifest, mixture, read_json(result_path), read_json(config.run_dir / "cost.json"))


def write_blend(config: DemixConfig, manifest: DataManifest, data_shares: dict[str, float]) -> None:
    """Megatron's blend files: `blend.txt` for --data-path, `blend.json` for --per-split-data-args-path.

    NeMo's `PreTrainingDataModule(paths=...)` takes the same list.
    """
    shares = {name: share for name, share in data_shares.items() if share > 0}
    train = [item for name, share in shares.items() for item in (repr(share), manifest.datasets[name].train_prefix)]
    heldout = {name: manifest.datasets[name].heldout_prefix for name in shares}
    splits: dict[str, list[str]] = {"train": train}
    if all(heldout.values()):
        valid = [item for name, share in shares.items() for item in (repr(share), str(heldout[name]))]
        splits |= {"valid": valid, "test": valid}
    folder = config.run_dir / "final"
    write_json(folder / "blend.json", splits)
    write_text(folder / "blend.txt", " ".join(train) + "\n")


def _result(config: DemixConfig, manifest: DataManifest, mixture: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Final scores of every model, and the chosen one against each baseline, paired by item."""
    suite = build_suite(config.suite, manifest)
    loaded = {name: load_scores(config, f"final_{name}") for name in names}
    chosen_bits = loaded[CHOSEN][1]
    models = {
        name: {
            "capabilities": record["capabilities"],
            "macro": sum(score["score"] for score in record["capabilities"].values()) / len(record["capabilities"]),
            "scores": record["scores"],
        }
        for name, (record, _) in loaded.items()
    }
    comparisons = {name: compare(suite, chosen_bits, loaded[name][1]) for name in names if name != CHOSEN}
    first = next(iter(comparisons), None)
    return {
        "models": models,
        "chosen_minus": comparisons,
        "verdict": comparisons[first].verdict if first else "no baseline",
        "predicted": mixture["predicted"],
        "proxy": mixture["measured"],
    }
