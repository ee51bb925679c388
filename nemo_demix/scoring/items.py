"""What a model gave on every item of a score, and the score that it comes to.

Axis letters: I items of one score.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nemo_demix.mixture import Array

UNIT = "bits/byte"


@dataclass(frozen=True, eq=False)
class Items:
    """What one model gave on every item of one score, which is their weighted mean.

    Attributes:
        values_I: float64.
        weights_I: float64; bytes where the score is a total over a total, else 1.
        chance: What guessing gives. None: nothing in particular.
    """

    values_I: Array
    weights_I: Array
    unit: str = UNIT
    higher_is_better: bool = False
    chance: float | None = None


ModelItems = Mapping[str, Items]  # by score name


@dataclass(frozen=True)
class Score:
    """A number, how sure it is, and which way is better."""

    score: float
    stderr: float  # over the items sampled; says nothing of training noise
    num_items: int
    unit: str = UNIT
    higher_is_better: bool = False
    chance: float | None = None  # what guessing gives


def score_of(items: Items) -> Score:
    """The weighted mean, with its standard error over the items sampled."""
    count = len(items.values_I)
    mean_weight = float(items.weights_I.mean())
    value = float((items.weights_I @ items.values_I) / items.weights_I.sum())
    influence_I = (
        items.weights_I * (items.values_I - value) / mean_weight
    )  # of a ratio of totals; plain where all are 1
    stderr = float(influence_I.std(ddof=1) / np.sqrt(count))
    return Score(value, stderr, count, items.unit, items.higher_is_better, items.chance)


def pack_items(items: ModelItems) -> tuple[dict[str, dict[str, Any]], Array]:
    """Items as what JSON holds of each score, and one array of shape (2, all items): values, weights."""
    facts = {
        group: {"num_items": len(one.values_I), "unit": one.unit}
        | {"higher_is_better": one.higher_is_better, "chance": one.chance}
        for group, one in items.items()
    }
    rows = [np.stack([one.values_I, one.weights_I]) for one in items.values()]
    return facts, np.concatenate([*rows, np.empty((2, 0))], axis=1)


def unpack_items(facts: Mapping[str, Mapping[str, Any]], packed: Array) -> dict[str, Items]:
    """What `pack_items` was given."""
    items, start = {}, 0
    for group, fact in facts.items():
        values_I, weights_I = packed[:, start : (start := start + fact["num_items"])]
        items[group] = Items(values_I, weights_I, fact["unit"], fact["higher_is_better"], fact["chance"])
    return items
