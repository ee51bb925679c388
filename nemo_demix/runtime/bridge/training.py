"""One training run through Megatron-Bridge's pretrain function."""

import io
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from megatron.bridge.training.callbacks import Callback, CallbackContext
from megatron.bridge.training.gpt_step import forward_step
from megatron.bridge.training.pretrain import pretrain
from megatron.bridge.training.utils.checkpoint_utils import read_run_config, read_train_state
from megatron.core import parallel_state
from megatron.core.datasets.utils import get_blend_from_list

from nemo_demix.artifacts import DataManifest, write_bytes, write_text
from nemo_demix.checkpoints.common_state import load_plain
from nemo_demix.checkpoints.files import read_file
from nemo_demix.checkpoints.layouts import locate
from nemo_demix.checkpoints.layouts.training_folder import RUN_CONFIG
from nemo_demix.config import DemixConfig
from nemo_demix.errors import CheckpointError
from nemo_demix.model_shape import shape_of
from nemo_demix.plain_yaml import parse_yaml
from nemo_demix.runtime.backend import Trained, Training
from nemo_demix.runtime.bridge.recipe import base_recipe, override, tokenizer_config, values_of
from nemo_demix.runtime.lifetime import StopRequest
from nemo_demix.runtime.pace import Pace
from nemo_demix.runtime.ranks import Ranks, from_rank_0
from nemo_demix.runtime.recipe import check_shape, padded_vocab_size
from nemo_demix.runtime.saving import hand_over_in_process
from nemo_demix.runtime.steps import latest_checkpoint, outdated
from nemo_demix.runtime.trackers import tensorboard_folder

logger = logging.getLogger(__name__)
_TRAIN_STATE = "train_state.pt"


def train(
    config: DemixConfig, manifest: DataManifest, training: Training, stop_request: StopRequest, ranks: Ranks
) -> Trained:
    """Train one model by Bridge's own pretrain function, see `Backend.train`.

    Raises:
        ConfigError: if the configuration asks for what this back end does not have.
        CheckpointError: if what a run is resumed from is damaged.
    """
    recipe = training_recipe(config, manifest, training)
    if training.source is not None and ranks.is_main:
        _complete(training)
    torch.distributed.barrier()
    for remembered in (read_run_config, read_train_state):  # by the path, which says another thing now
        remembered.cache_clear()
    if not recipe.checkpoint.async_save:
        hand_over_in_process()
    tokens_per_step = config.train.global_batch_size * config.train.seq_length
    every = config.train.log_every_steps
    pace = Pace(training.label, training.num_steps, tokens_per_step, every, training.losses)
    steps = Steps(training, pace, stop_request, ranks.is_main)
    with _groups_kept(), _wandb_settings(config):
        pretrain(recipe, forward_step, callbacks=[steps])
    return Trained(pace.final_loss, steps.stopped_at, pace.diverged)


def training_recipe(config: DemixConfig, manifest: DataManifest, training: Training) -> Any:
    """Return the whole `ConfigContainer` of a training run: its data blend, schedule, checkpoints and start.

    Raises:
        ConfigError: if the configuration names something the recipe does not have.
    """
    recipe = base_recipe(config)
    recipe.model.vocab_size, recipe.model.should_pad_vocab = padded_vocab_size(config, manifest.tokenizer), False
    recipe.tokenizer = tokenizer_config(manifest.tokenizer)

    data = recipe.dataset
    data.blend, data.blend_per_split, data.data_path = get_blend_from_list(training.blend), None, None
    data.split = "1,0,0"  # held-out documents are files of their own; an empty split would never finish building
    data.path_to_cache = str(config.run_dir.absolute() / "datasets" / "index")  # not beside a user's own files
    data.random_seed = training.seed
    data.num_workers, data.persistent_workers = config.train.num_workers, config.train.num_workers > 0
    data.pin_memory = torch.cuda.is_available()

    train, schedule = recipe.train, recipe.scheduler
    train.train_iters, train.train_samples = training.num_steps, None
    train.global_batch_size = config.train.global_batch_size
    train.micro_batch_size = config.train.micro_batch_size
    recipe.validation.eval_iters, recipe.validation.eval_interval = 0, None
    recipe.optimizer.lr, recipe.optimizer.min_lr = training.max_lr, training.min_lr
    schedule.lr_warmup_iters, schedule.lr_warmup_fraction = training.warmup_steps, None
    schedule.lr_decay_iters, schedule.lr_wsd_decay_iters = training.num_steps, None

    saving = recipe.checkpoint
    saving.save, saving.save_interval = str(training.checkpoints.absolute()), training.num_steps
    saving.save_optim, saving.save_rng, saving.load_rng = True, False, False  # the data order is by its seed
    # What is kept for others is kept by parameter; the distributed optimizer's own buffers are of this layout alone.
    saving.dist_ckpt_optim_fully_reshardable = training.optimizer_at_end
    start = None if training.source is None else str(training.source / "weights")
    # Bridge resumes with the optimizer, and starts a run of its own from weights alone.
    saving.load, saving.pretrained_checkpoint = (start, None) if _has_optimizer(training) else (None, start)
    saving.finetune = saving.pretrained_checkpoint is not None
    if training.load_optimizer and not training.done_steps:
        schedule.override_opt_param_scheduler = True
    # All ranks see a loss that is no number together, by its reduced value; this check would end one of them.
    recipe.rerun_state_machine.check_for_nan_in_loss = False
    if training.may_diverge:
        recipe.ddp.check_for_nan_in_grad = False

    _set_trackers(recipe.logger, config, training.label)
    override(recipe, config.model.overrides)
    check_shape(shape_of(values_of(recipe)), config)
    return recipe


def _set_trackers(settings: Any, config: DemixConfig, name: str) -> None:
    """Set Bridge's own loggers of a model, for what `track` asks for. On the last rank, which alone has the loss."""
    folder, project = tensorboard_folder(config), config.track.wandb_project
    settings.log_interval = settings.tensorboard_log_interval = config.train.log_every_steps
    settings.skip_train_metrics_log = folder is None and project is None  # `Pace` says it
    settings.log_throughput_to_tensorboard = not settings.skip_train_metrics_log
    settings.tensorboard_dir = None if folder is None else str(folder / name)
    settings.wandb_project, settings.wandb_exp_name = project, f"{config.name}/{name}"
    settings.wandb_save_dir = str(config.run_dir.absolute())


def _has_optimizer(training: Training) -> bool:
    """Return whether the optimizer's state is taken from what a run goes on from."""
    return training.source is not None and bool(training.done_steps or training.load_optimizer)


class Steps(Callback):  # type: ignore[misc]
    """Decides after each step whether it is saved and whether the run goes on, by Bridge's own settings.

    Bridge saves where the step is a multiple of `save_interval`, and ends after `train_iters`; it reads both at each
    step. An interval of the step itself saves it; 0 saves nothing. So kept token counts need not be periodic, a run
    that is told to stop saves at the step it is at, and nothing is saved of a model that has diverged.

    Attributes:
        stopped_at: The step that the run was ended after, if it was.
    """

    def __init__(self, training: Training, pace: Pace, stop_request: StopRequest, is_main: bool) -> None:
        self.stopped_at: int | None = None
        self._training, self._pace = training, pace
        self._stop_request, self._is_main = stop_request, is_main

    def on_train_start(self, context: CallbackContext) -> None:
        """Begin the schedule anew where only the optimizer is another run's."""
        if self._training.load_optimizer and not self._training.done_steps:
            assert context.scheduler is not None
            context.scheduler.num_steps = 0
            context.scheduler.step(0)

    def on_train_step_end(self, context: CallbackContext) -> None:
        """Note the step, and decide whether it is saved and whether the run goes on. Collective: every rank."""
        training, settings = self._training, context.state.cfg
        step = context.state.train_state.step + 1  # it is counted after this
        self._pace.step(step, _reduced_loss(context), self._is_main)
        stops = step < training.num_steps and from_rank_0(self._stop_request.seen)
        settings.checkpoint.save_interval = step if step in training.save_steps or stops else 0
        if step == training.num_steps:
            settings.checkpoint.save_optim = training.optimizer_at_end
        if self._pace.diverged:
            settings.checkpoint.save_interval = 0
        if self._pace.diverged or stops:
            settings.train.train_iters = step
            self.stopped_at = None if self._pace.diverged else step

    def on_checkpoint_save(self, context: CallbackContext) -> None:
        """Remove what was only for resuming, and lies before the newest."""
        if self._is_main:
            newest = latest_checkpoint(self._training.checkpoints, "bridge")[0]
            for path in outdated(self._training.checkpoints, newest, self._training.keep_steps, "bridge"):
                shutil.rmtree(path)


def _reduced_loss(context: CallbackContext) -> float:
    """Return the last step's loss, over all ranks, nats a token. The last pipeline stage has it, and tells
    the others.
    """
    losses = context.loss_dict or {}
    if parallel_state.get_pipeline_model_parallel_world_size() == 1:
        return float(losses["lm loss"])
    device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    box = torch.tensor(float(losses["lm loss"]) if losses else 0.0, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(box, group=parallel_state.get_pipeline_model_parallel_group())
    return float(box)


@contextmanager
def _groups_kept() -> Iterator[None]:
    """Have Megatron's process groups outlive a training run: Bridge forgets them at its end, without closing them.

    Made anew for each model of a stage, they would add up, and with them the memory of NCCL.
    """
    kept = {name: value for name, value in vars(parallel_state).items() if name.startswith("_") and name.isupper()}
    try:
        yield
    finally:
        vars(parallel_state).update(kept)


@contextmanager
def _wandb_settings(config: DemixConfig) -> Iterator[None]:
    """Set what Bridge does not pass to Weights & Biases, which reads it from the environment: group and mode."""
    before = dict(os.environ)
    os.environ["WANDB_RUN_GROUP"] = config.name
    if config.track.wandb_mode == "offline":
        os.environ["WANDB_MODE"] = "offline"
    try:
        yield
        if config.track.wandb_project is not None:
            import wandb

            wandb.teardown()  # a run that has finished may still be written, by a process that ends with this one
    finally:
        for name in ("WANDB_RUN_GROUP", "WANDB_MODE"):
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)


def _complete(training: Training) -> None:
    """Put what Bridge's loader reads beside a vetted checkpoint's weights: its own, as plain values.

    A checkpoint of another framework gets what says that there is nothing but weights.
    """
    assert training.source is not None
    assert training.origin is not None
    weights = training.source / "weights"
    sizes: dict[str, Any] = {"tensor_model_parallel_size": 1, "pipeline_model_parallel_size": 1}
    goes_on = _has_optimizer(training)
    if goes_on:
        origin = locate(training.origin).weights
        sizes = _parallel_sizes(origin, list(sizes))
        state = _train_state(origin)
        if not training.done_steps:
            state = {name: torch.zeros_like(value) for name, value in state.items()}
            _set_rates(weights / "common.pt", training)
        box = io.BytesIO()
        torch.save(state, box)
        write_bytes(weights / _TRAIN_STATE, box.getvalue())
    lines = ["model:", *(f"  {name}: {size}" for name, size in sizes.items())]
    lines += [
        "checkpoint:",
        "  save_rng: false",
        f"  save_optim: {str(goes_on).lower()}",
        "  fully_parallel_save: true",
    ]
    write_text(weights / RUN_CONFIG, "\n".join([*lines, ""]))


def _parallel_sizes(origin: Path, names: list[str]) -> dict[str, Any]:
    path = origin / RUN_CONFIG
    try:
        settings = parse_yaml(read_file(origin, path), unknown_tags=True)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: not found; an optimizer's state (load_optimizer=true) is taken over from Megatron-Bridge's own "
            "checkpoints alone. Leave load_optimizer out, or start from one"
        ) from None
    model = settings.get("model", {}) if isinstance(settings, dict) else {}
    found = {name: model.get(name) for name in names}
    if not all(type(size) is int for size in found.values()):
        raise CheckpointError(f"{path}: expected its model's {', '.join(names)}, found {found}")
    return found


def _train_state(origin: Path) -> dict[str, torch.Tensor]:
    path = origin / _TRAIN_STATE
    try:
        state: dict[str, torch.Tensor] = load_plain(read_file(origin, path), path)
        if not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise ValueError("other values than tensors")
    except Exception as error:  # many kinds; nothing of it was run
        raise CheckpointError(f"{path}: expected Megatron-Bridge's train state ({error})") from None
    return state


def _set_rates(common: Path, training: Training) -> None:
    """Put the run's own learning rates into the optimizer's groups of parameters, which are found by them.

    Args:
        common: A vetted checkpoint's, of plain values.
    """
    state = load_plain(common.read_bytes(), common)
    waiting = [state.get("optimizer")]
    while waiting:
        item = waiting.pop()
        if not isinstance(item, dict):
            continue
        for group in item.get("param_groups", []):
            if not group.get("is_decoupled_lr"):
                group |= {"max_lr": training.max_lr, "min_lr": training.min_lr}
        waiting += item.values()
    box = io.BytesIO()
    torch.save(state, box)
    write_bytes(common, box.getvalue())
