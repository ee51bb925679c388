"""Does a stand-in choose as the references would? Pure maths over one number a mixture, the score that is minimised.

Every figure is worked out on the references and on bootstrap resamples of them at once. A resample is the number of
times that each reference is in it, so that ranks, pairs and sums are products of matrices. Inside this module NaN
marks "undefined"; nothing that leaves it does.

Axes: R references, S samples: row 0 is the references themselves, the others are resamples; K groups of figures; E data
orders.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nemo_demix.errors import ScoreError
from nemo_demix.fidelity.consistency import why_no_rho
from nemo_demix.fidelity.intervals import (
    MIN_RESAMPLED,
    Estimate,
    summarise,
    widened_correlation,
    widened_difference,
)
from nemo_demix.fidelity.resampled import SIZES, TOP, centred, line, pairs_right, regrets, weighted_rho
from nemo_demix.mixture import Array

MEASURES = ("rho", "pairs", *(f"pairs_{size}" for size in SIZES), "regret", "regret_top5", "slope", "residual")
WITH_UNIT = ("slope", "residual")  # mean nothing where a stand-in has an order and no score
ONLY_AN_ORDER = "it has no score, only an order"
_FEW = f"no interval: resamples of fewer than {MIN_RESAMPLED} references repeat each other"


@dataclass(frozen=True)
class StandIn:
    """What stands for the references: one number a mixture, lower is better."""

    values_R: Array
    has_unit: bool = True  # False: only the order means something


@dataclass(frozen=True)
class Decision:
    """One stand-in against the references, by measure (MEASURES)."""

    values: dict[str, Array]  # each of shape (S,)
    reasons: dict[str, str]  # where the figure of the references themselves is undefined
    num_references: int
    spread_S: Array  # the stand-in's squared deviations, summed: what each slope counts in a mean of several


def decision(reference_R: Array, stand_in: StandIn, counts_SR: Array) -> Decision:
    """Judge a stand-in by all measures, on every sample.

    rho: Spearman's, ties at their mean rank. pairs: the share of the pairs of references that are ordered right, of
    those whose scores differ; pairs_small, _middle and _large: of the third of these pairs with the smallest, middle
    and largest difference of the references. regret: the reference score of the stand-in's best minus the best
    reference's; regret_top5: the same for the best reference among the stand-in's best five. Both are 0 or above.
    slope: of the reference on the stand-in, least squares; below 1 where the stand-in exaggerates. residual: standard
    deviation of reference minus stand-in, without their mean. Ties of the stand-in count against it: such a pair is
    not ordered right, and of equal candidates for the best the worst is taken.

    Args:
        reference_R: The references' scores, shape (R,), lower is better; regret and residual have their unit.
        stand_in: The stand-in, its values in the same order of references.
        counts_SR: `multiplicities` of the samples, shape (S, R). Where a sample has fewer than 3 different references,
            or a side of it is constant, nothing is defined.

    Raises:
        ScoreError: if there is another number of values than of references.
    """
    proxy_R = stand_in.values_R
    if proxy_R.shape != reference_R.shape:
        raise ScoreError(f"objective: expected {len(reference_R)} proxy scores, found {len(proxy_R)}; score them again")
    rho_S = weighted_rho(reference_R, proxy_R, counts_SR)
    values = {"rho": rho_S, **pairs_right(reference_R, proxy_R, counts_SR), **regrets(reference_R, proxy_R, counts_SR)}
    values |= line(reference_R, proxy_R, counts_SR)
    undefined_S = np.isnan(rho_S)
    values = {measure: np.where(undefined_S, np.nan, values[measure]) for measure in MEASURES}
    reasons: dict[str, str] = {}
    if why := why_no_rho(reference_R, proxy_R):
        reasons = dict.fromkeys(MEASURES, why)
    if len(reference_R) <= TOP:
        reasons.setdefault("regret_top5", f"the best {TOP} of {len(reference_R)} references are all of them")
    for size in SIZES:
        if np.isnan(values[f"pairs_{size}"][0]):
            reasons.setdefault(f"pairs_{size}", f"fewer than {len(SIZES)} pairs of references differ")
    if not stand_in.has_unit:
        reasons |= dict.fromkeys(WITH_UNIT, ONLY_AN_ORDER)
        values |= {measure: np.full(len(counts_SR), np.nan) for measure in WITH_UNIT}
    centred_SR = centred(np.broadcast_to(proxy_R, counts_SR.shape), counts_SR)
    return Decision(values, reasons, len(reference_R), (counts_SR * centred_SR**2).sum(axis=1))


def over_orders(
    reference_ER: Array, counts_SR: Array, seed: int, judge: Callable[[Array, Array], dict[str, Decision]]
) -> dict[str, Decision]:
    """Judge by the mean over data orders; resamples draw the orders too, as what an order does hangs on the mixture.

    Drawing from few orders holds their noise twice, so that intervals are wide rather than narrow.

    Args:
        reference_ER: The references' scores in each data order.
        counts_SR: `multiplicities` of the samples of references, shape (S, R).
        seed: Draws the orders.
        judge: Gives decisions by name, of references' scores, shape (R,), on some of the samples.
    """
    num_orders, num_samples = len(reference_ER), len(counts_SR)
    drawn_SE = np.sort(np.random.default_rng(seed).integers(0, num_orders, (num_samples, num_orders)), axis=1)
    drawn_SE[0] = np.arange(num_orders)
    found: dict[str, Decision] = {}
    for drawn_E in np.unique(drawn_SE, axis=0):
        rows = np.flatnonzero((drawn_SE == drawn_E).all(axis=1))
        for name, part in judge(reference_ER[drawn_E].mean(axis=0), counts_SR[rows]).items():
            if name not in found:
                nothing = {measure: np.full(num_samples, np.nan) for measure in part.values}
                found[name] = replace(part, values=nothing, spread_S=np.zeros(num_samples))
            for measure, values_S in part.values.items():
                found[name].values[measure][rows] = values_S
            found[name].spread_S[rows] = part.spread_S
            if rows[0] == 0:
                found[name] = replace(found[name], reasons=part.reasons)
    return found


def undefined(reason: str, num_samples: int, num_references: int) -> Decision:
    """Return a stand-in of which nothing can be said."""
    nothing_S = np.full(num_samples, np.nan)
    spread_S = np.zeros(num_samples)
    return Decision(dict.fromkeys(MEASURES, nothing_S), dict.fromkeys(MEASURES, reason), num_references, spread_S)


def averaged(decisions: Sequence[Decision], counts_SK: Array | None = None) -> Decision:
    """Average several groups of figures, on every sample: over splits, or over sets of component models.

    The figure of the references themselves is undefined where it is so in any group; that of a resample is the mean
    over the groups in which it is defined. The slope is that of least squares in all groups together, each around its
    own mean: a stand-in that hardly varies in one group has a slope there that says nothing.

    Args:
        decisions: K decisions, on the same samples.
        counts_SK: How often each group counts in each sample, shape (S, K), so that groups are resampled too; None:
            once.
    """
    num_samples = len(decisions[0].values["rho"])
    counts_SK = np.ones((num_samples, len(decisions))) if counts_SK is None else counts_SK
    values: dict[str, Array] = {}
    reasons: dict[str, str] = {}
    for found in decisions:
        reasons = found.reasons | reasons
    spread_SK = np.column_stack([found.spread_S for found in decisions])
    for measure in MEASURES:
        values_SK = np.column_stack([found.values[measure] for found in decisions])
        used_SK = np.where(np.isnan(values_SK), 0.0, counts_SK)
        if measure == "slope":
            used_SK = used_SK * spread_SK
        total_S = (used_SK * np.where(used_SK > 0, values_SK, 0.0)).sum(axis=1)
        weight_S = used_SK.sum(axis=1)
        values[measure] = np.divide(total_S, weight_S, out=np.full(num_samples, np.nan), where=weight_S > 0)
        if measure in reasons:
            values[measure][0] = np.nan
    num_references = min(found.num_references for found in decisions)
    return Decision(values, reasons, num_references, spread_SK.mean(axis=1))


def decision_estimates(found: Decision, confidence: float) -> dict[str, Estimate]:
    """Estimate each measure with its percentile interval; of few references only rho has one, which is widened."""
    result: dict[str, Estimate] = {}
    for measure, values_S in found.values.items():
        estimate = summarise(values_S, confidence, found.reasons.get(measure))
        if measure == "rho":
            estimate = widened_correlation(estimate, found.num_references, confidence)
        elif estimate.value is not None and found.num_references < MIN_RESAMPLED:
            estimate = replace(estimate, low=None, high=None, reason=_FEW)
        result[measure] = estimate
    return result


def rho_difference(first: Decision, second: Decision, confidence: float) -> Estimate:
    """Return rho of the first minus that of the second, on the same resamples; of few references it is widened."""
    why = first.reasons.get("rho") or second.reasons.get("rho")
    found = summarise(first.values["rho"] - second.values["rho"], confidence, why)
    one, other = (decision_estimates(each, confidence)["rho"] for each in (first, second))
    return widened_difference(found, one, other, min(first.num_references, second.num_references))
