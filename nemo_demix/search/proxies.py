"""Merged proxies as the search sees them: merge weights in, scores out, on all ranks at once."""

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import DemixConfig
from nemo_demix.errors import ScoreError
from nemo_demix.merging.live import LiveProxies
from nemo_demix.runtime.model import build_model
from nemo_demix.runtime.ranks import Ranks
from nemo_demix.scoring.evaluate import request_bits
from nemo_demix.scoring.suite import Suite, build_suite
from nemo_demix.training.jobs import TrainJob, load_model

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What one proxy cost and gave."""

    bits_R: np.ndarray
    merge_time_s: float
    score_time_s: float


class ProxyGroup:
    """The ranks of one model-parallel group, scoring one mixture at a time.

    Rank 0 calls `evaluate`; the other ranks call `serve` and follow until `close`.
    Collective: construction, and each evaluation.
    """

    def __init__(self, config: DemixConfig, manifest: DataManifest, jobs: Sequence[TrainJob], ranks: Ranks) -> None:
        started = time.monotonic()
        self._ranks = ranks
        self.suite: Suite = build_suite(config.suite, manifest)
        self._model = build_model(config, manifest)
        checkpoints = {job.name: Path(load_model(job).checkpoint) for job in jobs}
        self._proxies = LiveProxies(self._model, checkpoints)
        logger.info(
            "%d components resident (%.3f GiB a rank), suite of %d requests and %d tokens, in %.1f s",
            len(checkpoints),
            self._proxies.num_bytes / 2**30,
            len(self.suite.requests),
            self.suite.num_tokens,
            time.monotonic() - started,
        )

    def evaluate(self, merge_weights: Mapping[str, float]) -> Evaluation:
        """Merge and score one mixture; on rank 0."""
        _broadcast(dict(merge_weights))
        return self._evaluate(merge_weights)

    def serve(self) -> None:
        """Follow rank 0 until it closes; on every other rank."""
        while (merge_weights := _broadcast(None)) is not None:
            with contextlib.suppress(ScoreError):  # every rank finds the same; rank 0 records it
                self._evaluate(merge_weights)

    def close(self) -> None:
        """Release the other ranks; on rank 0."""
        _broadcast(None)

    def _evaluate(self, merge_weights: Mapping[str, float]) -> Evaluation:
        started = time.monotonic()
        self._proxies.write(merge_weights)
        merged = time.monotonic()
        bits_R = request_bits(self._model, self.suite)
        return Evaluation(bits_R, merged - started, time.monotonic() - merged)


def _broadcast(message: dict[str, float] | None) -> dict[str, float] | None:
    """Rank 0's message, on every rank."""
    box = [message]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]
