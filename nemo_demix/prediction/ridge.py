"""Ridge regression on features of the mixture: linear, quadratic, or with square roots.

Axes: M mixtures it is fitted on, X mixtures it predicts, C components, F features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from nemo_demix.config import PredictorConfig
from nemo_demix.mixture import Array
from nemo_demix.prediction.base import Bootstrapped, Function, Kind, Model, Settled

MIN_ROWS = 8
PENALTIES = np.logspace(-5, 4, 19)  # on features of standard deviation 1


def linear(weights_XC: Array) -> Array:
    """The weights themselves, (X, C)."""
    return weights_XC


def quadratic(weights_XC: Array) -> Array:
    """Weights and their pairwise products, (X, C (C + 1) / 2): every quadratic function on the simplex (Scheffé)."""
    first, second = np.triu_indices(weights_XC.shape[1], 1)
    return np.hstack([weights_XC, weights_XC[:, first] * weights_XC[:, second]])


def square_roots(weights_XC: Array) -> Array:
    """Weights and their roots, (X, 2 C): a trained model gains most from the first tokens of a dataset."""
    return np.hstack([weights_XC, np.sqrt(weights_XC)])


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear function of features, in the unit of the scores."""

    features: Callable[[Array], Array]
    level: float
    slopes_F: Array

    def __call__(self, weights_XC: Array) -> Array:
        """Predictions, float64, shape (X,)."""
        return self.level + self.features(weights_XC) @ self.slopes_F


FEATURES: tuple[Callable[[Array], Array], ...] = (linear, quadratic, square_roots)


def settle(config: PredictorConfig, weights_MC: Array, scores_M: Array, seed: int) -> Settled:
    """The features and the penalty with the least leave-one-out error."""
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    scale = np.std(scores_M) or 1.0  # the same penalties for scores in any unit
    searches = []
    for features in FEATURES:
        standardised_MF = StandardScaler().fit_transform(features(weights_MC))
        searches.append(RidgeCV(PENALTIES).fit(standardised_MF, (scores_M - scores_M.mean()) / scale))
    best = int(np.argmax([search.best_score_ for search in searches]))
    fit_ = partial(fit, FEATURES[best], float(searches[best].alpha_))

    def fit_model(weights_MC: Array, scores_M: Array, seed: int) -> Model:
        return Bootstrapped(fit_, weights_MC, scores_M, seed, config.num_bootstrap)

    return Settled("ridge", fit_model)


def fit(features: Callable[[Array], Array], penalty: float, weights_MC: Array, scores_M: Array, seed: int) -> Function:
    """Ridge regression of the scores on standardised features."""
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features(weights_MC))
    regression = Ridge(penalty).fit(scaler.transform(features(weights_MC)), scores_M)
    slopes_F = regression.coef_ / scaler.scale_
    return Linear(features, regression.intercept_ - slopes_F @ scaler.mean_, slopes_F)


RIDGE = Kind(lambda num_components: MIN_ROWS, settle)
