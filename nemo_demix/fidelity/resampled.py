"""Rank correlation, pairs, regret and a line, of one number a mixture: on references and on resamples of them at once.

A sample is how often each reference is in it, so that ranks, pairs and sums are products of matrices; a reference that
it has twice counts twice. Lower is better on both sides. NaN marks what is undefined.

Axes: R references, S samples; P pairs of references.
"""

import numpy as np
import numpy.typing as npt

from nemo_demix.fidelity.consistency import Rows
from nemo_demix.mixture import Array
from nemo_demix.prediction.correlation import MIN_RANKED

SIZES = ("small", "middle", "large")  # of the difference between two references: thirds of the pairs
TOP = 5  # mixtures that a second look could tell apart
Sizes = npt.NDArray[np.intp]
Flags = npt.NDArray[np.bool_]


def multiplicities(samples_SR: Rows) -> Array:
    """Return how often each reference is in each sample, float64, shape (S, R)."""
    num_references = samples_SR.shape[1]
    return np.array([np.bincount(row, minlength=num_references) for row in samples_SR], dtype=np.float64)


def pair_edges(reference_R: Array) -> tuple[float, float] | None:
    """Return the largest difference of the small and of the middle pairs; None where fewer than 3 pairs differ.

    The references' scores have shape (R,); the differences have their unit.
    """
    size_RR = _sizes(reference_R)
    if size_RR.max() < len(SIZES) - 1:
        return None
    gaps_RR = np.abs(reference_R[:, None] - reference_R)
    small, middle = (float(gaps_RR[size_RR == index].max()) for index in range(len(SIZES) - 1))
    return small, middle


def weighted_rho(reference_R: Array, proxy_R: Array, counts_SR: Array) -> Array:
    """Return Spearman's rho of every sample, shape (S,), as `consistency.correlations` has it, ties at their mean rank.

    NaN where a side is constant, or where a sample has fewer than 3 different references.
    """
    first_SR, second_SR = (centred(_ranks(values_R, counts_SR), counts_SR) for values_R in (reference_R, proxy_R))
    scale_S = np.sqrt((counts_SR * first_SR**2).sum(axis=1) * (counts_SR * second_SR**2).sum(axis=1))
    undefined_S = (scale_S == 0) | ((counts_SR > 0).sum(axis=1) < MIN_RANKED)
    rho_S: Array = (counts_SR * first_SR * second_SR).sum(axis=1) / np.where(scale_S == 0, 1.0, scale_S)
    return np.where(undefined_S, np.nan, np.clip(rho_S, -1.0, 1.0))


def _ranks(values_R: Array, counts_SR: Array) -> Array:
    """Return the mean rank of each reference in each sample, up to a constant."""
    below_RR = (values_R[:, None] < values_R) + 0.5 * (values_R[:, None] == values_R)
    return counts_SR @ below_RR


def centred(values_SR: Array, counts_SR: Array) -> Array:
    """Return values minus their mean in each sample, shape (S, R)."""
    total_S = np.maximum(counts_SR.sum(axis=1), 1.0)  # of a sample without references nothing is used
    return values_SR - ((counts_SR * values_SR).sum(axis=1) / total_S)[:, None]


def _sizes(reference_R: Array) -> Sizes:
    """Return the index in SIZES of each pair of references, shape (R, R), symmetric; -1 for pairs that do
    not differ.
    """
    first_P, second_P = np.triu_indices(len(reference_R), 1)
    gap_P = np.abs(reference_R[first_P] - reference_R[second_P])
    order_P = np.argsort(gap_P, kind="stable")
    size_RR = np.full((len(reference_R), len(reference_R)), -1, dtype=np.intp)
    for index, pairs in enumerate(np.array_split(order_P[gap_P[order_P] > 0], len(SIZES))):
        size_RR[first_P[pairs], second_P[pairs]] = size_RR[second_P[pairs], first_P[pairs]] = index
    return size_RR


def pairs_right(reference_R: Array, proxy_R: Array, counts_SR: Array) -> dict[str, Array]:
    """Compute the share of pairs that a proxy orders as the references are, of all pairs that differ and by size.

    Returns:
        `pairs` and `pairs_<size>`, shape (S,) each, from 0 to 1.

    A tie of the proxy is not right. NaN where a sample has no such pair. Which third a pair is in is settled on the
    references themselves, and holds for all samples.
    """
    size_RR = _sizes(reference_R)
    right_RR = np.sign(reference_R[:, None] - reference_R) == np.sign(proxy_R[:, None] - proxy_R)
    shares = {"pairs": _share_right(size_RR >= 0, right_RR, counts_SR)}
    return shares | {
        f"pairs_{size}": _share_right(size_RR == index, right_RR, counts_SR) for index, size in enumerate(SIZES)
    }


def _share_right(asked_RR: Flags, right_RR: Flags, counts_SR: Array) -> Array:
    asked_S, right_S = (
        (counts_SR @ pairs_RR.astype(np.float64) * counts_SR).sum(axis=1)
        for pairs_RR in (asked_RR, asked_RR & right_RR)
    )
    return np.divide(right_S, asked_S, out=np.full(len(counts_SR), np.nan), where=asked_S > 0)


def regrets(reference_R: Array, proxy_R: Array, counts_SR: Array) -> dict[str, Array]:
    """Compute the reference score of the proxy's best, and the best among its best TOP, minus the best reference's.

    Of equal proxies the worst reference comes first. The second is NaN where a sample has no more than TOP references.

    Returns:
        `regret` and `regret_top5`, shape (S,) each, 0 or above, in the references' unit.
    """
    order_R = np.lexsort((-reference_R, proxy_R))  # the stand-in's best first, and of equal ones the worst
    drawn_SR, ordered_R = counts_SR[:, order_R], reference_R[order_R]
    ahead_SR = np.cumsum(drawn_SR, axis=1) - drawn_SR

    def best_S(among_SR: Flags) -> Array:
        return np.where(among_SR, ordered_R, np.inf).min(axis=1)

    present_SR = drawn_SR > 0
    known_S = present_SR.any(axis=1)
    least_S = np.where(known_S, best_S(present_SR), 0.0)
    first_S, top_S = (best_S(present_SR & (ahead_SR < count)) - least_S for count in (1, TOP))
    enough_S = counts_SR.sum(axis=1) > TOP
    return {"regret": np.where(known_S, first_S, np.nan), "regret_top5": np.where(enough_S, top_S, np.nan)}


def line(reference_R: Array, proxy_R: Array, counts_SR: Array) -> dict[str, Array]:
    """Fit a line of the references on the proxy by least squares.

    Returns:
        `slope`, NaN where the proxy is constant, and `residual`, the standard deviation of their difference (n - 1),
        in the references' unit; shape (S,) each.
    """
    reference_SR, proxy_SR = (
        centred(np.broadcast_to(values_R, counts_SR.shape), counts_SR) for values_R in (reference_R, proxy_R)
    )
    spread_S = (counts_SR * proxy_SR**2).sum(axis=1)
    slope_S = np.divide(
        (counts_SR * reference_SR * proxy_SR).sum(axis=1),
        spread_S,
        out=np.full(len(counts_SR), np.nan),
        where=spread_S > 0,
    )
    freedom_S = np.maximum(counts_SR.sum(axis=1) - 1, 1.0)
    residual_S = np.sqrt((counts_SR * (reference_SR - proxy_SR) ** 2).sum(axis=1) / freedom_S)
    return {"slope": slope_S, "residual": residual_S}
