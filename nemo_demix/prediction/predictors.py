"""Any kind of predictor, fitted on all benchmarks: from merge weights or data shares to scores.

Benchmarks are fitted and predicted by a pool of threads; the results do not depend on how many there are.

Axes: M mixtures it is fitted on, X mixtures it predicts, C components.
"""

import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

from nemo_demix.config import PredictorConfig
from nemo_demix.errors import ConfigError, DemixError, ScoreError, near, refuse
from nemo_demix.mixture import Array, check_rows
from nemo_demix.prediction.base import Kind, Model, Predictor, Settled, resampled_rows
from nemo_demix.prediction.ensembles import AUTO, MEMBERS, STACKED
from nemo_demix.prediction.inputs import check_enough, check_scored
from nemo_demix.prediction.lightgbm_model import lightgbm_errors

PREDICTORS: dict[str, Kind] = {**MEMBERS, "auto": AUTO, "stacked": STACKED}

Result = TypeVar("Result")
FEW = 256  # mixtures whose prediction takes less than starting a thread for it: a minimiser asks for 8 at a time


@dataclass(frozen=True, eq=False)
class FittedPredictor:
    """A `Predictor`: one model a benchmark.

    Attributes:
        num_components: C, the number of weights that it was fitted on.
        models: The fitted model of each benchmark.
        chosen: The kind of each model, by benchmark.
    """

    num_components: int
    models: dict[str, Model]
    chosen: dict[str, str]

    def predict(self, weights_XC: Array) -> dict[str, Array]:
        """Return predicted scores by benchmark, each float64, shape (X,); see `Predictor`."""
        weights_XC = check_rows(weights_XC, self.num_components)
        return _by_benchmark(self.models, lambda name: self.models[name].predict(weights_XC), len(weights_XC) <= FEW)

    def predict_std(self, weights_XC: Array) -> dict[str, Array]:
        """Return the standard deviation by benchmark, each float64, shape (X,); see `Predictor`."""
        weights_XC = check_rows(weights_XC, self.num_components)
        return _by_benchmark(
            self.models, lambda name: self.models[name].predict_std(weights_XC), len(weights_XC) <= FEW
        )


def predictor_errors(config: PredictorConfig) -> Iterator[DemixError]:
    """Yield errors for a kind that does not exist, and settings that nothing can be fitted by."""
    if config.kind not in PREDICTORS:
        yield ConfigError(
            f"search.predictor.kind: expected one of {', '.join(PREDICTORS)}, found {config.kind!r}"
            f"{near(config.kind, PREDICTORS)}"
        )
    if config.num_bootstrap < 2:
        yield ConfigError(
            f"search.predictor.num_bootstrap: expected 2 refits or more, for a standard deviation, "
            f"found {config.num_bootstrap}"
        )
    yield from lightgbm_errors(config)


def fit_predictor(config: PredictorConfig, weights_MC: Array, scores: Mapping[str, Array], seed: int) -> Predictor:
    """Fit one regressor a benchmark; the same rows, in any order, and the same seed give the same bytes.

    Args:
        config: The kind, and its settings.
        weights_MC: Merge weights (or data shares) of the scored mixtures, float64, shape (M, C).
        scores: Measured scores by benchmark, each of shape (M,), in any unit and direction.
        seed: Seed of LightGBM, of inner folds and of resamples.

    Raises:
        ConfigError: if the kind is unknown or a setting is out of range.
        MixtureError: if a row of weights is not on the simplex.
        ScoreError: if there are fewer distinct mixtures than the kind needs, no benchmark, a column of another length
            or a non-finite score, or the kind cannot be fitted to a benchmark.
    """
    weights_MC, columns, _ = checked_inputs(config, weights_MC, scores)
    return fit_checked(config, weights_MC, columns, seed)


def fit_checked(config: PredictorConfig, weights_MC: Array, scores: Mapping[str, Array], seed: int) -> Predictor:
    """Return `fit_predictor` on inputs that `checked_inputs` has passed, or on some of their rows."""
    return _fit(_settle(config, weights_MC, scores, seed), weights_MC, scores, seed)


def refits(
    config: PredictorConfig, weights_MC: Array, scores: Mapping[str, Array], seed: int, count: int
) -> Iterator[Predictor]:
    """Yield `count` predictors fitted on resampled rows, one at a time: how far the choice hangs on which proxies there
    are.

    Kinds and settings are chosen once, on all rows. All benchmarks of a refit share their resample.

    Raises:
        ConfigError, MixtureError, ScoreError: as `fit_predictor`, before the first is fitted.
    """
    weights_MC, columns, _ = checked_inputs(config, weights_MC, scores)
    settled = _settle(config, weights_MC, columns, seed)
    rng = np.random.default_rng(seed)

    def refitted() -> Iterator[Predictor]:
        for _ in range(count):
            rows_M = resampled_rows(len(weights_MC), rng)
            drawn = {name: scores_M[rows_M] for name, scores_M in columns.items()}
            yield _fit(settled, weights_MC[rows_M], drawn, seed)

    return refitted()


def checked_inputs(
    config: PredictorConfig, weights_MC: Array, scores: Mapping[str, Array]
) -> tuple[Array, dict[str, Array], int]:
    """Check mixtures and scores, and put them in an order that does not depend on the order given.

    Returns:
        Weights, shape (M, C), scores by benchmark, each of shape (M,), and the number of distinct mixtures.

    Raises:
        ConfigError, MixtureError, ScoreError: as `fit_predictor`.
    """
    refuse(predictor_errors(config))
    weights_MC, columns = check_scored(weights_MC, scores)
    min_rows = PREDICTORS[config.kind].min_rows(weights_MC.shape[1])
    return weights_MC, columns, check_enough(config.kind, weights_MC, min_rows)


def _settle(config: PredictorConfig, weights_MC: Array, scores: Mapping[str, Array], seed: int) -> dict[str, Settled]:
    def settle(name: str) -> Settled:
        try:
            return PREDICTORS[config.kind].settle(config, weights_MC, scores[name], seed)
        except ScoreError as error:
            raise ScoreError(f"{name}: {error}") from error

    return _by_benchmark(scores, settle)


def _fit(settled: Mapping[str, Settled], weights_MC: Array, scores: Mapping[str, Array], seed: int) -> Predictor:
    models = _by_benchmark(scores, lambda name: settled[name].fit(weights_MC, scores[name], seed))
    return FittedPredictor(weights_MC.shape[1], models, {name: one.kind for name, one in settled.items()})


def _by_benchmark(
    names: Mapping[str, object], work: Callable[[str], Result], one_by_one: bool = False
) -> dict[str, Result]:
    """Return what `work` gives for each name, by all cores at once; linear algebra takes one thread in each."""
    workers = min(len(names), len(os.sched_getaffinity(0)))
    with _blas("scipy.linalg" in sys.modules).limit(limits=1, user_api="blas"):
        if one_by_one or workers == 1:
            return {name: work(name) for name in names}
        with ThreadPoolExecutor(workers) as pool:
            return dict(zip(names, pool.map(work, names), strict=True))


@functools.cache
def _blas(with_scipy: bool) -> ThreadpoolController:
    """Return the libraries whose threads are held, looked for once (4 ms): again when scipy has brought its own."""
    return ThreadpoolController()
