"""The floor under held-out text where merged proxies choose: their own held-out scores, predicted for any mixture.

Axes: M scored mixtures, X predicted ones, C components.
"""

import numpy as np
import numpy.typing as npt

from nemo_demix.config import PredictorConfig
from nemo_demix.mixture import Array
from nemo_demix.prediction.predictors import fit_predictor

HELDOUT = "heldout"  # what the one score is called
ROUNDING = 1e-9  # bits per byte: what the floor is counted from is above it, predicted alone or among others


class HeldoutFloor:
    """Which mixtures are predicted to be worse on held-out text by no more than the floor.

    Args:
        scores_M: The macro score of the scored mixtures, shape (M,), bits per byte.
        baseline_C: The mixture that the floor is counted from, shape (C,).
        floor: How much worse a mixture may be, bits per byte.
        seed: Seed of the predictor.
    """

    def __init__(
        self,
        predictor: PredictorConfig,
        weights_MC: Array,
        scores_M: Array,
        baseline_C: Array,
        floor: float,
        seed: int,
    ) -> None:
        self._predictor = fit_predictor(predictor, weights_MC, {HELDOUT: scores_M}, seed)
        self.most = float(self.scores(baseline_C[None])[0]) + floor

    def scores(self, weights_XC: Array) -> Array:
        """Return the predicted macro score, shape (X,), bits per byte."""
        return self._predictor.predict(weights_XC)[HELDOUT]

    def kept(self, weights_XC: Array, bound: float = 0.0) -> npt.NDArray[np.bool_]:
        """Return which mixtures are above the floor, bool, shape (X,).

        Args:
            bound: Standard deviations by which the prediction may be too pessimistic.
        """
        scores_X = self.scores(weights_XC)
        if bound:
            scores_X = scores_X - bound * self._predictor.predict_std(weights_XC)[HELDOUT]
        kept_X: npt.NDArray[np.bool_] = scores_X <= self.most + ROUNDING
        return kept_X
