"""Do proxies order mixtures as really trained models do? Pure maths over scores of the same mixtures.

Every figure is worked out on the references themselves and on bootstrap resamples of them at once, so that figures of
two kinds of proxy can be compared on the same resamples. Inside this module NaN marks "undefined"; nothing that leaves
it does.

Axes: R references, S samples: row 0 is the references themselves, the others are resamples; T references in the top.
Source: DeMix §3 (proxy accuracy and capability recovery). Departs from it: intervals, and undefined stays undefined.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nemo_demix.errors import ScoreError
from nemo_demix.fidelity.intervals import Estimate, summarise, widened_correlation, widened_difference
from nemo_demix.mixture import Array
from nemo_demix.prediction.correlation import MIN_RANKED, TOP_SHARE, average_ranks

Rows = npt.NDArray[np.intp]
MACRO = "macro"  # the plain mean over capabilities
MEASURES = ("rho", "rho_top", "recovery")


@dataclass(frozen=True)
class Columns:
    """Scores of the references, or of one kind of proxy for them, by capability."""

    scores: dict[str, Array]  # each of shape (R,), in the references' order
    higher_is_better: dict[str, bool]
    has_unit: bool = True  # False: only the order means something, so there is no recovery


@dataclass(frozen=True)
class Figures:
    """One kind of proxy against the references: by measure and capability (and `macro`), over all samples."""

    values: dict[str, dict[str, Array]]  # each of shape (S,)
    num_ordered: dict[str, int]  # by measure of order: how many references are ordered
    reasons: dict[str, dict[str, str]]  # where the figure of the references themselves is undefined


def draw_samples(num_references: int, num_bootstrap: int, rng: np.random.Generator) -> Rows:
    """Return indices of references, shape (1 + num_bootstrap, R): first every reference once, then drawn with
    replacement.
    """
    drawn_SR = rng.integers(0, num_references, (num_bootstrap, num_references))
    return np.vstack([np.arange(num_references), drawn_SR]).astype(np.intp)


def figures(reference: Columns, proxy: Columns, samples_SR: Rows) -> Figures:
    """Compute Spearman's rho over all references and over their best quarter, and capability recovery.

    rho is positive where the proxy finds better what is better. Recovery is the sum of the proxy's scores over the sum
    of the references': for bits per byte above 1 where the proxy is the worse model, for accuracies below.

    Args:
        samples_SR: Indices of references, shape (S, R), see `draw_samples`.
    Raises:
        ScoreError: if the proxy lacks a capability of the references, or has another number of scores.
    """
    values: dict[str, dict[str, Array]] = {measure: {} for measure in MEASURES}
    reasons: dict[str, dict[str, str]] = {measure: {} for measure in MEASURES}
    num_references = samples_SR.shape[1]
    for capability, reference_R in reference.scores.items():
        proxy_R = proxy.scores.get(capability)
        if proxy_R is None or proxy_R.shape != reference_R.shape:
            found = "none" if proxy_R is None else f"{len(proxy_R)}"
            raise ScoreError(f"{capability}: expected {len(reference_R)} proxy scores, found {found}; score them again")
        better_R = reference_R if reference.higher_is_better[capability] else -reference_R
        proxy_better_R = proxy_R if proxy.higher_is_better[capability] else -proxy_R
        for measure, rows in (("rho", samples_SR), ("rho_top", _top(better_R, samples_SR))):
            values[measure][capability] = correlations(better_R, proxy_better_R, rows)
            if why := why_no_rho(better_R[rows[0]], proxy_better_R[rows[0]]):
                reasons[measure][capability] = why
        recovery_S, why = _recovery(reference_R, proxy_R, samples_SR, proxy.has_unit)
        values["recovery"][capability] = recovery_S
        if why:
            reasons["recovery"][capability] = why
    for measure in MEASURES:
        lacking = list(reasons[measure])
        values[measure][MACRO] = np.mean(list(values[measure].values()), axis=0)
        if lacking:
            reasons[measure][MACRO] = f"undefined for {', '.join(lacking)}"
    return Figures(values, {"rho": num_references, "rho_top": math.ceil(TOP_SHARE * num_references)}, reasons)


def estimates(given: Figures, confidence: float) -> dict[str, dict[str, Estimate]]:
    """Estimate each measure and capability, with percentile intervals, widened where few references are ordered."""
    result: dict[str, dict[str, Estimate]] = {}
    for measure, of in given.values.items():
        result[measure] = {}
        for name, values_S in of.items():
            found = summarise(values_S, confidence, given.reasons[measure].get(name))
            if measure in given.num_ordered:
                found = widened_correlation(found, given.num_ordered[measure], confidence)
            result[measure][name] = found
    return result


def differences(first: Figures, second: Figures, confidence: float) -> dict[str, dict[str, Estimate]]:
    """Return first minus second on the same resamples, for both rhos; those of few references are widened."""
    result: dict[str, dict[str, Estimate]] = {}
    one, other = estimates(first, confidence), estimates(second, confidence)
    for measure, num_ordered in first.num_ordered.items():
        result[measure] = {}
        for name, first_S in first.values[measure].items():
            why = first.reasons[measure].get(name) or second.reasons[measure].get(name)
            found = summarise(first_S - second.values[measure][name], confidence, why)
            found = widened_difference(found, one[measure][name], other[measure][name], num_ordered)
            result[measure][name] = found
    return result


def correlations(first_R: Array, second_R: Array, rows_ST: Rows) -> Array:
    """Return Spearman's rho of every row of indices, shape (S,), ties at their mean rank.

    NaN where a side is constant, or where fewer than 3 different references are left.
    """
    first_ST, second_ST = (_centred(average_ranks(values_R[rows_ST])) for values_R in (first_R, second_R))
    scale_S = np.sqrt((first_ST**2).sum(axis=1) * (second_ST**2).sum(axis=1))
    sorted_ST = np.sort(rows_ST, axis=1)
    different_S = 1 + (np.diff(sorted_ST, axis=1) > 0).sum(axis=1)
    undefined_S = (scale_S == 0) | (different_S < MIN_RANKED)
    rho_S: Array = (first_ST * second_ST).sum(axis=1) / np.where(scale_S == 0, 1.0, scale_S)
    return np.where(undefined_S, np.nan, np.clip(rho_S, -1.0, 1.0))


def _centred(ranks_ST: Array) -> Array:
    return ranks_ST - ranks_ST.mean(axis=1, keepdims=True)


def _top(better_R: Array, samples_SR: Rows) -> Rows:
    """Return the best quarter of each sample by the references' own scores."""
    count = math.ceil(TOP_SHARE * samples_SR.shape[1])
    order_SR = np.argsort(-better_R[samples_SR], axis=1, kind="stable")
    return np.take_along_axis(samples_SR, order_SR[:, :count], axis=1)


def why_no_rho(reference_R: Array, proxy_R: Array) -> str | None:
    """Return why a correlation of these scores, each of shape (R,), is undefined; None where it is not."""
    if len(reference_R) < MIN_RANKED:
        return f"{len(reference_R)} references to order; {MIN_RANKED} are needed"
    if np.ptp(reference_R) == 0:
        return "the references' scores are constant"
    return "the proxies' scores are constant" if np.ptp(proxy_R) == 0 else None


def _recovery(reference_R: Array, proxy_R: Array, samples_SR: Rows, has_unit: bool) -> tuple[Array, str | None]:
    if not has_unit:
        return np.full(len(samples_SR), np.nan), "it has no score, only an order"
    total_S = reference_R[samples_SR].sum(axis=1)
    recovery_S = np.divide(
        proxy_R[samples_SR].sum(axis=1), total_S, out=np.full(len(samples_SR), np.nan), where=total_S != 0
    )
    return recovery_S, "the references' scores sum to 0" if total_S[0] == 0 else None


@dataclass(frozen=True)
class TokensToMatch:
    """Tokens of one trained proxy that orders mixtures as well as a merged one does; bounds where it is not reached."""

    num_tokens: float | None
    more_than: int | None  # even so many are not enough
    at_most: int | None  # so few are enough already
    reason: str | None


def tokens_to_match(target_rho: float | None, measured: Mapping[int, float | None]) -> TokensToMatch:
    """Return the fewest tokens at which trained proxies reach a rho, interpolated on log2 of the tokens.

    Args:
        target_rho: Spearman's rho of merged proxies; None: undefined.
        measured: rho of trained proxies by their tokens, below those of a reference: a proxy with all of these tokens
            *is* the reference, so its rho of 1 is no measurement and is left out.
    """
    points = sorted((tokens, rho) for tokens, rho in measured.items() if rho is not None)
    if target_rho is None or not points:
        missing = "merged proxies" if target_rho is None else "trained proxies"
        return TokensToMatch(None, None, None, f"rho of {missing} is undefined")
    if points[0][1] >= target_rho:
        return TokensToMatch(None, None, points[0][0], "the shortest trained proxies are as good already")
    for (fewer, below), (more, above) in itertools.pairwise(points):
        if below < target_rho <= above:
            part = (target_rho - below) / (above - below)
            return TokensToMatch(2 ** (math.log2(fewer) + part * math.log2(more / fewer)), None, None, None)
    return TokensToMatch(None, points[-1][0], None, "the longest trained proxies do not reach it")
