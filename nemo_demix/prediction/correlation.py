"""Rank correlation of measured with predicted scores, undefined where it has no meaning.

Axes: M scored mixtures.
"""

import numpy as np

from nemo_demix.mixture import Array

TOP_SHARE = 0.25  # DeMix reports rho over the best quarter as well (Table 2)
MIN_RANKED = 3  # any two points correlate perfectly


def average_ranks(values: Array) -> Array:
    """Return ranks along the last axis, 1 the smallest, in the shape of `values`; equal values share the mean of
    theirs.

    No value may be NaN. The bits are the same as those of `scipy.stats.rankdata`, whose import takes a second.
    """
    order = np.argsort(values, axis=-1)
    ordered = np.take_along_axis(values, order, axis=-1)
    count = values.shape[-1]
    place = np.broadcast_to(np.arange(count), values.shape)
    changes = ordered[..., 1:] != ordered[..., :-1]
    edge = np.ones_like(changes, shape=(*values.shape[:-1], 1))
    first = np.maximum.accumulate(np.where(np.concatenate([edge, changes], axis=-1), place, 0), axis=-1)
    last = np.where(np.concatenate([changes, edge], axis=-1), place, count)
    last = np.minimum.accumulate(last[..., ::-1], axis=-1)[..., ::-1]
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1, axis=-1)
    return ranks


def spearman(measured_M: Array, predicted_M: Array) -> float | None:
    """Return Spearman's rho; None, never 0, where it is undefined: a constant side, or fewer than 3 values."""
    if len(measured_M) < MIN_RANKED or np.ptp(measured_M) == 0 or np.ptp(predicted_M) == 0:
        return None
    ranks_M2 = np.column_stack([average_ranks(measured_M), average_ranks(predicted_M)])
    return float(np.corrcoef(ranks_M2, rowvar=False)[1, 0])


def top_spearman(measured_M: Array, predicted_M: Array, higher_is_better: bool) -> float | None:
    """Return Spearman's rho over the quarter, rounded up, with the best measured scores; None where it is undefined."""
    order_M = np.argsort(-measured_M if higher_is_better else measured_M, kind="stable")
    best_M = order_M[: int(np.ceil(TOP_SHARE * len(measured_M)))]
    return spearman(measured_M[best_M], predicted_M[best_M])
