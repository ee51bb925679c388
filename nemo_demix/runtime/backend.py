"""What a back end gives: recipes, training runs and models of one framework around megatron-core.

Nothing above `runtime/` names a framework. Which one a run uses is its key `backend`; a back end is a module with the
functions of `Backend`. Importing this imports neither torch nor a framework.
"""

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import DemixConfig, ParallelConfig
from nemo_demix.errors import ConfigError, DemixError

if TYPE_CHECKING:
    import torch

    from nemo_demix.runtime.lifetime import StopRequest
    from nemo_demix.runtime.ranks import Ranks


class Diverged(RuntimeError):
    """A model's loss is no longer a number: known to every rank at the same step, since all see the reduced loss."""


@dataclass(frozen=True)
class Training:
    """One training run, as a back end is asked for it.

    Attributes:
        label: Name for people: role/name.
        folder: The model's folder, where `losses.jsonl` goes; a back end writes nothing else of it but `checkpoints`.
        blend: Megatron's data-path list.
        seed: Seed of the data order.
        save_steps: Steps that end in a checkpoint; of those that `keep_steps` does not name, only the newest is kept.
        optimizer_at_end: The last checkpoint holds the optimizer's state too, by parameter; all others do, somehow.
        source: A vetted checkpoint to take weights from; None: the recipe's initial ones.
        origin: The checkpoint that `source` stands for; nothing of it is shown to a loader that would run it.
        done_steps: Steps that this very run had done when `source` was saved; it goes on in the same data order.
        load_optimizer: Take the optimizer's state from a source that is another run's, too.
        may_diverge: A loss that is no number ends the run on every rank at the same step, and is not a failure of ours.
    """

    label: str
    folder: Path
    checkpoints: Path
    blend: list[str]
    seed: int
    num_steps: int
    max_lr: float
    min_lr: float
    warmup_steps: int
    save_steps: tuple[int, ...]
    keep_steps: tuple[int, ...]
    optimizer_at_end: bool
    source: Path | None
    origin: Path | None
    done_steps: int
    load_optimizer: bool
    may_diverge: bool

    @property
    def losses(self) -> Path:
        """A line a step. After a resume the steps since the checkpoint stand there twice, with the same values."""
        return self.folder / "losses.jsonl"


@dataclass(frozen=True)
class Trained:
    """How a training run ended."""

    final_loss: float | None  # nats a token
    stopped_at: int | None = None  # the step that it was ended after, as it was asked to
    diverged: str | None = None  # why it was ended


class Backend(Protocol):
    """The functions that the module of a back end has."""

    def start_groups(self, parallel: ParallelConfig, ranks: "Ranks") -> None:
        """Make Megatron's process groups in the one that there is. Collective: every rank."""
        ...

    def use_cpu(self) -> None:
        """Let the framework run in this process on a machine without CUDA; before it is imported."""
        ...

    def build_model(self, config: DemixConfig, manifest: DataManifest) -> "torch.nn.Module":
        """Return this rank's part of the run's model, in evaluation mode, with weights not yet set. Collective: every
        rank.
        """
        ...

    def train(
        self,
        config: DemixConfig,
        manifest: DataManifest,
        training: Training,
        stop_request: "StopRequest",
        ranks: "Ranks",
    ) -> Trained:
        """Train one model, to its end or until it is stopped. Collective: every rank."""
        ...

    def shape_values(self, config: DemixConfig, vocab_size: int | None) -> Mapping[str, Any]:
        """Return the attributes of the recipe's model configuration that `model_shape` asks for; nothing is built."""
        ...


_MODULES = {"nemo": "nemo_demix.runtime.nemo.backend", "bridge": "nemo_demix.runtime.bridge.backend"}


def backend_errors(config: DemixConfig) -> Iterator[DemixError]:
    """Yield what a configuration asks for that no merge can be made of."""
    for key in _rounded(config.model.overrides, "model.overrides"):
        yield ConfigError(
            f"{key}: weights would be kept in FP8 or FP4, and saved as rounded to it, while components are merged from "
            "what is saved; set fp8_param_gather=false (fp4_param_gather): weights then stay in bf16, and the "
            "multiplications are what you ask for"
        )


_WEIGHTS_IN_FP8 = ("fp8_param", "fp8_params", "fp8_param_gather", "fp4_param", "fp4_param_gather")


def _rounded(value: object, key: str) -> Iterator[str]:
    """Yield the keys in nested settings by which weights are not kept in bf16."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            if name in _WEIGHTS_IN_FP8 and item:
                yield f"{key}.{name}={item}"
            else:
                yield from _rounded(item, f"{key}.{name}")


# What the fork server imports of each for the ranks.
PRELOADED = {
    "nemo": ("megatron.core", "nemo.collections.llm", "nemo_demix.runtime.nemo.training"),
    "bridge": ("nemo_demix.runtime.bridge.training",),
}


def backend_module(name: str) -> Backend:
    """Return a back end by its name; imports what of its framework it needs at once."""
    return cast(Backend, importlib.import_module(_MODULES[name]))


def backend_of(config: DemixConfig) -> Backend:
    """Return the back end of a run."""
    return backend_module(config.backend)
