"""`train`: the models of a role, in one set of ranks."""

import logging
from collections.abc import Sequence
from pathlib import Path

from nemo_demix.artifacts import canonical_json, read_json, write_json
from nemo_demix.config import DemixConfig
from nemo_demix.config.stages import STAGE_OF
from nemo_demix.datasets.megatron import write_part
from nemo_demix.errors import ConfigError
from nemo_demix.fidelity.references import Reference, draw_references
from nemo_demix.prepared import PreparedRun
from nemo_demix.ranks.leader import launch
from nemo_demix.search.advice import merge_warnings
from nemo_demix.search.reach import reach_warnings
from nemo_demix.stages.retraining import confirm_retraining
from nemo_demix.training.jobs import TrainJob, load_model

logger = logging.getLogger(__name__)


def train_stage(config: DemixConfig) -> None:
    """Train the models of one role, in one set of ranks."""
    if config.role not in STAGE_OF:
        raise ConfigError(f"train: role={config.role}: expected role= one of {', '.join(STAGE_OF)}")
    run = PreparedRun.open(config)
    if config.role == "reference" and not config.reference.name:
        write_references(run)
    jobs = run.jobs(config.role)
    if config.component is not None:
        jobs = [job for job in jobs if job.name == config.component]
        if not jobs:
            raise ConfigError(f"component={config.component}: expected one of {', '.join(config.datasets)}")
    if config.index is not None:
        if not 0 <= config.index < len(jobs):
            raise ConfigError(f"index={config.index}: role={config.role} has {len(jobs)} models, counted from 0")
        jobs = [jobs[config.index]]
    if config.role != "base":
        load_model(run.base)
    train_jobs_if_needed(run, [(config.role, jobs)])


def part_of(config: DemixConfig) -> str | None:
    """Return the one model that `train` was asked for, as part of the names of its lock and logs; None: more
    than one.
    """
    if config.component is None and config.index is None:
        return None
    return f"{config.role}_{config.index if config.component is None else config.component}"


def write_references(run: PreparedRun) -> list[Reference]:
    """Draw `verify`'s references, and write them to where `train role=reference` reads them."""
    references = draw_references(run)
    path = run.folder / "verify" / "references.json"
    if not path.exists() or canonical_json(read_json(path)) != canonical_json(references):
        write_json(path, references)
    return references


def train_all_components(run: PreparedRun) -> None:
    """Train the base, then every component: one set of ranks for all."""
    train_jobs_if_needed(run, [("base", [run.base]), ("component", run.components)])


def train_jobs_if_needed(run: PreparedRun, jobs: Sequence[tuple[str, Sequence[TrainJob]]]) -> None:
    """Start ranks for what is not done."""
    config = run.config
    if config.force:
        for _, some in jobs:
            forget_jobs(some)
    todo = [(role, [job.name for job in some if not job.is_done]) for role, some in jobs]
    todo = [(role, names) for role, names in todo if names]
    if not todo:
        logger.info("train: done already")
        return
    if any(role == "component" for role, _ in todo):
        for line in (*reach_warnings(run), *merge_warnings(config)):
            logger.warning("train: %s", line)
    confirm_retraining(config, [job for _, some in jobs for job in some])
    write_missing_parts(run, [job for _, some in jobs for job in some if not job.is_done])
    part = part_of(config)
    launch(config, f"train_{part}" if part else "train", {"task": "train", "jobs": todo})


def write_missing_parts(run: PreparedRun, jobs: list[TrainJob]) -> None:
    """Write the parts of datasets that these models are shown, where `components.epochs` asks for repetition."""
    for job in jobs:
        for dataset, part in job.parts.items():
            if not Path(f"{part.prefix}.idx").exists():
                whole = run.manifest.datasets[dataset]
                counts = write_part(whole.train_prefix, part.num_tokens, run.config.seed, Path(part.prefix))
                logger.info(
                    "%s/%s: is shown %d of %d documents of %s, %d tokens: components.epochs=%g",
                    job.role, job.name, counts.num_documents, whole.num_documents, dataset, counts.num_tokens,
                    run.config.components.epochs,
                )  # fmt: skip


def forget_jobs(jobs: Sequence[TrainJob]) -> None:
    """Make trained models count as not done, so that they start over."""
    for job in jobs:
        job.record_path.unlink(missing_ok=True)
        job.claim_path.unlink(missing_ok=True)
