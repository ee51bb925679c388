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
CONSTANT = 1e-12  # standard deviation of a feature, up to which it is rounding


def linear(weights_XC: Array) -> Array:
    """Return the weights themselves, (X, C)."""
    return weights_XC


def quadratic(weights_XC: Array) -> Array:
    """Return weights and their pairwise products, shape (X, C (C + 1) / 2): every quadratic on the simplex
    (Scheffé).
    """
    first, second = np.triu_indices(weights_XC.shape[1], 1)
    return np.hstack([weights_XC, weights_XC[:, first] * weights_XC[:, second]])


def square_roots(weights_XC: Array) -> Array:
    """Return weights and their roots, (X, 2 C): a trained model gains most from the first tokens of a dataset."""
    return np.hstack([weights_XC, np.sqrt(weights_XC)])


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear function of features, in the unit of the scores."""

    features: Callable[[Array], Array]
    level: float
    slopes_F: Array

    def __call__(self, weights_XC: Array) -> Array:
        """Return predictions, float64, shape (X,)."""
        return self.level + self.features(weights_XC) @ self.slopes_F


FEATURES: tuple[Callable[[Array], Array], ...] = (linear, quadratic, square_roots)


def settle(config: PredictorConfig, weights_MC: Array, scores_M: Array, seed: int) -> Settled:
    """Return the features and the penalty with the least leave-one-out error."""
    scale = np.std(scores_M) or 1.0  # the same penalties for scores in any unit
    targets_M = (scores_M - scores_M.mean()) / scale
    errors_FP = np.array([leave_one_out(_Standard(features, weights_MC).of_M, targets_M) for features in FEATURES])
    best, penalty = np.unravel_index(np.argmin(errors_FP), errors_FP.shape)
    fit_ = partial(fit, FEATURES[best], float(PENALTIES[penalty]))

    def fit_model(weights_MC: Array, scores_M: Array, seed: int) -> Model:
        return Bootstrapped(fit_, weights_MC, scores_M, seed, config.num_bootstrap)

    return Settled("ridge", fit_model)


def leave_one_out(features_MF: Array, targets_M: Array) -> Array:
    """Return the mean squared error of each mixture by a ridge on the others, for each of `PENALTIES`, shape (P,).

    Nothing is refitted: a fitted mixture's error is divided by the part of its prediction that its own score did not
    decide.

    Args:
        features_MF: Features of the mixtures, each column of mean 0.
        targets_M: Scores of mean 0.
    """
    left_MR, singular_R, _ = np.linalg.svd(features_MF, full_matrices=False)
    kept_PR = singular_R**2 / (singular_R**2 + PENALTIES[:, None])
    fitted_PM = (kept_PR * (left_MR.T @ targets_M)) @ left_MR.T
    own_PM = kept_PR @ (left_MR**2).T + 1.0 / len(targets_M)
    errors_P: Array = np.mean(((targets_M - fitted_PM) / (1.0 - own_PM)) ** 2, axis=1)
    return errors_P


def fit(features: Callable[[Array], Array], penalty: float, weights_MC: Array, scores_M: Array, seed: int) -> Function:
    """Return ridge regression of the scores on standardised features."""
    standard = _Standard(features, weights_MC)
    left_MR, singular_R, right_RF = np.linalg.svd(standard.of_M, full_matrices=False)
    targets_M = scores_M - scores_M.mean()
    slopes_F = (singular_R / (singular_R**2 + penalty) * (left_MR.T @ targets_M)) @ right_RF / standard.scale_F
    level = scores_M.mean() - slopes_F @ standard.mean_F
    return Linear(features, float(level), slopes_F)


class _Standard:
    """Features of the mixtures, of mean 0 and standard deviation 1; a constant one stays 0."""

    def __init__(self, features: Callable[[Array], Array], weights_MC: Array) -> None:
        features_MF = features(weights_MC)
        self.mean_F: Array = features_MF.mean(axis=0)
        scale_F: Array = features_MF.std(axis=0)
        self.scale_F: Array = np.where(scale_F > CONSTANT, scale_F, 1.0)
        self.of_M: Array = (features_MF - self.mean_F) / self.scale_F


RIDGE = Kind(lambda num_components: MIN_ROWS, settle)
