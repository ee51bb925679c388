"""LightGBM: one forest a benchmark, with the paper's settings or with those that cross-validation chooses.

Axes: M mixtures it is fitted on, X mixtures it predicts, C components.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from nemo_demix.config import PredictorConfig
from nemo_demix.errors import ConfigError, DemixError, refuse
from nemo_demix.mixture import Array
from nemo_demix.prediction.base import Bootstrapped, Kind, Model, Settled
from nemo_demix.prediction.folds import INNER_FOLDS, draw_folds, out_of_fold
from nemo_demix.prediction.forest import MAX_LEAVES, Forest

if TYPE_CHECKING:
    import lightgbm as lgb

MIN_ROWS = 8  # below this a tree has nothing to split
LARGE_POOL = 10_000  # rows from which turning the trees into look-up tables pays; the predictions are the same bytes
# num_leaves, min_data_in_leaf, learning_rate: small trees learn from few points. The user's own settings compete.
SMALL_SAMPLE = ((4, 2, 0.05), (4, 2, 0.1), (8, 3, 0.05), (8, 3, 0.1))


@dataclass(frozen=True, eq=False)
class Regressor:
    """One fitted forest.

    Attributes:
        booster: LightGBM's own object.
        num_leaves: The most leaves that a tree can have.
    """

    booster: "lgb.Booster"
    num_leaves: int

    @cached_property
    def forest(self) -> Forest:
        """Its look-up tables."""
        return Forest.of(self.booster)

    def __call__(self, weights_XC: Array) -> Array:
        """Return predictions, float64, shape (X,): LightGBM's own, bit for bit."""
        weights_XC = np.ascontiguousarray(weights_XC)
        if len(weights_XC) >= LARGE_POOL and self.num_leaves <= MAX_LEAVES:
            return self.forest.predict(weights_XC)
        return np.asarray(self.booster.predict(weights_XC, num_threads=1))


def lightgbm_errors(config: PredictorConfig) -> Iterator[DemixError]:
    """Yield errors for settings that LightGBM takes no model from."""
    if config.num_leaves < 2 or config.num_rounds < 1 or config.min_data_in_leaf < 1 or config.learning_rate <= 0:
        yield ConfigError(
            "search.predictor: expected num_leaves >= 2, num_rounds >= 1, min_data_in_leaf >= 1 and learning_rate > 0, "
            f"found {config.num_leaves}, {config.num_rounds}, {config.min_data_in_leaf} and {config.learning_rate}"
        )


def settle(config: PredictorConfig, weights_MC: Array, scores_M: Array, seed: int) -> Settled:
    """Return the given settings, or with `tune` those with the least squared error out of fold.

    Raises:
        ConfigError: if a setting is out of range.
    Source: DeMix §2.4 (one regressor a benchmark, learning rate 0.02, 300 rounds). Departs from it with `tune`.
    """
    refuse(lightgbm_errors(config))
    if not config.tune:
        return _settled(config)
    fold_M = draw_folds(weights_MC, INNER_FOLDS, np.random.default_rng(seed))
    candidates = [config] + [
        replace(config, num_leaves=leaves, min_data_in_leaf=rows, learning_rate=rate)
        for leaves, rows, rate in SMALL_SAMPLE
    ]

    def squared_error(candidate: PredictorConfig) -> float:
        predicted_M = out_of_fold(lambda *_: _settled(candidate), weights_MC, scores_M, fold_M, seed)
        return float(np.sum((predicted_M - scores_M) ** 2))

    return _settled(min(candidates, key=squared_error))


def fit(config: PredictorConfig, weights_MC: Array, scores_M: Array, seed: int) -> Regressor:
    """Run all rounds: there is no early stopping. The same rows and seed give the same trees."""
    import lightgbm as lgb

    parameters = {
        "objective": "regression",
        "learning_rate": config.learning_rate,
        "num_leaves": config.num_leaves,
        "min_data_in_leaf": config.min_data_in_leaf,
        "seed": seed % 2**31,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbosity": -1,
    }
    booster = lgb.train(parameters, lgb.Dataset(weights_MC, scores_M), num_boost_round=config.num_rounds)
    return Regressor(booster, config.num_leaves)


def _settled(config: PredictorConfig) -> Settled:
    def fit_model(weights_MC: Array, scores_M: Array, seed: int) -> Model:
        return Bootstrapped(partial(fit, config), weights_MC, scores_M, seed, config.num_bootstrap)

    return Settled("lightgbm", fit_model)


LIGHTGBM = Kind(lambda num_components: MIN_ROWS, settle)
