"""What a proxy is to the search, and the one model, suite and line of command that all kinds of proxies share."""

import contextlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import DemixConfig
from nemo_demix.errors import ScoreError
from nemo_demix.runtime.model import build_model
from nemo_demix.runtime.ranks import Ranks
from nemo_demix.scoring.suite import Suite, build_suite

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What one proxy gave and cost."""

    bits_R: np.ndarray  # float64, of every request of the suite
    merge_time_s: float
    score_time_s: float
    train_time_s: float = 0.0  # these two: proxies that are really trained
    num_tokens: int = 0


class Proxies(Protocol):
    """Stand-ins for models trained on mixtures: weights in, scores out.

    Rank 0 calls `announce` and `evaluate`; the other ranks call `serve` and follow until rank 0 calls `close`.
    """

    kind: str  # merge | predictions | trained

    @property
    def suite(self) -> Suite:
        """What proxies are scored on."""

    def announce(self, mixtures: Sequence[Mapping[str, float]]) -> None:
        """Say which mixtures come next; on rank 0."""

    def evaluate(self, weights: Mapping[str, float]) -> Evaluation:
        """Make and score the proxy of one mixture; on rank 0.

        Raises:
            ScoreError: if this proxy cannot be made or scored; the others still can.
        """

    def serve(self) -> None:
        """Follow rank 0 until it closes; on every other rank."""

    def close(self) -> None:
        """Release the other ranks; on rank 0. A second call does nothing."""


class LiveModel:
    """One model and one suite on a set of ranks, and the calls of rank 0 that the other ranks repeat.

    Several kinds of proxies share it, so that no rank holds two models.

    Args:
        uses: Of the benchmarks to score on, see `build_suite`; None: all.
    Collective: the first use of `model`; every `call`.
    Memory: one shard of the model, from the first use of `model` until `release`.
    """

    def __init__(
        self, config: DemixConfig, manifest: DataManifest, ranks: Ranks, uses: Collection[str] | None = None
    ) -> None:
        self.ranks = ranks
        self.uses = uses
        self.suite: Suite = build_suite(config.suite, manifest, uses)
        self.keep = False  # someone has views into the parameters
        self._config, self._manifest = config, manifest
        self._model: torch.nn.Module | None = None
        self._actions: dict[str, Callable[[Any], Any]] = {}
        self._closed = False

    @property
    def model(self) -> torch.nn.Module:
        """This rank's part of the model; what its weights are is up to the one who uses it."""
        if self._model is None:
            self._model = build_model(self._config, self._manifest)
        return self._model

    def release(self) -> None:
        """Make room for a training run, unless someone has views into the parameters."""
        if not self.keep:
            self._model = None

    def register(self, name: str, action: Callable[[Any], Any]) -> None:
        """Give a collective action its name; on every rank."""
        assert name not in self._actions, f"two kinds of proxies want to be {name}"
        self._actions[name] = action

    def call(self, name: str, argument: Any) -> Any:
        """Do a registered action on all ranks; on rank 0, which gets its result."""
        _broadcast((name, argument))
        return self._actions[name](argument)

    def serve(self) -> None:
        """Repeat what rank 0 calls, until it closes; on every other rank."""
        while (message := _broadcast(None)) is not None:
            name, argument = message
            with contextlib.suppress(ScoreError):  # every rank finds the same; rank 0 records it
                self._actions[name](argument)

    def close(self) -> None:
        """End `serve` on the other ranks; on rank 0. A second call does nothing."""
        if not self._closed:
            _broadcast(None)
        self._closed = True


class OnLiveModel:
    """The part of `Proxies` that every kind over a live model has in common."""

    def __init__(self, live: LiveModel) -> None:
        self._live = live

    @property
    def suite(self) -> Suite:
        """What proxies are scored on."""
        return self._live.suite

    def serve(self) -> None:
        """Follow rank 0 until it closes; on every other rank."""
        self._live.serve()

    def close(self) -> None:
        """Release the other ranks; on rank 0. A second call does nothing."""
        self._live.close()


_Message = tuple[str, Any] | None  # an action and its argument, or the end


def _broadcast(message: _Message) -> _Message:
    """Rank 0's message, on every rank."""
    box = [message]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]
