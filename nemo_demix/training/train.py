"""Trains the models of a list of jobs, one after another, in one set of ranks.

Each job resumes from its last complete checkpoint, with the optimizer and in the same data order. Its record is written
last, by rank 0.
"""

import gc
import itertools
import logging
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class

from nemo_demix.artifacts import DataManifest, ModelRecord, is_done, write_json
from nemo_demix.checkpoints.checksums import write_checksums
from nemo_demix.checkpoints.identity import find_weights, is_complete
from nemo_demix.checkpoints.reader import relative_distance
from nemo_demix.checkpoints.vetted import vetted
from nemo_demix.config import DemixConfig
from nemo_demix.runtime.lifetime import StoppedEarly, StopRequest
from nemo_demix.runtime.ranks import Ranks
from nemo_demix.runtime.recipe import apply_overrides, base_recipe, checked_shape, padded_vocab_size
from nemo_demix.runtime.saving import hand_over_in_process
from nemo_demix.runtime.trackers import close_trackers, tensorboard_arguments, wandb_arguments
from nemo_demix.tokenizer import nemo_tokenizer
from nemo_demix.training.callbacks import Diverged, Progress, StepCheckpoint, from_rank_0
from nemo_demix.training.jobs import TrainJob, blend_paths, step_folder

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


def training_recipe(config: DemixConfig, manifest: DataManifest, job: TrainJob) -> Any:
    """The whole NeMo recipe of a job: its data blend, schedule, checkpoints and start.

    What it starts or resumes from it finds in `job.vetted`: see `checkpoints/vetted.py`.

    Raises:
        ConfigError: if the configuration names something the recipe does not have.
    """
    import nemo_run as run
    from nemo import lightning as nl
    from nemo.collections import llm
    from nemo.lightning.pytorch.strategies.utils import RestoreConfig

    recipe = base_recipe(config, job.folder, "nemo")
    recipe.model.config.vocab_size = padded_vocab_size(config, manifest.tokenizer)

    tokenizer_class, tokenizer_arguments = nemo_tokenizer(manifest.tokenizer)
    recipe.data = run.Config(
        llm.PreTrainingDataModule,
        paths=blend_paths(job.blend, manifest, "train", job.parts),
        split="1,0,0",  # held-out documents are files of their own; an empty split would never finish building
        seq_length=config.train.seq_length,
        global_batch_size=config.train.global_batch_size,
        micro_batch_size=config.train.micro_batch_size,
        tokenizer=run.Config(get_class(tokenizer_class), **tokenizer_arguments),
        num_workers=config.train.num_workers,
        persistent_workers=config.train.num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        index_mapping_dir=str(config.run_dir / "datasets" / "index"),  # not beside a user's own files
        seed=job.seed,
    )
    recipe.trainer.max_steps = job.num_steps
    recipe.trainer.val_check_interval = job.num_steps
    recipe.trainer.log_every_n_steps = config.train.log_every_steps
    recipe.optim.config.lr = job.max_lr
    recipe.optim.lr_scheduler.min_lr = job.min_lr
    recipe.optim.lr_scheduler.warmup_steps = job.warmup_steps
    recipe.optim.lr_scheduler.constant_steps = 0

    save_steps = {
        job.num_steps,
        *job.keep_steps,
        *range(job.checkpoint_every_steps, job.num_steps, job.checkpoint_every_steps),
    }
    recipe.log.ckpt = run.Config(
        StepCheckpoint,
        folder=str(job.checkpoints),
        save_steps=sorted(save_steps),
        keep_steps=sorted({job.num_steps, *job.keep_steps}),
        optimizer_at_end=job.save_optimizer,
    )
    recipe.log.use_datetime_version = False
    recipe.log.tensorboard, recipe.log.wandb = _trackers(config, job)
    recipe.log.update_logger_directory = False  # each has its place
    callback = run.Config(
        Progress,
        label=f"{job.role}/{job.name}",
        num_steps=job.num_steps,
        tokens_per_step=config.train.global_batch_size * config.train.seq_length,
        every_steps=config.train.log_every_steps,
        losses=str(job.folder / "losses.jsonl"),
    )
    recipe.trainer.callbacks = [*(recipe.trainer.callbacks or []), callback]

    if job.role == "proxy":
        # Megatron's own check raises on the rank whose gradient is no number, and leaves the others waiting. The loss
        # that `Progress` looks at is reduced: all ranks see a diverged proxy together, and go on with the next.
        recipe.trainer.strategy.ddp.check_for_nan_in_grad = False

    step, source = _source(job)
    start = None
    if source is not None and not step:
        # Artifacts are what `context/` names, which is run; the tokenizer is that of the data.
        start = run.Config(
            RestoreConfig, path=str(job.vetted), load_optim_state=job.load_optimizer, load_artifacts=False
        )
    recipe.resume = run.Config(
        nl.AutoResume,
        resume_from_path=str(job.vetted) if step else None,
        resume_if_exists=False,
        restore_config=start,
    )
    if step:
        logger.info("%s/%s: resuming after step %d", job.role, job.name, step)
    apply_overrides(recipe, config.model.overrides)
    checked_shape(recipe, config)
    return recipe


def _trackers(config: DemixConfig, job: TrainJob) -> tuple[Any, Any]:
    """NeMo's loggers of this model; None for one that is not asked for."""
    import nemo_run as run
    from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

    name = f"{job.role}/{job.name}"
    board, bias = tensorboard_arguments(config, name), wandb_arguments(config, name)
    return (
        None if board is None else run.Config(TensorBoardLogger, **board),
        None if bias is None else run.Config(WandbLogger, **bias),
    )


def _source(job: TrainJob) -> tuple[int, Path | None]:
    """The steps that are done, and the checkpoint to go on from: the run's own newest, or the job's start, or none."""
    step, resume = latest_checkpoint(job.checkpoints)
    return (step, resume) if resume is not None else (0, job.start)


def latest_checkpoint(folder: Path) -> tuple[int, Path | None]:
    """The newest complete checkpoint of a training run: (steps done, folder), or (0, None)."""
    found = (0, None)
    for path in sorted(folder.glob("step_*")) if folder.is_dir() else []:
        match = re.fullmatch(r"step_(\d+)", path.name)
        if match and path.is_dir() and is_complete(path):
            found = (int(match[1]), path)  # type: ignore[assignment]
    return found


def _adopt(job: TrainJob, ranks: Ranks) -> None:
    """Record a checkpoint that was brought; nothing is copied and nothing is trained."""
    assert job.adopt is not None
    if ranks.is_main:
        find_weights(job.adopt)
        _write_record(job, {}, None, 0.0)
        logger.info("%s/%s: using %s", job.role, job.name, job.adopt)
    torch.distributed.barrier()


def _train(config: DemixConfig, manifest: DataManifest, job: TrainJob, ranks: Ranks, stop_request: StopRequest) -> None:
    import fiddle as fdl
    from megatron.core.num_microbatches_calculator import destroy_num_microbatches_calculator

    started = time.monotonic()
    if ranks.is_main:
        _claim_folder(job)
        source = _source(job)[1]
        if source is not None:
            vetted(source, job.vetted)
    torch.distributed.barrier()
    recipe = training_recipe(config, manifest, job)
    if not recipe.trainer.strategy.ckpt_async_save:
        hand_over_in_process()
    task = fdl.build(recipe)
    arguments = task.keywords
    # NeMo sets this up only where it makes the process group itself.
    arguments["data"].data_sampler.setup(ranks.rank)
    saver: StepCheckpoint = arguments["log"].ckpt
    saver.stop_request = stop_request
    task()
    torch.distributed.barrier()  # every rank has read what it started from
    if ranks.is_main:
        close_trackers(arguments["trainer"].loggers)
        shutil.rmtree(job.vetted, ignore_errors=True)
    destroy_num_microbatches_calculator()
    if saver.stopped_at is not None:
        raise StoppedEarly(f"{job.role}/{job.name}: stopped after step {saver.stopped_at}, with a checkpoint")
    progress = next(callback for callback in arguments["trainer"].callbacks if isinstance(callback, Progress))
    if progress.diverged:
        raise Diverged(progress.diverged)
    if ranks.is_main:
        kept = {
            str(step * progress.tokens_per_step): str(step_folder(job.checkpoints, step).resolve())
            for step in (*job.keep_steps, job.num_steps)
        }
        for checkpoint in kept.values():
            write_checksums(Path(checkpoint))
        _write_record(job, kept, progress.final_loss, time.monotonic() - started)
    torch.distributed.barrier()
    del task, arguments, progress
    gc.collect()


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
