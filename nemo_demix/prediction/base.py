"""What a predictor is, and what each kind of predictor provides for one benchmark.

A kind works in two steps: `settle` chooses its settings from the scored mixtures, and the `Settled` result is fitted,
on all of them or on resampled ones. So refits repeat what was chosen, and choosing is done again wherever
cross-validation leaves rows out.

Axes: M mixtures it is fitted on, X mixtures it predicts, C components.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from nemo_demix.config import PredictorConfig
from nemo_demix.mixture import Array

Function = Callable[[Array], Array]  # weights_XC -> predicted scores, (X,)
FitFunction = Callable[[Array, Array, int], Function]  # weights_MC, scores_M, seed


class Predictor(Protocol):
    """Fitted regressors of all benchmarks."""

    @property
    def chosen(self) -> dict[str, str]:
        """The kind of predictor used, by benchmark."""
        ...

    def predict(self, weights_XC: Array) -> dict[str, Array]:
        """Return predicted scores by benchmark, each float64 of shape (X,), in the unit of the scores it was fitted on.

        Raises:
            MixtureError: if the shape is not (X, C), or a row is not on the simplex.
        """
        ...

    def predict_std(self, weights_XC: Array) -> dict[str, Array]:
        """Return the standard deviation of the predicted function, without the noise of a score; shapes and units as
        `predict`.

        The first call pays for the refits that it takes.
        """
        ...


class Model(Protocol):
    """The fitted regressor of one benchmark."""

    def predict(self, weights_XC: Array) -> Array:
        """Return predicted scores, float64, shape (X,)."""
        ...

    def predict_std(self, weights_XC: Array) -> Array:
        """Return the standard deviation of the predicted function, float64, shape (X,), >= 0."""
        ...


@dataclass(frozen=True)
class Settled:
    """A kind with its settings chosen; `fit(weights_MC, scores_M, seed)` fits one benchmark."""

    kind: str
    fit: Callable[[Array, Array, int], Model]


@dataclass(frozen=True)
class Kind:
    """One kind of predictor.

    Attributes:
        min_rows: The fewest distinct mixtures it can be fitted on, given C.
        settle: Chooses its settings from (config, weights_MC, scores_M, seed).
    """

    min_rows: Callable[[int], int]
    settle: Callable[[PredictorConfig, Array, Array, int], Settled]


class Bootstrapped:
    """A fitted function, and the spread of `count` refits on resampled rows; these wait until they are asked for."""

    def __init__(self, fit: FitFunction, weights_MC: Array, scores_M: Array, seed: int, count: int) -> None:
        self.function = fit(weights_MC, scores_M, seed)
        self._fit = fit
        self._rows = weights_MC, scores_M
        self._seed = seed
        self._count = count

    @cached_property
    def _refits(self) -> Sequence[Function]:
        weights_MC, scores_M = self._rows
        rng = np.random.default_rng(self._seed)
        drawn = [resampled_rows(len(weights_MC), rng) for _ in range(self._count)]
        return [self._fit(weights_MC[rows_M], scores_M[rows_M], self._seed) for rows_M in drawn]

    def predict(self, weights_XC: Array) -> Array:
        """Return predictions of the function fitted on all rows, float64, shape (X,)."""
        return self.function(weights_XC)

    def predict_std(self, weights_XC: Array) -> Array:
        """Return the standard deviation of the refits' predictions, float64, shape (X,).

        Memory: the predictions of every refit at once, `count` x X float64.
        """
        return np.std([refit(weights_XC) for refit in self._refits], axis=0, ddof=1)


def resampled_rows(num_rows: int, rng: np.random.Generator) -> np.ndarray:
    """Draw as many rows with replacement: their indices, ascending, shape (num_rows,)."""
    return np.sort(rng.integers(num_rows, size=num_rows))
