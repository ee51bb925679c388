"""The data mixing law: a score is a constant and an exponential of the mixture, y = c + k exp(t . w).

On the simplex the size of k is a shift of all of t, so that only its sign is fitted: y = c + sign exp(t . w).

Axes: M mixtures it is fitted on, X mixtures it predicts, C components, P parameters: c and then t.
Source: Ye et al., Data Mixing Laws (ICLR 2025), Eq. 2; one target at a time, with a squared loss that grows linearly
for outliers in place of their Huber loss.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from nemo_demix.config import PredictorConfig
from nemo_demix.errors import ScoreError
from nemo_demix.mixture import Array
from nemo_demix.prediction.base import Bootstrapped, Function, Kind, Model, Settled

SPARE_ROWS = 3  # more mixtures than components: c, and two to tell a fit from an interpolation
GAPS = (0.2, 1.0, 5.0)  # starts: how far c lies beyond the scores, in their standard deviations
START_STEPS, MAX_STEPS = 30, 200  # evaluations, to compare the starts and to finish the best one
MAX_EXPONENT = 50.0  # of a score in standard deviations; only steps that are then refused come near
SHRINKAGE = 1e-3  # pull of t's entries to their mean: a component that no mixture uses gets a finite one


@dataclass(frozen=True, eq=False)
class Law:
    """The fitted law of standardised scores, within bounds; `mean` and `scale` give them their unit back."""

    sign: float
    parameters_P: Array
    mean: float
    scale: float
    bounds: tuple[float, float]

    def __call__(self, weights_XC: Array) -> Array:
        """Return predictions, float64, shape (X,)."""
        standard_X = self.parameters_P[0] + self.sign * _exponential(self.parameters_P, weights_XC)
        return self.mean + self.scale * np.clip(standard_X, *self.bounds)


def settle(config: PredictorConfig, weights_MC: Array, scores_M: Array, seed: int) -> Settled:
    """Return the sign, and the best of several starts.

    Raises:
        ScoreError: if no start leads to a finite fit.
    """
    standard_M, _, _ = _standardised(scores_M)
    fits = []
    for sign in (1.0, -1.0):
        for gap in GAPS:
            constant = sign * np.min(sign * standard_M) - sign * gap
            # With c given, the logarithm of what is left is linear in the mixture.
            exponents_C = np.linalg.lstsq(weights_MC, np.log(sign * (standard_M - constant)), rcond=1e-6)[0]
            fits.append(
                (sign, *_minimised(sign, np.append(constant, exponents_C), weights_MC, standard_M, START_STEPS))
            )
    finite = [found for found in fits if np.isfinite(found[2])]
    if not finite:
        raise ScoreError(
            f"search.predictor.kind=log_linear: no fit of c + k exp(t . w) to {len(scores_M)} scores from "
            f"{scores_M.min():.4g} to {scores_M.max():.4g} was found from {len(fits)} starts; use another kind"
        )
    sign, start_P, _ = min(finite, key=lambda found: found[2])

    def fit_model(weights_MC: Array, scores_M: Array, seed: int) -> Model:
        return Bootstrapped(partial(fit, sign, start_P), weights_MC, scores_M, seed, config.num_bootstrap)

    return Settled("log_linear", fit_model)


def fit(sign: float, start_P: Array, weights_MC: Array, scores_M: Array, seed: int) -> Function:
    """Return the law of these rows, from parameters near to its own."""
    standard_M, mean, scale = _standardised(scores_M)
    parameters_P, _ = _minimised(sign, start_P, weights_MC, standard_M, MAX_STEPS)
    # An exponential that a few noisy rows bent can run off: nothing is predicted beyond the scores' range times three.
    reach = np.ptp(standard_M)
    bounds = float(standard_M.min() - reach), float(standard_M.max() + reach)
    return Law(sign, parameters_P, mean, scale, bounds)


def _minimised(
    sign: float, start_P: Array, weights_MC: Array, standard_M: Array, max_steps: int
) -> tuple[Array, float]:
    """Return the parameters of the least robust loss, and that loss."""
    from scipy.optimize import least_squares

    num_components = weights_MC.shape[1]
    centring_CC = SHRINKAGE * (np.eye(num_components) - 1 / num_components)
    pull_CP = np.hstack([np.zeros((num_components, 1)), centring_CC])

    def residuals(parameters_P: Array) -> Array:
        misfit_M = parameters_P[0] + sign * _exponential(parameters_P, weights_MC) - standard_M
        return np.append(misfit_M, pull_CP @ parameters_P)

    def slopes(parameters_P: Array) -> Array:
        rise_MC = sign * _exponential(parameters_P, weights_MC)[:, None] * weights_MC
        return np.vstack([np.hstack([np.ones((len(weights_MC), 1)), rise_MC]), pull_CP])

    found = least_squares(residuals, start_P, slopes, loss="soft_l1", max_nfev=max_steps)
    return found.x, float(found.cost)


def _exponential(parameters_P: Array, weights_XC: Array) -> Array:
    return np.exp(np.minimum(weights_XC @ parameters_P[1:], MAX_EXPONENT))


def _standardised(scores_M: Array) -> tuple[Array, float, float]:
    """Return scores of mean 0 and standard deviation 1, and what was taken off; constant scores become 0."""
    mean, scale = float(scores_M.mean()), float(scores_M.std()) or 1.0
    return (scores_M - mean) / scale, mean, scale


LOG_LINEAR = Kind(lambda num_components: num_components + SPARE_ROWS, settle)
