"""The iterative search: sample, merge, score, fit, predict a pool, resample from its top, and again.

Nothing here knows how a mixture is scored: `evaluate` does. Everything random comes from generators seeded by
(seed, iteration), so that a search that was cut off and one that was not end in the same bytes.

Axis letters: M mixtures, C components.
Source: DeMix §2.4 and Table 3.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nemo_demix.config import SearchConfig
from nemo_demix.errors import ScoreError
from nemo_demix.prediction.capabilities import capability_averages
from nemo_demix.prediction.lightgbm_model import fit_predictor
from nemo_demix.search.objective import OBJECTIVES
from nemo_demix.search.sample import sample_mixtures
from nemo_demix.search.score_log import Row, ScoreLog
from nemo_demix.search.select import draw_next, mean_of_top
from nemo_demix.search.space import SearchSpace

logger = logging.getLogger(__name__)
Evaluate = Callable[[Mapping[str, float]], dict[str, Any]]  # merge weights -> {scores, capabilities, *_time_s}
Announce = Callable[[list[dict[str, float]]], None]  # the merge weights that will be evaluated next
_POOL_STREAM, _DRAW_STREAM, _FIRST_STREAM = 1, 2, 0


@dataclass(frozen=True)
class SearchResult:
    """The mixture, what is predicted of it, and every proxy it rests on."""

    merge_weights: dict[str, float]
    predicted: dict[str, float]  # by capability
    rows: list[Row]  # the OK ones, in order
    num_failed: int


def run_loop(
    settings: SearchConfig,
    space: SearchSpace,
    seed: int,
    log: ScoreLog,
    evaluate: Evaluate,
    announce: Announce = lambda mixtures: None,
) -> SearchResult:
    """Run all iterations and return their mixture.

    Raises:
        ScoreError: if more than half of the proxies of an iteration failed.
        MixtureError: if the constraints leave too few mixtures.
    """
    rows: list[Row] = []
    num_failed = 0
    total = sum(settings.iterations)
    weights_MC = _sample(settings, space, settings.iterations[0], [seed, 0, _FIRST_STREAM])
    progress = _Progress(total)
    for iteration, count in enumerate(settings.iterations):
        if iteration:
            pool_MC = _sample(settings, space, settings.pool_size, [seed, iteration, _POOL_STREAM])
            objective_M, _ = _rank(settings, space, rows, pool_MC, seed)
            scored_MC = np.array([space.as_array(row["merge_weights"]) for row in rows])
            rng = np.random.default_rng([seed, iteration, _DRAW_STREAM])
            weights_MC = draw_next(pool_MC, objective_M, settings.resample_top, count, scored_MC, rng)
        failed = 0
        announce([mixture for mixture in map(space.as_weights, weights_MC) if log.find(mixture) is None])
        for weights_C in weights_MC:
            name = f"mix_{len(rows) + num_failed + failed}"
            row = score_proxy(log, evaluate, iteration, name, space.as_weights(weights_C))
            if row["status"] == "OK":
                rows.append(row)
            else:
                failed += 1
            progress.tell(iteration, row)
        num_failed += failed
        if 2 * failed > count:
            reason = next(row["reason"] for row in log.rows() if row["status"] == "FAILED")
            raise ScoreError(f"iteration {iteration}: {failed} of {count} proxies failed, the first with: {reason}")
    pool_MC = _sample(settings, space, settings.pool_size, [seed, len(settings.iterations), _POOL_STREAM])
    objective_M, _ = _rank(settings, space, rows, pool_MC, seed)
    mixture_C = mean_of_top(pool_MC, objective_M, settings.select_top)
    mixture = space.as_weights(mixture_C)
    return SearchResult(mixture, predict(settings, space, rows, mixture, seed), rows, num_failed)


def score_proxy(
    log: ScoreLog, evaluate: Evaluate, iteration: int | None, name: str, merge_weights: dict[str, float]
) -> Row:
    """The proxy's row: from the log if it is there, else scored now. A failure is a row too, with its reason."""
    found = log.find(merge_weights)
    if found is not None:
        return found
    row: dict[str, Any] = {"iteration": iteration, "name": name, "merge_weights": merge_weights}
    try:
        row |= {"status": "OK", "reason": None, **evaluate(merge_weights)}
    except ScoreError as error:
        row |= {"status": "FAILED", "reason": str(error)}
        logger.warning("%s FAILED: %s", name, error)
    return log.append(row)


def benchmark_columns(space: SearchSpace, rows: list[Row]) -> dict[str, np.ndarray]:
    """The scores of every benchmark that counts, over the rows."""
    return {name: np.array([row["scores"][name]["score"] for row in rows]) for name in space.capabilities}


def predict(
    settings: SearchConfig, space: SearchSpace, rows: list[Row], merge_weights: Mapping[str, float], seed: int
) -> dict[str, float]:
    """Predicted capability averages of one mixture."""
    _, averages = _rank(settings, space, rows, space.as_array(merge_weights)[None, :], seed)
    return {name: float(values[0]) for name, values in averages.items()}


def _sample(settings: SearchConfig, space: SearchSpace, count: int, stream: list[int]) -> np.ndarray:
    rng = np.random.default_rng(stream)
    return sample_mixtures(settings.sampler, space.prior, space.blend, settings.constraints.max, count, rng)


def _rank(
    settings: SearchConfig, space: SearchSpace, rows: list[Row], pool_MC: np.ndarray, seed: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The objective over a pool (lower is better), and the predicted capability averages it comes from."""
    weights_MC = np.array([space.as_array(row["merge_weights"]) for row in rows])
    predictor = fit_predictor(settings.predictor, weights_MC, benchmark_columns(space, rows), seed)
    averages = capability_averages(predictor.predict(pool_MC), space.capabilities)
    return OBJECTIVES[settings.objective](averages, dict.fromkeys(averages, False)), averages


class _Progress:
    """One line a few proxies: how many, the best so far, the rate, the ETA. Rows read from the log count as done."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = self._scored = 0
        self._best = float("inf")
        self._started = self._spoke = time.monotonic()

    def tell(self, iteration: int, row: Row) -> None:
        self._done += 1
        if row["status"] == "OK":
            self._best = min(self._best, float(np.mean([c["score"] for c in row["capabilities"].values()])))
        self._scored += 1
        now = time.monotonic()
        if now - self._spoke < 15 and self._done < self._total:
            return
        rate = self._scored / (now - self._started)
        self._spoke = now
        logger.info(
            "search: iteration %d, proxy %d/%d, best macro %.4f bits/byte, %.0f proxies/min, ETA %.0f s",
            iteration,
            self._done,
            self._total,
            self._best,
            60 * rate,
            (self._total - self._done) / rate,
        )
