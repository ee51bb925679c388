"""Intervals of figures that were worked out on the references and on bootstrap resamples of them.

Axes: S samples: entry 0 is the references themselves, the others are resamples.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from nemo_demix.mixture import Array
from nemo_demix.prediction.correlation import MIN_RANKED

MIN_RESAMPLED = 10  # of fewer references, resamples repeat each other: 4 in perfect order are so in every resample


@dataclass(frozen=True)
class Estimate:
    """A figure with its percentile interval; `value` is None where it is undefined, and `reason` says why."""

    value: float | None
    low: float | None
    high: float | None
    num_dropped: int  # resamples in which it is undefined; the interval is over the others
    reason: str | None


def summarise(values_S: Array, confidence: float, reason: str | None = None) -> Estimate:
    """Give the first value, with the percentile interval of the others that are defined.

    Args:
        values_S: A figure on each sample, shape (S,), NaN where it is undefined.
        confidence: Share of the resamples within the interval.
        reason: Why the first value is undefined, if it is.
    """
    drawn_S = values_S[1:]
    defined_S = drawn_S[np.isfinite(drawn_S)]
    dropped = len(drawn_S) - len(defined_S)
    if not math.isfinite(values_S[0]):
        assert reason is not None, "an undefined figure needs a reason"
        return Estimate(None, None, None, dropped, reason)
    if not len(defined_S):
        return Estimate(float(values_S[0]), None, None, dropped, "no interval: undefined in every resample")
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined_S, [tail, 1 - tail])
    return Estimate(float(values_S[0]), float(low), float(high), dropped, None)


def widened_correlation(estimate: Estimate, num_ordered: int, confidence: float) -> Estimate:
    """Make an interval at least as wide as Fisher's, where too few references are ordered for resamples to differ.

    A perfect order counts as one with a single pair of neighbours exchanged. Of 3 references nothing is known.
    Source: Bonett and Wright 2000 (the standard error for Spearman's rho).
    """
    if estimate.value is None or num_ordered >= MIN_RESAMPLED:
        return estimate
    if num_ordered <= MIN_RANKED:
        return _hull(estimate, -1.0, 1.0)
    limit = 1 - 12 / (num_ordered * (num_ordered**2 - 1))
    rho = max(-limit, min(limit, estimate.value))
    from scipy.special import ndtri

    reach = ndtri((1 + confidence) / 2) * math.sqrt((1 + rho**2 / 2) / (num_ordered - 3))
    return _hull(estimate, math.tanh(math.atanh(rho) - reach), math.tanh(math.atanh(rho) + reach))


def widened_difference(estimate: Estimate, first: Estimate, second: Estimate, num_ordered: int) -> Estimate:
    """Widen the interval of a difference of two correlations of few references.

    It becomes at least as wide as it would be if the two, with their own intervals, were independent.

    Source: Zou 2007, Toward using confidence intervals to compare correlations.
    """
    if estimate.value is None or num_ordered >= MIN_RESAMPLED:
        return estimate
    (below, above), (second_below, second_above) = _reach(first), _reach(second)
    low = estimate.value - math.hypot(below, second_above)
    return _hull(estimate, low, estimate.value + math.hypot(above, second_below))


def _reach(estimate: Estimate) -> tuple[float, float]:
    """Return how far the interval goes below and above the value."""
    value, low, high = estimate.value, estimate.low, estimate.high
    if value is None or low is None or high is None:
        raise AssertionError("correlations of few references are defined and have intervals where a difference is")
    return value - low, high - value


def _hull(estimate: Estimate, low: float, high: float) -> Estimate:
    ends = [low, high, *(end for end in (estimate.value, estimate.low, estimate.high) if end is not None)]
    return replace(estimate, low=float(min(ends)), high=float(max(ends)), reason=None)
