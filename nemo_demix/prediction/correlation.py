"""Rank correlation of measured with predicted scores, undefined where it has no meaning.

Axes: M scored mixtures.
"""

import numpy as np
from scipy.stats import spearmanr

from nemo_demix.mixture import Array

TOP_SHARE = 0.25  # DeMix reports rho over the best quarter as well (Table 2)
MIN_RANKED = 3  # any two points correlate perfectly


def spearman(measured_M: Array, predicted_M: Array) -> float | None:
    """Spearman's rho; None, never 0, where it is undefined: a constant side, or fewer than 3 values."""
    if len(measured_M) < MIN_RANKED or np.ptp(measured_M) == 0 or np.ptp(predicted_M) == 0:
        return None
    return float(spearmanr(measured_M, predicted_M).statistic)


def top_spearman(measured_M: Array, predicted_M: Array, higher_is_better: bool) -> float | None:
    """Spearman's rho over the quarter, rounded up, with the best measured scores; None where it is undefined."""
    order_M = np.argsort(-measured_M if higher_is_better else measured_M, kind="stable")
    best_M = order_M[: int(np.ceil(TOP_SHARE * len(measured_M)))]
    return spearman(measured_M[best_M], predicted_M[best_M])
