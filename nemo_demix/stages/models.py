"""`train` and `score`: models, one way or the other."""

import logging
from pathlib import Path
from typing import Any

from nemo_demix.artifacts import DataManifest, canonical_json, is_done, read_json, write_json
from nemo_demix.checkpoints.identity import checkpoint_identity
from nemo_demix.config import DemixConfig
from nemo_demix.datasets.identity import expected_fingerprint
from nemo_demix.errors import ConfigError
from nemo_demix.fidelity.references import Reference, draw_references
from nemo_demix.launch.groups import RankGroups
from nemo_demix.launch.leader import launch
from nemo_demix.launch.placement import search_groups
from nemo_demix.mixture import load_mixtures
from nemo_demix.scoring.store import ScoreTarget
from nemo_demix.search.run import run_mixtures
from nemo_demix.stages.external import add_external_scores
from nemo_demix.training.jobs import TrainJob, base_job, component_jobs, load_model, select_jobs

logger = logging.getLogger(__name__)
ROLES = ("base", "component", "reference", "final")


def load_manifest(config: DemixConfig) -> DataManifest:
    """What `prepare` made of this configuration.

    Raises:
        ConfigError: if it has not run, or made something else.
    """
    path = config.run_dir / "datasets" / "manifest.json"
    if not is_done(path, expected_fingerprint(config)):
        stale = "was made from other sources or settings" if path.exists() else "does not exist yet"
        raise ConfigError(f"{path}: {stale}; run `nemo-demix prepare` (or `nemo-demix run`) with this recipe first")
    return DataManifest.load(path)


def train_stage(config: DemixConfig) -> None:
    """Train the models of one role, in one set of ranks."""
    if config.role not in ROLES:
        raise ConfigError(f"train: role={config.role}: expected role= one of {', '.join(ROLES)}")
    manifest = load_manifest(config)
    if config.role == "reference" and not config.reference.name:
        write_references(config, manifest)
    jobs = select_jobs(config, manifest, config.role, None)
    if config.component is not None:
        jobs = [job for job in jobs if job.name == config.component]
        if not jobs:
            raise ConfigError(f"component={config.component}: expected one of {', '.join(config.datasets)}")
    if config.index is not None:
        if not 0 <= config.index < len(jobs):
            raise ConfigError(f"index={config.index}: role={config.role} has {len(jobs)} models, counted from 0")
        jobs = [jobs[config.index]]
    if config.role != "base":
        load_model(base_job(config, manifest))
    train_jobs_if_needed(config, [(config.role, jobs)])


def part_of(config: DemixConfig) -> str | None:
    """The one model that `train` was asked for, as part of the names of its lock and logs; None: more than one."""
    if config.component is None and config.index is None:
        return None
    return f"{config.role}_{config.index if config.component is None else config.component}"


def write_references(config: DemixConfig, manifest: DataManifest) -> list[Reference]:
    """Draw `verify`'s references, and write them to where `train role=reference` reads them."""
    references = draw_references(config, manifest)
    path = config.run_dir / "verify" / "references.json"
    if not path.exists() or canonical_json(read_json(path)) != canonical_json(references):
        write_json(path, references)
    return references


def train_all_components(config: DemixConfig, manifest: DataManifest) -> None:
    """The base, then every component: one set of ranks for all."""
    base, components = base_job(config, manifest), component_jobs(config, manifest)
    train_jobs_if_needed(config, [("base", [base]), ("component", components)])


def train_jobs_if_needed(config: DemixConfig, jobs: list[tuple[str, list[TrainJob]]]) -> None:
    """Start ranks for what is not done."""
    if config.force:
        for _, group in jobs:
            forget_jobs(group)
    todo = [(role, [job.name for job in group if not job.is_done]) for role, group in jobs]
    todo = [(role, names) for role, names in todo if names]
    if not todo:
        logger.info("train: done already")
        return
    part = part_of(config)
    launch(config, f"train_{part}" if part else "train", {"task": "train", "jobs": todo})


def forget_jobs(jobs: list[TrainJob]) -> None:
    """Make trained models count as not done, so that they start over."""
    for job in jobs:
        job.record_path.unlink(missing_ok=True)
        job.claim_path.unlink(missing_ok=True)


def score_stage(config: DemixConfig) -> None:
    """Score one checkpoint, a file of mixtures, or (given neither) the base and the components."""
    manifest = load_manifest(config)
    if config.score.mixtures is not None:
        components = component_jobs(config, manifest)
        mixtures = load_mixtures(Path(config.score.mixtures), [job.name for job in components])
        for job in components:
            load_model(job)
        kind = "predictions" if config.search.proxy == "predictions" else "merge"
        with RankGroups(config, "score", search_groups(config)) as groups:
            run_mixtures(config, manifest, components, mixtures, kind, groups)
        return
    if config.score.checkpoint is not None:
        path = Path(config.score.checkpoint)
        targets = [ScoreTarget(config.score.name or path.name, path, checkpoint_identity(path))]
    else:
        targets = [score_target(job) for job in (base_job(config, manifest), *component_jobs(config, manifest))]
    todo = targets_to_score(config, manifest, targets)
    if all(target.is_done(config, manifest) for target in targets):
        logger.info("score: done already")
        return
    if todo:
        launch(config, "score", {"task": "score", "targets": todo})
    add_external_scores(config, manifest, targets)


def score_target(job: TrainJob) -> ScoreTarget:
    """A trained model as something to score."""
    return ScoreTarget(f"{job.role}_{job.name}", job.checkpoint, job.fingerprint)


def targets_to_score(config: DemixConfig, manifest: DataManifest, targets: list[ScoreTarget]) -> list[dict[str, Any]]:
    """Those that ranks have not scored yet, as a task's plain values."""
    if config.force:
        for target in targets:
            target.forget(config)
    return [
        {"name": target.name, "checkpoint": str(target.checkpoint), "model_fingerprint": target.model_fingerprint}
        for target in targets
        if target.needs_ranks(config, manifest)
    ]
