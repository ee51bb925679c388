"""Folds of scored mixtures, and predictions of each fold by what was fitted on the others.

Axes: M scored mixtures, C components.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from nemo_demix.mixture import Array
from nemo_demix.prediction.base import Settled

INNER_FOLDS = 5  # of what a predictor chooses by itself, apart from the folds that it is judged by

Folds = npt.NDArray[np.signedinteger]


def draw_folds(weights_MC: Array, num_folds: int, rng: np.random.Generator) -> Folds:
    """Return a fold for every row, shape (M,); rows of one mixture share theirs, so none is predicted from its own
    repeat.
    """
    mixture_M = np.unique(weights_MC, axis=0, return_inverse=True)[1].reshape(-1)
    return (rng.permutation(mixture_M.max() + 1) % num_folds)[mixture_M]


def out_of_fold(
    settle: Callable[[Array, Array, int], Settled], weights_MC: Array, scores_M: Array, fold_M: Folds, seed: int
) -> Array:
    """Return predictions of every row, shape (M,), by regressors whose settings and fit have not seen its fold."""
    predicted_M = np.empty(len(scores_M))
    for fold in np.unique(fold_M):
        held_M = fold_M == fold
        kept = weights_MC[~held_M], scores_M[~held_M]
        predicted_M[held_M] = settle(*kept, seed).fit(*kept, seed).predict(weights_MC[held_M])
    return predicted_M
