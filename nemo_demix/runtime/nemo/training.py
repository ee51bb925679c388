"""One training run through NeMo's pretrain function."""

from typing import Any

import fiddle as fdl
import torch
from hydra.utils import get_class
from megatron.core.num_microbatches_calculator import destroy_num_microbatches_calculator

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import DemixConfig
from nemo_demix.runtime.backend import Trained, Training
from nemo_demix.runtime.lifetime import StopRequest
from nemo_demix.runtime.nemo.callbacks import StepCheckpoint, StepReport
from nemo_demix.runtime.nemo.recipe import base_recipe, checked_shape
from nemo_demix.runtime.ranks import Ranks
from nemo_demix.runtime.recipe import apply_overrides, padded_vocab_size
from nemo_demix.runtime.saving import hand_over_in_process
from nemo_demix.runtime.trackers import close_trackers, tensorboard_arguments, wandb_arguments
from nemo_demix.tokenizer import nemo_tokenizer


def train(
    config: DemixConfig, manifest: DataManifest, training: Training, stop_request: StopRequest, ranks: Ranks
) -> Trained:
    """Train one model by NeMo's own pretrain function, see `Backend.train`."""
    recipe = training_recipe(config, manifest, training)
    if not recipe.trainer.strategy.ckpt_async_save:
        hand_over_in_process()
    task = fdl.build(recipe)
    arguments = task.keywords
    # NeMo sets this up only where it makes the process group itself.
    arguments["data"].data_sampler.setup(ranks.rank)
    saver: StepCheckpoint = arguments["log"].ckpt
    saver.stop_request = stop_request
    task()
    if ranks.is_main:
        close_trackers(arguments["trainer"].loggers)
    destroy_num_microbatches_calculator()
    pace = next(one.pace for one in arguments["trainer"].callbacks if isinstance(one, StepReport))
    return Trained(pace.final_loss, saver.stopped_at, pace.diverged)


def training_recipe(config: DemixConfig, manifest: DataManifest, training: Training) -> Any:
    """Return the whole NeMo recipe of a training run: its data blend, schedule, checkpoints and start.

    Raises:
        ConfigError: if the configuration names something the recipe does not have.
    """
    import nemo_run as run
    from nemo import lightning as nl
    from nemo.collections import llm
    from nemo.lightning.pytorch.strategies.utils import RestoreConfig

    recipe = base_recipe(config, training.folder, "nemo")
    recipe.model.config.vocab_size = padded_vocab_size(config, manifest.tokenizer)

    tokenizer_class, tokenizer_arguments = nemo_tokenizer(manifest.tokenizer)
    recipe.data = run.Config(
        llm.PreTrainingDataModule,
        paths=training.blend,
        split="1,0,0",  # held-out documents are files of their own; an empty split would never finish building
        seq_length=config.train.seq_length,
        global_batch_size=config.train.global_batch_size,
        micro_batch_size=config.train.micro_batch_size,
        tokenizer=run.Config(get_class(tokenizer_class), **tokenizer_arguments),
        num_workers=config.train.num_workers,
        persistent_workers=config.train.num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        index_mapping_dir=str(config.run_dir / "datasets" / "index"),  # not beside a user's own files
        seed=training.seed,
    )
    recipe.trainer.max_steps = training.num_steps
    recipe.trainer.val_check_interval = training.num_steps
    recipe.trainer.log_every_n_steps = config.train.log_every_steps
    recipe.optim.config.lr = training.max_lr
    recipe.optim.lr_scheduler.min_lr = training.min_lr
    recipe.optim.lr_scheduler.warmup_steps = training.warmup_steps
    recipe.optim.lr_scheduler.constant_steps = 0

    recipe.log.ckpt = run.Config(
        StepCheckpoint,
        folder=str(training.checkpoints),
        save_steps=list(training.save_steps),
        keep_steps=list(training.keep_steps),
        optimizer_at_end=training.optimizer_at_end,
    )
    # What is kept for others is kept by parameter; the distributed optimizer's own buffers are of this layout alone.
    recipe.trainer.strategy.ckpt_optim_fully_reshardable = training.optimizer_at_end
    recipe.log.use_datetime_version = False
    recipe.log.tensorboard, recipe.log.wandb = _trackers(config, training.label)
    recipe.log.update_logger_directory = False  # each has its place
    callback = run.Config(
        StepReport,
        label=training.label,
        num_steps=training.num_steps,
        tokens_per_step=config.train.global_batch_size * config.train.seq_length,
        every_steps=config.train.log_every_steps,
        losses=str(training.losses),
    )
    recipe.trainer.callbacks = [*(recipe.trainer.callbacks or []), callback]

    if training.may_diverge:
        # Megatron's own check raises on the rank whose gradient is no number, and leaves the others waiting. The loss
        # that `StepReport` looks at is reduced: all ranks see a diverged proxy together, and go on with the next.
        recipe.trainer.strategy.ddp.check_for_nan_in_grad = False

    start = None
    if training.source is not None and not training.done_steps:
        # Artifacts are what `context/` names, which is run; the tokenizer is that of the data.
        start = run.Config(
            RestoreConfig, path=str(training.source), load_optim_state=training.load_optimizer, load_artifacts=False
        )
    recipe.resume = run.Config(
        nl.AutoResume,
        resume_from_path=str(training.source) if training.done_steps else None,
        resume_if_exists=False,
        restore_config=start,
    )
    apply_overrides(recipe, config.model.overrides)
    checked_shape(recipe, config)
    return recipe


def _trackers(config: DemixConfig, name: str) -> tuple[Any, Any]:
    """Return NeMo's loggers of this model; None for one that is not asked for."""
    import nemo_run as run
    from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

    board, bias = tensorboard_arguments(config, name), wandb_arguments(config, name)
    return (
        None if board is None else run.Config(TensorBoardLogger, **board),
        None if bias is None else run.Config(WandbLogger, **bias),
    )
