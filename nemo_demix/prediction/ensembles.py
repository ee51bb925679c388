"""Predictors made of the others: `auto` takes the best for each benchmark, `stacked` a weighted mean of them.

Both judge by predictions out of inner folds, with the settings of each kind chosen anew in every one of them.

Axes: M mixtures it is fitted on, X mixtures it predicts, C components, K kinds.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from nemo_demix.config import PredictorConfig
from nemo_demix.mixture import Array
from nemo_demix.prediction.base import Kind, Model, Settled
from nemo_demix.prediction.folds import INNER_FOLDS, draw_folds, out_of_fold
from nemo_demix.prediction.gaussian_process import GAUSSIAN_PROCESS
from nemo_demix.prediction.lightgbm_model import LIGHTGBM
from nemo_demix.prediction.log_linear import LOG_LINEAR
from nemo_demix.prediction.ridge import RIDGE

MEMBERS = {
    "lightgbm": LIGHTGBM,
    "ridge": RIDGE,
    "log_linear": LOG_LINEAR,
    "gaussian_process": GAUSSIAN_PROCESS,
}
MIN_ROWS = 10  # so that an inner fold leaves 8
SUM_WEIGHT = 1e4  # of "the weights sum to 1" beside the standardised scores

logger = logging.getLogger(__name__)


def settle_auto(config: PredictorConfig, weights_MC: Array, scores_M: Array, seed: int) -> Settled:
    """Return the kind with the least squared error out of fold, settled on all rows."""
    names, predicted_MK = _members_out_of_fold(config, weights_MC, scores_M, seed)
    error_K = np.mean((predicted_MK - scores_M[:, None]) ** 2, axis=0)
    chosen = names[int(np.argmin(error_K))]
    return MEMBERS[chosen].settle(config, weights_MC, scores_M, seed)


def settle_stacked(config: PredictorConfig, weights_MC: Array, scores_M: Array, seed: int) -> Settled:
    """Return all kinds, with the weights >= 0 of sum 1 that have the least squared error out of fold.

    Source: Breiman, Stacked Regressions (1996).
    """
    from scipy.optimize import nnls

    names, predicted_MK = _members_out_of_fold(config, weights_MC, scores_M, seed)
    mean, scale = scores_M.mean(), scores_M.std() or 1.0
    standard_MK, standard_M = (predicted_MK - mean) / scale, (scores_M - mean) / scale
    sum_row_K = np.full((1, len(names)), SUM_WEIGHT)
    weights_K, _ = nnls(np.vstack([standard_MK, sum_row_K]), np.append(standard_M, SUM_WEIGHT))
    members = [
        (float(weight), MEMBERS[name].settle(config, weights_MC, scores_M, seed))
        for name, weight in zip(names, weights_K / weights_K.sum(), strict=True)
        if weight > 0
    ]

    def fit_model(weights_MC: Array, scores_M: Array, seed: int) -> Model:
        models = [settled.fit(weights_MC, scores_M, seed) for _, settled in members]
        return Stack(np.array([weight for weight, _ in members]), models)

    return Settled("+".join(settled.kind for _, settled in members), fit_model)


@dataclass(frozen=True, eq=False)
class Stack:
    """A weighted mean of models.

    Attributes:
        weights_K: Weights of the models, shape (K,), >= 0 and of sum 1.
        models: The K models.
    """

    weights_K: Array
    models: Sequence[Model]

    def predict(self, weights_XC: Array) -> Array:
        """Return the weighted mean of the members' predictions, float64, shape (X,)."""
        return self.weights_K @ np.array([model.predict(weights_XC) for model in self.models])

    def predict_std(self, weights_XC: Array) -> Array:
        """Return the standard deviation of the mixture of the members' distributions, float64, shape (X,).

        It comes from their own variances, and from that of their means.
        """
        means_KX = np.array([model.predict(weights_XC) for model in self.models])
        variances_KX = np.array([model.predict_std(weights_XC) for model in self.models]) ** 2
        return np.sqrt(self.weights_K @ (variances_KX + (means_KX - self.weights_K @ means_KX) ** 2))


def _members_out_of_fold(
    config: PredictorConfig, weights_MC: Array, scores_M: Array, seed: int
) -> tuple[list[str], Array]:
    """Return the kinds that the rows left by an inner fold are enough for, and their predictions, (M, K)."""
    fold_M = draw_folds(weights_MC, INNER_FOLDS, np.random.default_rng(seed))
    num_kept = min(len(np.unique(weights_MC[fold_M != fold], axis=0)) for fold in np.unique(fold_M))
    names = [name for name, kind in MEMBERS.items() if kind.min_rows(weights_MC.shape[1]) <= num_kept]
    if not names:  # only where an outer fold has left too few rows for anything but the simplest
        names = ["ridge"]
    if len(names) < len(MEMBERS):
        logger.debug("%d mixtures an inner fold: too few for %s", num_kept, set(MEMBERS) - set(names))
    columns = [out_of_fold(partial(MEMBERS[name].settle, config), weights_MC, scores_M, fold_M, seed) for name in names]
    return names, np.array(columns).T


AUTO = Kind(lambda num_components: MIN_ROWS, settle_auto)
STACKED = Kind(lambda num_components: MIN_ROWS, settle_stacked)
