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
from nemo_demix.merging.methods import build_method
from nemo_demix.runtime.model import build_model
from nemo_demix.runtime.ranks import Ranks
from nemo_demix.scoring.evaluate import request_bits
from nemo_demix.scoring.suite import Suite, build_suite
from nemo_demix.training.jobs import TrainJob, base_job, load_model

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
        settings = config.merge
        method = build_method(settings.method, settings.parameters, settings.seed, len(jobs), has_base=True)
        base = Path(settings.base or load_model(base_job(config, manifest)).checkpoint) if method.uses_base else None
        self._proxies = LiveProxies(self._model, checkpoints, method, base, config.search.merge_batch)
        logger.info(
            "%d components resident (%.3f GiB a rank), suite of %d requests and %d tokens, in %.1f s",
            len(checkpoints),
            self._proxies.num_bytes / 2**30,
            len(self.suite.requests),
            self.suite.num_tokens,
            time.monotonic() - started,
        )

    def announce(self, mixtures: Sequence[Mapping[str, float]]) -> None:
        """Say which mixtures come next, so that several can be merged from one read; on rank 0."""
        _broadcast([dict(weights) for weights in mixtures])
        self._proxies.announce(mixtures)

    def evaluate(self, merge_weights: Mapping[str, float]) -> Evaluation:
        """Merge and score one mixture; on rank 0."""
        _broadcast(dict(merge_weights))
        return self._evaluate(merge_weights)

    def serve(self) -> None:
        """Follow rank 0 until it closes; on every other rank."""
        while (message := _broadcast(None)) is not None:
            if isinstance(message, list):
                self._proxies.announce(message)
                continue
            with contextlib.suppress(ScoreError):  # every rank finds the same; rank 0 records it
                self._evaluate(message)

    def close(self) -> None:
        """Release the other ranks; on rank 0."""
        _broadcast(None)

    def _evaluate(self, merge_weights: Mapping[str, float]) -> Evaluation:
        started = time.monotonic()
        self._proxies.write(merge_weights)
        merged = time.monotonic()
        bits_R = request_bits(self._model, self.suite)
        return Evaluation(bits_R, merged - started, time.monotonic() - merged)


_Message = dict[str, float] | list[dict[str, float]] | None  # a mixture, those to come, or the end


def _broadcast(message: _Message) -> _Message:
    """Rank 0's message, on every rank."""
    box = [message]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]
