"""Per-document values of one metric: what a task's score is the weighted mean of.

Axes: I documents.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from nemo_demix.errors import ConfigError
from nemo_demix.scoring.items import Items

# Added to every multiple-choice task: bits per byte of the gold answer, and the share of the choices' probability that
# the right ones have, which runs with accuracy and is as smooth as bits.
GOLD_BITS, CHOICE_SHARE = "bpb", "choice_prob"
_RATIO = "bits_per_byte"  # the harness's: a ratio of totals
_SHARES = ("acc", "exact_match", "em", "math_verify", "pass")  # what such metrics' names begin with
_CHOICE_METRICS = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", CHOICE_SHARE)


@dataclass(frozen=True, eq=False)
class TaskItems(Items):
    """One task's score, document by document: the mean of values_I by weights_I.

    The unit is `bits/byte`, or `share` (of documents that are right, or of probability), else the metric's name.

    Attributes:
        documents: A name for every document.
        metric: The harness's name of it.
        filter: What is done to a response before, the harness's name of it.
    """

    documents: list[str] = field(default_factory=list)
    metric: str = ""
    filter: str = ""


@dataclass(frozen=True)
class Metric:
    """The metric that is a task's score, and what the harness makes of its documents' values."""

    name: str
    filter: str

    @property
    def key(self) -> tuple[str, str]:
        """The key, metric and filter, that the harness keeps values by."""
        return (self.name, self.filter)


def choose_metric(
    key: str, wanted: str | None, found: Sequence[tuple[str, str]], usable: Callable[[str], bool]
) -> Metric:
    """Return the metric of the configuration, or the first.

    Args:
        key: Key in the configuration, for messages.
        wanted: `metric` or `metric,filter`; None: the first that can be a score.
        found: Metric and filter of all values that the task gives, in its order.
        usable: Whether a metric of this name is a mean over documents, or a ratio of totals.
    Raises:
        ConfigError: if the task does not give it, or it is no mean over documents.
    """
    names = [",".join(one) for one in found]
    if wanted is None:
        for metric, filter_name in found:
            if usable(metric):
                return Metric(metric, filter_name)
        raise ConfigError(f"{key}.metric: none of {', '.join(names)} is a mean over documents; take the task out")
    name, _, filter_name = wanted.partition(",")
    matches = [one for one in found if one[0] == name and filter_name in ("", one[1])]
    if not matches:
        raise ConfigError(f"{key}.metric: found {wanted!r}, expected one of: {'; '.join(names)}")
    if not usable(name):
        good = [",".join(one) for one in found if usable(one[0])]
        raise ConfigError(
            f"{key}.metric: {wanted} is computed over all documents at once, a score has to be a mean over them: "
            f"{'; '.join(good) or 'this task has none'}; it stays in the results' JSON"
        )
    return Metric(*matches[0])


def is_mean(task: Any, metric: str) -> bool:
    """Return whether a task's metric is a mean over documents, or bits per byte."""
    from lm_eval.api.metrics import bits_per_byte, mean

    return task.aggregation().get(metric, mean) in (mean, bits_per_byte)


def values_and_weights(
    task: Any, metric: str, raw: Sequence[Any]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Take a task's values and the weights that they have in their mean; its metric `is_mean`.

    Returns:
        Values and weights of I documents, float64, shape (I,) each.
    """
    from lm_eval.api.metrics import bits_per_byte

    if task.aggregation().get(metric) is bits_per_byte:
        nats_I, bytes_I = (np.array(column, dtype=np.float64) for column in zip(*raw, strict=True))
        return -nats_I / math.log(2) / bytes_I, bytes_I
    values_I = np.array(raw, dtype=np.float64)
    return values_I, np.ones_like(values_I)


def unit_of(metric: str) -> str:
    """Return `bits/byte`, `share` (of documents, or of probability), or the metric's own name."""
    if metric in (GOLD_BITS, _RATIO):
        return "bits/byte"
    return "share" if metric.startswith((*_SHARES, CHOICE_SHARE)) else metric


def chance_of(task: Any, metric: str, docs: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the level of guessing, a mean over documents; None: unknown."""
    if task.OUTPUT_TYPE == "generate_until":
        return 0.0
    if task.OUTPUT_TYPE != "multiple_choice" or metric not in _CHOICE_METRICS:
        return None
    shares = []
    for doc in docs:
        num_right = len(set(task.doc_to_target(doc))) if task.multiple_target else 1
        shares.append(num_right / len(task.doc_to_choice(doc)))
    return float(np.mean(shares))
