"""Merged proxies on their ranks: merge weights in, scores out."""

import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial

from nemo_demix.checkpoints.store import checkpoint_path
from nemo_demix.merging.live import LiveProxies
from nemo_demix.merging.methods import build_method
from nemo_demix.prepared import PreparedRun
from nemo_demix.scoring.scorer import Scorer
from nemo_demix.search.identity import merge_fingerprint
from nemo_demix.search.proxies.base import Evaluation, LiveModel
from nemo_demix.training.jobs import load_model

logger = logging.getLogger(__name__)


class ProxyMerger:
    """Merges and scores proxies on ranks: in memory, by `merge.method`; every kind of benchmark can score them.

    Args:
        run: The run, whose components are trained.
        live: The model to merge into.
    Raises:
        ConfigError: if a component or the base is not trained yet.
        CheckpointError: if one is of another architecture, damaged, or without what the method uses.
    Memory: one shard of the model a component, see `LiveProxies`, beside the live one.
    Collective: construction and `evaluate`.
    """

    def __init__(self, run: PreparedRun, live: LiveModel) -> None:
        started = time.monotonic()
        self._live = live
        self._fingerprint = partial(merge_fingerprint, run)
        live.keep = True
        checkpoints = {job.name: checkpoint_path(load_model(job).checkpoint) for job in run.components}
        settings = run.config.merge
        method = build_method(settings.method, settings.parameters, settings.seed, len(checkpoints), has_base=True)
        base = checkpoint_path(settings.base or load_model(run.base).checkpoint) if method.uses_base else None
        self._proxies = LiveProxies(live.model, checkpoints, method, base, run.config.search.merge_batch)
        logger.info(
            "%d components resident (%.3f GiB a rank), in %.1f s",
            len(checkpoints),
            self._proxies.num_bytes / 2**30,
            time.monotonic() - started,
        )

    def announce(self, mixtures: Sequence[Mapping[str, float]]) -> None:
        """Say which mixtures come next, so that several can be merged from one read."""
        self._proxies.announce(mixtures)

    def evaluate(self, weights: Mapping[str, float], scorer: Scorer) -> Evaluation:
        """Merge and score one mixture of merge weights.

        Raises:
            MixtureError: if the weights are not on the simplex of the components.
            ScoreError: if the merge's scores are not finite.
        """
        started = time.monotonic()
        merge_time_s = 0.0

        def fill() -> None:
            nonlocal merge_time_s
            began = time.monotonic()
            self._proxies.write(weights)
            merge_time_s = time.monotonic() - began

        result = scorer.score(self._live.model, self._live.ranks.is_main, self._fingerprint(weights), fill)
        return Evaluation(result, merge_time_s, time.monotonic() - started - merge_time_s)
