"""Scores from the values of their items, one a score of the suite and one a capability, and paired comparisons.

Axis letters: R requests.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from nemo_demix.errors import ScoreError
from nemo_demix.scoring.items import NORMAL, Items, ModelItems, Score, items_of_summary, score_of
from nemo_demix.scoring.suite import Suite


@dataclass(frozen=True)
class Comparison:
    """Difference of two models on the same requests, paired where items are known; negative: the first is better.

    `compare` fills in the error of sampling benchmark items alone, `combined` that of other sources too.
    """

    difference: float
    stderr: float | None  # None: not known
    low: float | None  # 95 % interval
    high: float | None
    verdict: str  # better | not distinguishable | worse


def likelihood_items(suite: Suite, bits_R: np.ndarray) -> dict[str, Items]:
    """Make items of benchmarks' gold answers, each counting alike, and of held-out documents, counting by their bytes.

    Args:
        bits_R: Bits of every request's continuation, float64, shape (R,), in the suite's order.
    """
    found = {}
    for name, (rows, sizes_I) in suite.members.items():
        weights_I = sizes_I if name in suite.heldout else np.ones(len(rows))
        found[name] = Items(bits_R[rows] / sizes_I, weights_I)
    return found


def suite_scores(items: ModelItems) -> dict[str, Score]:
    """Work out the score of each name's items."""
    return {name: score_of(found) for name, found in items.items()}


def capability_scores(suite: Suite, scores: Mapping[str, Score]) -> dict[str, Score]:
    """Return the mean of each capability's benchmarks by their weights; which ones count, `averaged_scores` says.

    Raises:
        ScoreError: if a capability's benchmarks are of different units.
    """
    check_units(suite.shares, {name: score.unit for name, score in scores.items()})
    return averaged_capabilities(scores, suite.shares)


def averaged_capabilities(scores: Mapping[str, Score], shares: Mapping[str, Mapping[str, float]]) -> dict[str, Score]:
    """Average scores as `capability_scores` does, where no suite is.

    Args:
        shares: What each score counts in its capability's average, by capability.
    """
    return {capability: _average(capability, scores, members) for capability, members in shares.items()}


def _average(capability: str, scores: Mapping[str, Score], shares: Mapping[str, float]) -> Score:
    first = scores[next(iter(shares))]
    chances = [scores[name].chance for name in shares]
    errors = [scores[name].stderr for name in shares]
    counts = [scores[name].num_items for name in shares]
    return Score(
        score=sum(share * scores[name].score for name, share in shares.items()),
        stderr=None
        if None in errors
        else math.hypot(*(share * (error or 0.0) for share, error in zip(shares.values(), errors, strict=True))),
        num_items=None if None in counts else sum(count or 0 for count in counts),
        unit=first.unit,
        higher_is_better=first.higher_is_better,
        chance=None if None in chances else sum(share * (scores[name].chance or 0.0) for name, share in shares.items()),
    )


def check_units(shares: Mapping[str, Mapping[str, float]], units: Mapping[str, str | None]) -> None:
    """Refuse a capability whose scores have no mean.

    Args:
        shares: What each score counts in its capability's average, by capability.
        units: Units by score name.

    Raises:
        ScoreError: naming two scores of different units.
    """
    for capability, members in shares.items():
        first = next(iter(members))
        for name in members:
            if units[name] != units[first]:
                raise ScoreError(
                    f"capability {capability}: {first} is in {units[first]} and {name} in {units[name]}, which have no "
                    "mean; make them two capabilities, or choose metrics of one unit"
                )


def macro(scores: Mapping[str, Score]) -> float:
    """Return the plain mean over capabilities."""
    return float(np.mean([score.score for score in scores.values()]))


def compare(suite: Suite, first: ModelItems, second: ModelItems) -> Comparison:
    """Return first minus second, macro over capabilities, paired by item; negative: the first is better.

    Where higher is better the sign is turned, so that it always says the same. The interval covers the sampling of
    benchmark items, not training seeds. Scores whose items are not known are compared as if the models' errors were
    independent, which is wider; where not even an error is known, there is no interval.
    """
    return _apart_macro(first, second, suite.shares)


def compare_heldout(suite: Suite, first: ModelItems, second: ModelItems) -> Comparison | None:
    """Return first minus second on held-out text, as `compare` does; None where none is scored."""
    return _apart_macro(first, second, suite.heldout_shares) if suite.heldout else None


def compare_capabilities(suite: Suite, first: ModelItems, second: ModelItems) -> dict[str, Comparison]:
    """Return first minus second by capability, as `compare` does."""
    return {capability: _apart(first, second, list(shares.items())) for capability, shares in suite.shares.items()}


def _apart_macro(first: ModelItems, second: ModelItems, shares: Mapping[str, Mapping[str, float]]) -> Comparison:
    weights = [(name, share / len(shares)) for one in shares.values() for name, share in one.items()]
    return _apart(first, second, weights)


def _apart(first: ModelItems, second: ModelItems, weights: Sequence[tuple[str, float]]) -> Comparison:
    difference = 0.0
    variance: float | None = 0.0
    for name, weight in weights:
        one, other = first[name], second[name]
        sign = -1.0 if one.higher_is_better else 1.0
        apart, stderr = gap(one, other)
        difference += sign * weight * apart
        variance = None if variance is None or stderr is None else variance + (weight * stderr) ** 2
    stderr = None if variance is None else math.sqrt(variance)
    return _judged(difference, stderr, NORMAL * (stderr or 0.0))


def gap(one: Items, other: Items) -> tuple[float, float | None]:
    """Return the difference of two models' scores, in their unit, and its standard error: paired where items are known.

    None: the standard error is not known.
    """
    if one.summary is None and other.summary is None and len(one.values_I) == len(other.values_I):
        difference = score_of(Items(one.values_I - other.values_I, one.weights_I))
        return difference.score, difference.stderr
    first, second = score_of(one), score_of(other)
    known = first.stderr is not None and second.stderr is not None
    return first.score - second.score, math.hypot(first.stderr or 0.0, second.stderr or 0.0) if known else None


def mean_items(orders: Sequence[ModelItems]) -> ModelItems:
    """Return what one mixture's models gave, of one or several data orders: the mean of every item's values.

    Where a score's items are not known, or not as many in every order, it is the mean of the orders' scores, and its
    standard error the mean of theirs: all of them met the same items, so that more orders make it no smaller.
    """
    return {name: _mean_of([items[name] for items in orders]) for name in orders[0]}


def _mean_of(orders: Sequence[Items]) -> Items:
    first = orders[0]
    if len(orders) == 1:
        return first
    if all(one.summary is None and len(one.values_I) == len(first.values_I) for one in orders):
        return replace(first, values_I=np.mean([one.values_I for one in orders], axis=0))
    scores = [score_of(one) for one in orders]
    errors = [score.stderr for score in scores if score.stderr is not None]
    stderr = float(np.mean(errors)) if len(errors) == len(scores) else None
    mean = float(np.mean([score.score for score in scores]))
    kinds = first.unit, first.higher_is_better, first.chance
    return items_of_summary(mean, stderr, scores[0].num_items, *kinds)


def combined(
    comparison: Comparison, seeds_std: float | None, predictor_std: float | None, orders: Sequence[float] = ()
) -> dict[str, Any]:
    """Return a comparison with everything that makes it uncertain: the items sampled, the seeds of training, the
    predictor.

    Args:
        comparison: Paired by item; its standard error covers the items alone.
        seeds_std: Standard deviation of one trained model's macro score between data orders. None: not measured.
        predictor_std: Standard deviation of one mixture's macro score around what a proxy or a predictor says of it.
            None: not measured; 0: both models were really trained.
        orders: Differences by data order, where the comparison is of their mean. Where `seeds_std` is not measured,
            two or more tell what the data order does, and its part of the interval is Student's, by their number.

    Returns:
        difference, stderr (in all), low and high (95 %), verdict, `standard_errors` of the difference by source (null
        where not measured) and the names of the `unmeasured` ones: the interval is too narrow by those. The two models
        err independently, so each of the last two sources counts twice. Half the interval is the root of the sum of
        the squares of what each source alone would give it: Satterthwaite's degrees of freedom are too many where two
        or three orders happen to agree.
    """
    count = max(1, len(orders))
    of_seeds = None if seeds_std is None else math.sqrt(2 / count) * seeds_std
    quantile = NORMAL
    if of_seeds is None and count > 1:
        from scipy.special import stdtrit

        of_seeds, quantile = float(np.std(orders, ddof=1)) / math.sqrt(count), float(stdtrit(count - 1, 0.975))
    of_predictor = None if predictor_std is None else math.sqrt(2) * predictor_std
    errors = {"items": comparison.stderr, "seeds": of_seeds, "predictor": of_predictor}
    measured = [error for error in errors.values() if error is not None]
    is_known = comparison.stderr is not None or any(measured)  # that of no predictor at all is 0, and says nothing
    total = math.hypot(*measured) if is_known else None
    reach = math.hypot(
        NORMAL * (comparison.stderr or 0.0), NORMAL * (of_predictor or 0.0), quantile * (of_seeds or 0.0)
    )
    return {
        **asdict(_judged(comparison.difference, total, reach)),
        "standard_errors": errors,
        "unmeasured": [name for name, error in errors.items() if error is None],
    }


def score_report(suite: Suite, items: ModelItems) -> dict[str, Any]:
    """Return everything about one model's scores, ready for a record."""
    scores = suite_scores(items)
    return {"capabilities": capability_scores(suite, scores), "scores": scores}


def describe_macro(scores: Mapping[str, Score]) -> str:
    """Return the mean over capabilities with its unit, for a line of progress; each capability where units differ."""
    if len(units := {score.unit for score in scores.values()}) == 1:
        return f"{macro(scores):.4f} {units.pop()}, macro over capabilities"
    return ", ".join(f"{name} {score.score:.4f} {score.unit}" for name, score in scores.items())


def _judged(difference: float, stderr: float | None, reach: float) -> Comparison:
    """Return a difference with its verdict; `reach` is half its interval of 95 %."""
    if stderr is None:
        return Comparison(difference, None, None, None, "not distinguishable")
    low, high = difference - reach, difference + reach
    verdict = "better" if high < 0 else "worse" if low > 0 else "not distinguishable"
    return Comparison(difference, stderr, low, high, verdict)
