"""What an external command answered, as items of scores."""

import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from nemo_demix.config import ExternalConfig, ExternalScoreConfig
from nemo_demix.errors import ScoreError
from nemo_demix.scoring.items import Items, items_of_summary

logger = logging.getLogger(__name__)
_FIELDS = ("score", "stderr", "num_items", "items")


def read_answer(key: str, config: ExternalConfig, answer: Mapping[str, Any]) -> dict[str, Items]:
    """Return items by score name, `external/<key>/<name>`.

    Args:
        answer: `{"<name>": 0.31}` or `{"<name>": {"score", "stderr", "num_items", "items"}}`. `items` are the values of
            all items, in the same order for every model: then models are compared item by item.
    Raises:
        ScoreError: if a score that the configuration names is missing, or is not a finite number.
    """
    if more := sorted(set(answer) - set(config.scores)):
        logger.debug("external/%s: not asked for and left out: %s", key, ", ".join(more))
    found = {}
    for name, score in config.scores.items():
        where = f"external/{key}/{name}"
        if name not in answer:
            raise ScoreError(
                f"{where}: not in the command's answer, which has {', '.join(map(repr, answer)) or 'nothing'}; correct "
                f"the name in suite.external.{key}.scores"
            )
        value = answer[name]
        found[where] = _items(where, value if isinstance(value, dict) else {"score": value}, score)
    return found


def _items(where: str, value: Mapping[str, Any], config: ExternalScoreConfig) -> Items:
    if unknown := sorted(set(value) - set(_FIELDS)):
        logger.debug("%s: not known and left out: %s", where, ", ".join(unknown))
    kind = (config.unit, config.higher_is_better, config.chance)
    given = value.get("items")
    score = None if given is not None and value.get("score") is None else _number(where, "score", value.get("score"))
    if given is None:
        assert score is not None
        stderr = None if value.get("stderr") is None else _number(where, "stderr", value["stderr"])
        count = value.get("num_items")
        if stderr is not None and stderr < 0:
            raise ScoreError(f"{where}: stderr={stderr}: expected a number of at least 0")
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise ScoreError(f"{where}: num_items={count!r}: expected a whole number above 0")
        return items_of_summary(score, stderr, count, *kind)
    if not isinstance(given, list) or len(given) < 2:
        raise ScoreError(f"{where}: items: expected a list of at least 2 numbers; leave it out if there is one number")
    values_I = np.array([_number(where, f"items[{place}]", one) for place, one in enumerate(given)])
    if score is not None and not math.isclose(score, values_I.mean(), rel_tol=1e-4, abs_tol=1e-6):
        raise ScoreError(
            f"{where}: score is {score}, the mean of its items {values_I.mean()}; leave `items` out if the score is "
            "not their mean"
        )
    return Items(values_I, np.ones(len(values_I)), *kind)


def _number(where: str, what: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ScoreError(f"{where}: {what}={value!r}: expected a finite number")
    return float(value)
