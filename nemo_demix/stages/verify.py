"""`verify`: models really trained on mixtures drawn at random, and how well proxies order those mixtures."""

import logging
from collections.abc import Sequence

from nemo_demix.artifacts import (
    ModelRecord,
    fingerprint,
    is_done,
    load_record,
    read_json,
    write_json,
)
from nemo_demix.config import DemixConfig
from nemo_demix.errors import ConfigError, refuse
from nemo_demix.fidelity.record import fidelity_path
from nemo_demix.fidelity.references import Reference, jobs_of, verify_errors
from nemo_demix.fidelity.report import Measured, fidelity_report
from nemo_demix.prepared import PreparedRun
from nemo_demix.ranks.groups import RankGroups
from nemo_demix.ranks.leader import launch
from nemo_demix.scoring.store import ScoreTarget, model_scores
from nemo_demix.search.identity import proxy_identity
from nemo_demix.search.proxy_row import ProxyRow
from nemo_demix.search.score_log import ScoreLog
from nemo_demix.search.search import run_mixtures
from nemo_demix.stages.external import add_external_scores
from nemo_demix.stages.fidelity_tables import print_fidelity
from nemo_demix.stages.identity import proxy_kinds, verify_fingerprint
from nemo_demix.stages.models import forget_jobs, write_references
from nemo_demix.stages.score import score_target, targets_to_score
from nemo_demix.training.jobs import (
    TrainJob,
    load_model,
    reference_settings,
)

logger = logging.getLogger(__name__)


def verify_stage(config: DemixConfig) -> None:
    """Train and score what is missing, and report.

    References trained before are reused, whatever was drawn with them. `force=true` trains and scores the references
    again; proxies scored before stay, as they depend on the components alone.
    """
    refuse(verify_errors(config))
    run = PreparedRun.open(config)
    records = [load_model(job) for job in run.components]
    references = write_references(run)
    jobs = jobs_of(run, references)
    if not config.force:
        for job in jobs:
            check_reference(job)

    expected = verify_fingerprint(run, jobs)
    if not config.force and is_done(fidelity_path(config), expected):
        logger.info("verify: done already")
    else:
        measured = measure(run, references, jobs)
        report = fidelity_report(config, run.manifest, measured, records)
        report["components"] = {job.name: job.fingerprint for job in run.components}
        report["fingerprint"] = expected
        write_json(fidelity_path(config), report)
    print_fidelity(read_json(fidelity_path(config)))


def check_reference(job: TrainJob) -> None:
    """Refuse a reference of this mixture that was trained otherwise, rather than training hours again unasked.

    One of another mixture is another model that happens to have the name: training keeps it in `models/superseded/`.

    Raises:
        ConfigError: if the record has this mixture and another fingerprint.
    """
    if job.is_done or not job.record_path.exists():
        return
    record = load_record(job.record_path, ModelRecord)
    if record.blend == job.blend:
        raise ConfigError(
            f"{job.record_path}: expected a reference of this run's base, budget and verify.trained_shares "
            f"(fingerprint {job.fingerprint}), found one of others ({record.fingerprint}, started from "
            f"{record.start}); restore these, move {job.folder.parent} away, or train all again with force=true"
        )


def measure(run: PreparedRun, references: Sequence[Reference], jobs: Sequence[TrainJob]) -> Measured:
    """Train the references, score them, their earlier checkpoints and the proxies of their mixtures: what is missing.

    No rank is started where nothing is missing.
    """
    config = run.config
    ends = {job.name: score_target(job) for job in jobs}
    trained = trained_targets(config, references, jobs)
    targets = [*ends.values(), *(target for group in trained.values() for target in group.values())]
    mixtures = {reference.mixture: reference.merge_weights for reference in references}

    def rows(kind: str) -> dict[str, ProxyRow | None]:
        log = ScoreLog(config.run_dir / "scores" / "proxies.jsonl", proxy_identity(run, kind))
        return {name: log.find(weights) for name, weights in mixtures.items()}

    if config.force:
        forget_jobs(jobs)
    names = [job.name for job in jobs if not job.is_done]
    to_score = targets_to_score(run, targets)
    kinds = [kind for kind in proxy_kinds(config) if None in rows(kind).values()]
    if names or to_score:
        launch(config, "verify", {"task": "train_and_score", "jobs": [("reference", names)], "targets": to_score})
    add_external_scores(run, targets)
    if kinds:
        with RankGroups.of_proxies(config, "verify_proxies") as groups:
            for kind in kinds:
                run_mixtures(run, mixtures, kind, groups)
    return Measured(
        references,
        {name: model_scores(target.record_path(config)) for name, target in ends.items()},
        {
            tokens: {name: model_scores(target.record_path(config)) for name, target in group.items()}
            for tokens, group in trained.items()
        },
        {kind: {name: row for name, row in rows(kind).items() if row is not None} for kind in proxy_kinds(config)},
    )


def trained_targets(
    config: DemixConfig, references: Sequence[Reference], jobs: Sequence[TrainJob]
) -> dict[int, dict[str, ScoreTarget]]:
    """Return the references' earlier checkpoints, which serve as proxies trained on fewer tokens: by tokens and
    mixture.

    Raises:
        ConfigError: if a share comes to all steps of a reference.
    """
    budget = reference_settings(config).num_tokens
    targets: dict[int, dict[str, ScoreTarget]] = {}
    for reference, job in zip(references, jobs, strict=True):
        if reference.name != reference.mixture:  # another seed of it: measures noise only
            continue
        per_step = job.num_tokens // job.num_steps
        for share in config.verify.trained_shares:
            step = max(1, round(round(share * budget) / per_step))  # as the job was told to keep
            if step >= job.num_steps:
                raise ConfigError(f"verify.trained_shares: {share} is all {job.num_steps} steps of a reference")
            tokens = step * per_step
            model = fingerprint(model=job.fingerprint, tokens=tokens)
            target = ScoreTarget(f"reference_{job.name}_at_{tokens}", job.step_folder(step).resolve(), model)
            targets.setdefault(tokens, {})[reference.mixture] = target
    return targets
