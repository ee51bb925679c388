"""Trains the models of a list of jobs, one after another, in one set of ranks.

Each job resumes from its last complete checkpoint, with the optimizer and in the same data order. Its record is written
last, by rank 0.
"""

import gc
import itertools
import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from nemo_demix.artifacts import DataManifest, ModelRecord, is_done, read_json_lines, write_json
from nemo_demix.checkpoints.checksums import write_checksums
from nemo_demix.checkpoints.reader import relative_distance
from nemo_demix.checkpoints.saved import find_weights
from nemo_demix.checkpoints.vetted import vetted
from nemo_demix.config import DemixConfig
from nemo_demix.runtime.backend import Diverged, Training, backend_of
from nemo_demix.runtime.lifetime import StoppedEarly, StopRequest
from nemo_demix.runtime.ranks import Ranks, from_rank_0
from nemo_demix.runtime.steps import WEIGHTS_PREFIX, latest_checkpoint, outdated
from nemo_demix.training.jobs import TrainJob, blend_paths

logger = logging.getLogger(__name__)


def train_jobs(config: DemixConfig, manifest: DataManifest, jobs: Sequence[TrainJob], ranks: Ranks) -> None:
    """Train what is not done yet.

    Raises:
        Diverged: on every rank, if a loss is no longer a number; the jobs before it are done.
        StoppedEarly: on every rank, if rank 0 was told to stop; the job at hand has a checkpoint.
    Collective: every rank.
    """
    with StopRequest() as stop_request:
        for job in jobs:
            # Rank 0 decides for all: a slower rank could find the record that rank 0 has just written.
            if from_rank_0(job.is_done):
                continue
            if from_rank_0(stop_request.seen):
                raise StoppedEarly(f"{job.role}/{job.name}: stopped before it")
            if job.adopt is not None:
                _adopt(job, ranks)
            else:
                _train(config, manifest, job, ranks, stop_request)


def as_training(config: DemixConfig, manifest: DataManifest, job: TrainJob) -> Training:
    """Return a job as its back end is asked for it. What it starts or resumes from it finds in `job.vetted`."""
    step, source = _source(job)
    every = job.checkpoint_every_steps
    return Training(
        label=f"{job.role}/{job.name}",
        folder=job.folder,
        checkpoints=job.checkpoints,
        blend=blend_paths(job.blend, manifest, "train", job.parts),
        seed=job.seed,
        num_steps=job.num_steps,
        max_lr=job.max_lr,
        min_lr=job.min_lr,
        warmup_steps=job.warmup_steps,
        save_steps=tuple(sorted({job.num_steps, *job.keep_steps, *range(every, job.num_steps, every)})),
        keep_steps=tuple(sorted({job.num_steps, *job.keep_steps})),
        optimizer_at_end=job.save_optimizer,
        source=None if source is None else job.vetted,
        origin=source,
        done_steps=step,
        load_optimizer=job.load_optimizer,
        may_diverge=job.role == "proxy",
    )


def _source(job: TrainJob) -> tuple[int, Path | None]:
    """Return the steps that are done, and the checkpoint to go on from: the run's own newest, or the job's start, or
    none.
    """
    step, resume = latest_checkpoint(job.checkpoints, job.backend)
    return (step, resume) if resume is not None else (0, job.start)


def _adopt(job: TrainJob, ranks: Ranks) -> None:
    """Record a checkpoint that was brought; nothing is copied and nothing is trained."""
    assert job.adopt is not None
    if ranks.is_main:
        find_weights(job.adopt)
        _write_record(job, {}, None, 0.0)
        logger.info("%s/%s: using %s", job.role, job.name, job.adopt)
    torch.distributed.barrier()


def _train(config: DemixConfig, manifest: DataManifest, job: TrainJob, ranks: Ranks, stop_request: StopRequest) -> None:
    """Train a model, or write the record of one that was killed after its last step, and lacks that alone."""
    started = time.monotonic()
    if ranks.is_main:
        _claim_folder(job)
    torch.distributed.barrier()
    training = as_training(config, manifest, job)
    # Its last checkpoint may have no optimizer to resume with.
    if from_rank_0(training.done_steps == training.num_steps):
        logger.info("%s: all its steps were done before", training.label)
        final_loss = _last_loss(training)
    else:
        final_loss = _carry_out(config, manifest, job, training, ranks, stop_request)
    if ranks.is_main:
        for path in outdated(training.checkpoints, training.num_steps, training.keep_steps, job.backend):
            shutil.rmtree(path)  # that a kill kept from being removed
        tokens_per_step = config.train.global_batch_size * config.train.seq_length
        kept = {str(step * tokens_per_step): str(job.step_folder(step).resolve()) for step in training.keep_steps}
        for checkpoint in kept.values():
            write_checksums(Path(checkpoint))
        _write_record(job, kept, final_loss, time.monotonic() - started)
    torch.distributed.barrier()
    gc.collect()


def _carry_out(
    config: DemixConfig, manifest: DataManifest, job: TrainJob, training: Training, ranks: Ranks, stop: StopRequest
) -> float | None:
    """Let the back end train; returns the last step's loss, nats a token."""
    if ranks.is_main and training.origin is not None:
        vetted(training.origin, job.vetted, WEIGHTS_PREFIX[job.backend])
    torch.distributed.barrier()
    if training.done_steps:
        logger.info("%s: resuming after step %d", training.label, training.done_steps)
    trained = backend_of(config).train(config, manifest, training, stop, ranks)
    torch.distributed.barrier()  # every rank has read what it started from
    if ranks.is_main:
        shutil.rmtree(job.vetted, ignore_errors=True)
    if trained.stopped_at is not None:
        raise StoppedEarly(f"{training.label}: stopped after step {trained.stopped_at}, with a checkpoint")
    if trained.diverged:
        raise Diverged(trained.diverged)
    return trained.final_loss


def _last_loss(training: Training) -> float | None:
    """Return the loss of the last step, as the process that made it wrote it down; None where it did not come
    to that.
    """
    rows = read_json_lines(training.losses) if training.losses.exists() else []
    return next((row["loss"] for row in reversed(rows) if row["step"] == training.num_steps), None)


def _claim_folder(job: TrainJob) -> None:
    """Make the job's folder, or keep it to resume; what another configuration trained there is moved aside."""
    if job.folder.exists() and not is_done(job.claim_path, job.fingerprint):
        numbers = itertools.count(1)
        folder = job.folder.parents[1] / "superseded"
        aside = next(path for path in (folder / f"{job.role}_{job.name}_{n}" for n in numbers) if not path.exists())
        folder.mkdir(exist_ok=True)
        job.folder.rename(aside)
        logger.info("%s/%s: its configuration changed; what was there is now %s", job.role, job.name, aside)
    claim = {"fingerprint": job.fingerprint, "blend": job.blend, "num_steps": job.num_steps, "inputs": job.inputs}
    write_json(job.claim_path, claim)


def _write_record(job: TrainJob, kept: dict[str, str], final_loss: float | None, wall_time_s: float) -> None:
    delta = relative_distance(job.checkpoint, job.start) if job.start else None
    record = ModelRecord(
        role=job.role,
        name=job.name,
        checkpoint=str(job.checkpoint),
        checkpoints=kept,
        blend=job.blend,
        num_tokens=0 if job.adopt else job.num_tokens,
        num_steps=0 if job.adopt else job.num_steps,
        start=str(job.start) if job.start else None,
        delta=delta,
        final_loss=final_loss,
        wall_time_s=round(wall_time_s, 3),
        fingerprint=job.fingerprint,
    )
    write_json(job.record_path, record)
    if delta is not None:
        logger.info("%s/%s: delta to the base %.4f", job.role, job.name, delta)
