"""A Gaussian process: smooth, with a length scale for each component, and sure of itself only near scored mixtures.

The settings are those of the highest marginal likelihood. They are found here rather than by scikit-learn, whose
gradient for a length scale a component took 18 s a benchmark on 448 mixtures of 17 components.

Axes: M mixtures it is fitted on, X mixtures it predicts, C components, T settings: the logarithms of the function's
variance, of C length scales and of the noise's variance, all of standardised rows and scores.
Source: Rasmussen and Williams, Gaussian Processes for Machine Learning, Algorithm 2.1 and Eq. 5.9.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from nemo_demix.config import PredictorConfig
from nemo_demix.mixture import Array
from nemo_demix.prediction.base import Kind, Model, Settled

MIN_ROWS = 8
MAX_SETTLED_ROWS = 192  # settings are found on so many rows at most, and then used on all: cost grows with the cube
CHUNK = 4096  # rows predicted at a time
VARIANCE, LENGTH, NOISE = (1e-2, 1e3), (0.1, 1e3), (1e-6, 10.0)
STARTS = ((1.0, 3.0, 0.1), (1.0, 1.5, 0.01))  # variance, every length, noise


def weights(weights_XC: Array) -> Array:
    """Take the mixtures as they are, (X, C): scores of merged models are smooth in them."""
    return weights_XC


FEATURES: tuple[Callable[[Array], Array], ...] = (weights, np.sqrt)  # roots: scores of trained models bend near 0


def settle(config: PredictorConfig, weights_MC: Array, scores_M: Array, seed: int) -> Settled:
    """Return the features, length scales and noise of the highest marginal likelihood."""
    from scipy.optimize import minimize

    if len(scores_M) > MAX_SETTLED_ROWS:
        drawn = np.random.default_rng(seed).choice(len(scores_M), MAX_SETTLED_ROWS, replace=False)
        weights_MC, scores_M = weights_MC[np.sort(drawn)], scores_M[np.sort(drawn)]
    standard_M = (scores_M - scores_M.mean()) / (scores_M.std() or 1.0)
    num_components = weights_MC.shape[1]
    bounds = np.log([VARIANCE, *[LENGTH] * num_components, NOISE])
    best_loss, best = np.inf, (FEATURES[0], bounds.mean(axis=1))
    for features in FEATURES:
        rows_MC = features(weights_MC)
        rows_MC = rows_MC / _spread(rows_MC)
        apart_CMM = (rows_MC.T[:, :, None] - rows_MC.T[:, None, :]) ** 2
        for variance, length, noise in STARTS:
            start_T = np.log([variance, *[length] * num_components, noise])
            found = minimize(marginal_loss, start_T, (apart_CMM, standard_M), "L-BFGS-B", True, bounds=bounds)
            if found.fun < best_loss:
                best_loss, best = found.fun, (features, found.x)
    features, settings_T = best

    def fit_model(weights_MC: Array, scores_M: Array, seed: int) -> Model:
        return Process.fit(features, np.exp(settings_T), weights_MC, scores_M)

    return Settled("gaussian_process", fit_model)


@dataclass(frozen=True, eq=False)
class Process:
    """The posterior of the function, given the scored mixtures and the settings.

    Attributes:
        features: What makes features, (X, C), of mixtures, (X, C).
        scale_C: What a feature is divided by: its spread times its length scale.
        rows_MC: The scored mixtures' features, so divided.
        variance: Variance of the function of standardised scores, before anything was scored.
        mean: Mean of the scores.
        unit: Standard deviation of the scores.
        factor_MM: Lower Cholesky factor of the scores' covariance.
        solved_M: The inverse of that covariance, times the standardised scores.
    """

    features: Callable[[Array], Array]
    scale_C: Array
    rows_MC: Array
    variance: float
    mean: float
    unit: float
    factor_MM: Array
    solved_M: Array

    @classmethod
    def fit(
        cls, features: Callable[[Array], Array], settings_T: Array, weights_MC: Array, scores_M: Array
    ) -> "Process":
        """Fit the posterior to scored mixtures, with the settings themselves, not their logarithms.

        Memory: one array of (M, M) float64.
        """
        from scipy.linalg import cho_solve, cholesky

        scale_C = _spread(features(weights_MC)) * settings_T[1:-1]
        rows_MC = features(weights_MC) / scale_C
        mean, unit = float(scores_M.mean()), float(scores_M.std()) or 1.0
        covariance_MM = settings_T[0] * np.exp(-_half_square_distances(rows_MC, rows_MC))
        covariance_MM[np.diag_indices(len(scores_M))] = settings_T[0] + settings_T[-1]
        factor_MM = cholesky(covariance_MM, lower=True)
        solved_M = cho_solve((factor_MM, True), (scores_M - mean) / unit)
        return cls(features, scale_C, rows_MC, float(settings_T[0]), mean, unit, factor_MM, solved_M)

    def predict(self, weights_XC: Array) -> Array:
        """Return the posterior mean, float64, shape (X,), in the unit of the scores."""
        chunks = [covariance_XM @ self.solved_M for covariance_XM in self._covariances(weights_XC)]
        return self.mean + self.unit * np.concatenate([np.empty(0), *chunks])

    def predict_std(self, weights_XC: Array) -> Array:
        """Return the posterior's standard deviation, float64, shape (X,), in the unit of the scores.

        It takes M times as long as the mean.
        """
        from scipy.linalg import solve_triangular

        chunks = [np.empty(0)]
        for covariance_XM in self._covariances(weights_XC):
            known_MX = solve_triangular(self.factor_MM, covariance_XM.T, lower=True)
            chunks.append(np.sqrt(np.maximum(self.variance - np.sum(known_MX**2, axis=0), 0)))
        return self.unit * np.concatenate(chunks)

    def _covariances(self, weights_XC: Array) -> Iterator[Array]:
        """Yield covariances of the given with the scored mixtures, (X, M), a chunk at a time."""
        for start in range(0, len(weights_XC), CHUNK):
            rows_XC = self.features(weights_XC[start : start + CHUNK]) / self.scale_C
            yield self.variance * np.exp(-_half_square_distances(rows_XC, self.rows_MC))


def marginal_loss(settings_T: Array, apart_CMM: Array, standard_M: Array) -> tuple[float, Array]:
    """Return the negative logarithm of the marginal likelihood, without its constant, and its gradient, shape (T,)."""
    from scipy.linalg import cho_solve, cholesky

    variance, lengths_C, noise = np.exp(settings_T[0]), np.exp(settings_T[1:-1]), np.exp(settings_T[-1])
    num_rows = len(standard_M)
    flat_CN = apart_CMM.reshape(len(apart_CMM), -1)
    function_MM = variance * np.exp(-0.5 * (lengths_C**-2 @ flat_CN)).reshape(num_rows, num_rows)
    factor_MM = cholesky(function_MM + noise * np.eye(num_rows), lower=True)
    inverse_MM = cho_solve((factor_MM, True), np.eye(num_rows))
    solved_M = inverse_MM @ standard_M
    loss = 0.5 * standard_M @ solved_M + np.sum(np.log(np.diag(factor_MM)))
    pull_MM = inverse_MM - np.outer(solved_M, solved_M)
    weighted_MM = pull_MM * function_MM
    lengths_gradient_C = 0.5 * (flat_CN @ weighted_MM.reshape(-1)) / lengths_C**2
    gradient_T = np.array([0.5 * weighted_MM.sum(), *lengths_gradient_C, 0.5 * noise * np.trace(pull_MM)])
    return float(loss), gradient_T


def _half_square_distances(rows_XC: Array, rows_MC: Array) -> Array:
    """Return half the squared distances, (X, M); rounding is kept from making one negative."""
    squares_XM = np.sum(rows_XC**2, axis=1)[:, None] + np.sum(rows_MC**2, axis=1)
    return np.maximum(0.5 * squares_XM - rows_XC @ rows_MC.T, 0)


def _spread(rows_MC: Array) -> Array:
    """Return the standard deviation by column; 1 for a column that is constant."""
    spread_C = rows_MC.std(axis=0)
    return np.where(spread_C > 0, spread_C, 1.0)


GAUSSIAN_PROCESS = Kind(lambda num_components: MIN_ROWS, settle)
