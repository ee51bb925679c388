"""The predictor: one LightGBM regressor a benchmark, from merge weights to its score.

Axes: M mixtures it is fitted on, X mixtures it predicts, C components.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import lightgbm as lgb
import numpy as np

from nemo_demix.config import PredictorConfig
from nemo_demix.errors import ConfigError, MixtureError, ScoreError
from nemo_demix.mixture import Array, check_rows
from nemo_demix.prediction.forest import MAX_LEAVES, Forest

MIN_ROWS = 8  # below this a tree has nothing to split
LARGE_POOL = 10_000  # rows from which turning the trees into look-up tables pays; the predictions are the same bytes


@dataclass(frozen=True, eq=False)
class Predictor:
    """Fitted regressors, by benchmark.

    Attributes:
        num_components: C, the number of merge weights it was fitted on.
        num_leaves: The most leaves that a tree can have.
        boosters: A regressor by benchmark.
    """

    num_components: int
    num_leaves: int
    boosters: dict[str, lgb.Booster]

    def predict(self, weights_XC: Array) -> dict[str, Array]:
        """Predicted scores by benchmark, each float64 of shape (X,), in the unit of the scores it was fitted on.

        Raises:
            MixtureError: if the shape is not (X, C), or a row is not on the simplex.
        """
        weights_XC = np.ascontiguousarray(check_rows(weights_XC, self.num_components))
        if len(weights_XC) >= LARGE_POOL and self.num_leaves <= MAX_LEAVES:
            return {name: Forest.of(booster).predict(weights_XC) for name, booster in self.boosters.items()}
        return {name: np.asarray(booster.predict(weights_XC)) for name, booster in self.boosters.items()}


def fit_predictor(config: PredictorConfig, weights_MC: Array, scores: Mapping[str, Array], seed: int) -> Predictor:
    """Fit one regressor a benchmark; the same inputs and seed give the same trees.

    Args:
        config: LightGBM's settings. All rounds are run: there is no early stopping.
        weights_MC: Merge weights of the scored mixtures, float64, shape (M, C).
        scores: Measured scores by benchmark, each of shape (M,), in any unit and direction.
        seed: LightGBM's seed.

    Raises:
        ConfigError: if a setting is out of range.
        MixtureError: if a row of weights is not on the simplex.
        ScoreError: if there are fewer than 8 rows, no benchmark, a column of another length or a non-finite score.

    Source: DeMix §2.4 (one regressor a benchmark, learning rate 0.02, 300 rounds).
    """
    weights_MC, columns = check_scored(weights_MC, scores)
    return fit_checked(config, weights_MC, columns, seed)


def fit_checked(config: PredictorConfig, weights_MC: Array, scores: Mapping[str, Array], seed: int) -> Predictor:
    """`fit_predictor` on inputs that `check_scored` has passed, or on some of their rows."""
    if config.num_leaves < 2 or config.num_rounds < 1 or config.min_data_in_leaf < 1 or config.learning_rate <= 0:
        raise ConfigError(
            "search.predictor: expected num_leaves >= 2, num_rounds >= 1, min_data_in_leaf >= 1 and learning_rate > 0, "
            f"found {config}"
        )
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
    boosters = {
        name: lgb.train(parameters, lgb.Dataset(weights_MC, scores_M), num_boost_round=config.num_rounds)
        for name, scores_M in scores.items()
    }
    return Predictor(weights_MC.shape[1], config.num_leaves, boosters)


def check_scored(weights_MC: Array, scores: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
    """Merge weights and their scores, as float64.

    Raises:
        MixtureError: if a row of weights is not on the simplex.
        ScoreError: if there are fewer than 8 rows, no benchmark, a column of another length or a non-finite score.
    """
    weights_MC = np.asarray(weights_MC, dtype=np.float64)
    if weights_MC.ndim != 2:
        raise MixtureError(f"predictor: expected merge weights of shape (M, C), found shape {weights_MC.shape}")
    num_rows = len(weights_MC)
    if num_rows < MIN_ROWS:
        raise ScoreError(f"predictor: expected {MIN_ROWS} scored mixtures or more, found {num_rows}; score more")
    if not scores:
        raise ScoreError("predictor: expected the scores of at least one benchmark, found none")
    columns = {name: np.asarray(scores_M, dtype=np.float64) for name, scores_M in scores.items()}
    for name, scores_M in columns.items():
        if scores_M.shape != (num_rows,):
            raise ScoreError(f"predictor: {name}: expected {num_rows} scores, found shape {scores_M.shape}")
        if not np.isfinite(scores_M).all():
            row = int(np.argmin(np.isfinite(scores_M)))
            raise ScoreError(f"predictor: {name}: expected finite scores, found {scores_M[row]} in row {row}")
    return check_rows(weights_MC, weights_MC.shape[1]), columns
