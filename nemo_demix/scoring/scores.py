"""Scores from per-request bits: one a benchmark, one a capability, with standard errors, and paired comparisons.

Axis letters: R requests.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nemo_demix.scoring.suite import Suite

UNIT = "bits/byte"


@dataclass(frozen=True)
class Score:
    """A number, how sure it is, and which way is better."""

    score: float
    stderr: float  # over the items sampled; says nothing of training noise
    num_items: int
    unit: str = UNIT
    higher_is_better: bool = False


@dataclass(frozen=True)
class Comparison:
    """Paired difference of two models on the same requests; negative: the first is better (bits per byte).

    `compare` fills in the error of sampling benchmark items alone, `combined` that of other sources too.
    """

    difference: float
    stderr: float
    low: float  # 95 % interval
    high: float
    verdict: str  # better | not distinguishable | worse


def suite_scores(suite: Suite, bits_R: np.ndarray) -> dict[str, Score]:
    """The score of every group of the suite, by its name."""
    scores = {}
    for group in suite.groups:
        rows, sizes = suite.members[group]
        bits = bits_R[rows]
        if suite.capabilities[group] is None:
            value = float(bits.sum() / sizes.sum())
            influence = (bits - value * sizes) / sizes.mean()  # of a ratio of totals
            scores[group] = Score(value, _stderr(influence), len(rows))
        else:
            per_item = bits / sizes
            scores[group] = Score(float(per_item.mean()), _stderr(per_item), len(rows))
    return scores


def capability_scores(suite: Suite, scores: dict[str, Score]) -> dict[str, Score]:
    """The plain mean of each capability's benchmarks; which ones count, `Suite.averaged` says."""
    averaged = suite.averaged
    result = {}
    for capability in dict.fromkeys(averaged.values()):
        members = [scores[group] for group, owner in averaged.items() if owner == capability]
        result[capability] = Score(
            float(np.mean([member.score for member in members])),
            float(np.sqrt(sum(member.stderr**2 for member in members)) / len(members)),
            sum(member.num_items for member in members),
        )
    return result


def macro(scores: dict[str, Score]) -> float:
    """The plain mean over capabilities."""
    return float(np.mean([score.score for score in scores.values()]))


def compare(suite: Suite, first_R: np.ndarray, second_R: np.ndarray) -> Comparison:
    """First minus second, macro over capabilities, paired by item.

    The interval covers the sampling of benchmark items, not training seeds.
    """
    averaged = suite.averaged
    capabilities = list(averaged.values())
    num_capabilities = len(set(capabilities))
    difference = variance = 0.0
    for group, capability in averaged.items():
        rows, sizes = suite.members[group]
        per_item = (first_R[rows] - second_R[rows]) / sizes
        weight = 1.0 / (num_capabilities * capabilities.count(capability))
        difference += weight * float(per_item.mean())
        variance += (weight * _stderr(per_item)) ** 2
    return _judged(difference, math.sqrt(variance))


def combined(comparison: Comparison, seeds_std: float | None, predictor_std: float | None) -> dict[str, Any]:
    """A comparison with everything that makes it uncertain: the items sampled, the seeds of training, the predictor.

    Args:
        comparison: Paired by item; its standard error covers the items alone.
        seeds_std: Standard deviation of one trained model's macro score between data orders. None: not measured.
        predictor_std: Standard deviation of one mixture's macro score around what a proxy or a predictor says of it.
            None: not measured; 0: both models were really trained.

    Returns:
        difference, stderr (in all), low and high (95 %), verdict, `standard_errors` of the difference by source (null
        where not measured) and the names of the `unmeasured` ones: the interval is too narrow by those. The two models
        err independently, so each of the last two sources counts twice.
    """
    deviations = {"seeds": seeds_std, "predictor": predictor_std}
    errors: dict[str, float | None] = {"items": comparison.stderr}
    errors |= {name: None if std is None else math.sqrt(2) * std for name, std in deviations.items()}
    total = math.hypot(*(error for error in errors.values() if error is not None))
    return {
        **asdict(_judged(comparison.difference, total)),
        "standard_errors": errors,
        "unmeasured": [name for name, error in errors.items() if error is None],
    }


def score_report(suite: Suite, bits_R: np.ndarray) -> dict[str, Any]:
    """Everything about one model's scores, ready for a record."""
    scores = suite_scores(suite, bits_R)
    return {"capabilities": capability_scores(suite, scores), "scores": scores}


def _judged(difference: float, stderr: float) -> Comparison:
    low, high = difference - 1.96 * stderr, difference + 1.96 * stderr
    verdict = "better" if high < 0 else "worse" if low > 0 else "not distinguishable"
    return Comparison(difference, stderr, low, high, verdict)


def _stderr(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))
