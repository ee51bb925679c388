"""What a model gave on every item of a score, and the score that it comes to.

Axis letters: I items of one score.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nemo_demix.mixture import Array

UNIT = "bits/byte"
NORMAL = 1.96  # standard errors on either side of what is known with many degrees of freedom: 95 %


@dataclass(frozen=True, eq=False)
class Items:
    """What one model gave on every item of one score, which is their weighted mean.

    Attributes:
        values_I: Values of I items, float64, shape (I,); the score alone where its items are not known.
        weights_I: Weights in the score, float64, shape (I,); bytes where the score is a total over a total, else 1.
        chance: What guessing gives. None: nothing in particular.
        summary: What is known of the items where their values are not. None: the values are known.
    """

    values_I: Array
    weights_I: Array
    unit: str = UNIT
    higher_is_better: bool = False
    chance: float | None = None
    summary: "Summary | None" = None


@dataclass(frozen=True)
class Summary:
    """What someone else says of items that we do not see; None: they do not."""

    stderr: float | None
    num_items: int | None


ModelItems = Mapping[str, Items]  # by score name


@dataclass(frozen=True)
class Score:
    """A number, how sure it is, and which way is better."""

    score: float
    stderr: float | None = None  # over the items sampled; says nothing of training noise. None: not known
    num_items: int | None = None  # None: not known
    unit: str | None = UNIT  # None: not known, as of scores from elsewhere
    higher_is_better: bool = False
    chance: float | None = None  # what guessing gives

    def to_json(self) -> dict[str, Any]:
        """Give what records hold of a score; a unit that is not known is left out."""
        return {name: value for name, value in asdict(self).items() if name != "unit" or value is not None}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Score":
        """Read a score of this release or of an earlier one.

        Raises:
            ValueError, KeyError, TypeError: if it is none.
        """
        number = float(value["score"])
        if not math.isfinite(number):
            raise ValueError(f"the score {number}, where scores are finite")
        known = {name: value[name] for name in ("stderr", "num_items", "chance") if name in value}
        return cls(number, unit=value.get("unit"), higher_is_better=bool(value["higher_is_better"]), **known)


Scores = Mapping[str, Score]  # of one model, by score name


def scores_from_json(value: Mapping[str, Any]) -> dict[str, Score]:
    """Read the scores of a record by name, as `Score.from_json` reads each.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: if one is none.
    """
    return {name: Score.from_json(score) for name, score in value.items()}


def is_guessed(score: Score) -> bool:
    """Return whether guessing lies within a score's 95 % interval; False where guessing has no level, or nothing is
    known.
    """
    if score.chance is None or score.stderr is None:
        return False
    return abs(score.score - score.chance) <= NORMAL * score.stderr


def items_of_summary(
    score: float, stderr: float | None, num_items: int | None, unit: str, higher_is_better: bool, chance: float | None
) -> Items:
    """Return a score whose items' values are not known."""
    one = np.array([score]), np.ones(1)
    return Items(*one, unit, higher_is_better, chance, Summary(stderr, num_items))


def score_of(items: Items) -> Score:
    """Return the weighted mean, with its standard error over the items sampled."""
    if items.summary is not None:
        value = float(items.values_I[0])
        known = items.summary.stderr, items.summary.num_items
        return Score(value, *known, items.unit, items.higher_is_better, items.chance)
    count = len(items.values_I)
    mean_weight = float(items.weights_I.mean())
    # Exact sums: BLAS's depend in the last bit on where the arrays lie, and a score has the same bits everywhere.
    value = math.fsum(items.weights_I * items.values_I) / math.fsum(items.weights_I)
    influence_I = (
        items.weights_I * (items.values_I - value) / mean_weight
    )  # of a ratio of totals; plain where all are 1
    stderr = float(influence_I.std(ddof=1) / np.sqrt(count))
    return Score(value, stderr, count, items.unit, items.higher_is_better, items.chance)


def pack_items(items: ModelItems) -> tuple[dict[str, dict[str, Any]], Array]:
    """Return items as what JSON holds of each score, and one array of shape (2, all items): values, weights."""
    facts = {
        name: {"num_items": len(one.values_I), "unit": one.unit}
        | {"higher_is_better": one.higher_is_better, "chance": one.chance}
        | ({} if one.summary is None else {"summary": asdict(one.summary)})
        for name, one in items.items()
    }
    rows = [np.stack([one.values_I, one.weights_I]) for one in items.values()]
    return facts, np.concatenate([*rows, np.empty((2, 0))], axis=1)


def unpack_items(facts: Mapping[str, Mapping[str, Any]], packed: Array) -> dict[str, Items]:
    """Give back what `pack_items` was given; `packed` has shape (2, all items)."""
    items, start = {}, 0
    for name, fact in facts.items():
        values_I, weights_I = packed[:, start : (start := start + fact["num_items"])]
        summary = Summary(**fact["summary"]) if "summary" in fact else None
        items[name] = Items(values_I, weights_I, fact["unit"], fact["higher_is_better"], fact["chance"], summary)
    return items
