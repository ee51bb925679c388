"""One key of `suite.tasks`: a task, or a group of them that is one score."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nemo_demix.config import TaskConfig
from nemo_demix.errors import ConfigError, ScoreError
from nemo_demix.scoring.harness.items import (
    Metric,
    TaskItems,
    chance_of,
    choose_metric,
    is_mean,
    unit_of,
    values_and_weights,
)
from nemo_demix.scoring.harness.leaf import Leaf
from nemo_demix.tasks.build import BuiltTask


@dataclass(frozen=True)
class ScoredTask:
    """A score: its tasks, which of their metrics it is, and how they are put together.

    Attributes:
        key: Key in `suite.tasks`.
        leaves: Its tasks; one, unless a group or a tag was named.
        groups: The harness's `Group` objects by name.
        metric: The score.
        by_size: Whether a group's task counts as much as it has documents, or all alike.
        higher_is_better: Whether higher values of the metric are better.
        chance: The level of guessing; None: there is none.
    """

    key: str
    leaves: list[Leaf]
    groups: dict[str, Any]
    metric: Metric
    by_size: bool
    higher_is_better: bool
    chance: float | None

    def items(self) -> TaskItems:
        """Return the values that the last model's responses came to.

        Raises:
            ScoreError: if one is no finite number, or a document has none.
        """
        values, weights, documents = [], [], []
        for leaf in self.leaves:
            raw = leaf.raw.get(self.metric.key, [])
            if len(raw) != len(leaf.doc_ids):
                raise ScoreError(
                    f"suite.tasks.{self.key}.metric: {leaf.name} gives {','.join(self.metric.key)} of {len(raw)} of "
                    f"its {len(leaf.doc_ids)} documents, a score needs all; choose another metric"
                )
            values_I, weights_I = values_and_weights(leaf.task, self.metric.name, raw)
            if not np.isfinite(values_I).all():
                place = int(np.flatnonzero(~np.isfinite(values_I))[0])
                raise ScoreError(
                    f"task/{self.key}: {leaf.name}: document {leaf.doc_ids[place]}: {self.metric.name} is "
                    f"{values_I[place]}; the model's responses are not usable"
                )
            if len(self.leaves) > 1:
                weights_I = weights_I / weights_I.sum() * _share(leaf, self.leaves, self.by_size)
            values.append(values_I)
            weights.append(weights_I)
            documents += [f"{leaf.name}/{doc_id}" for doc_id in leaf.doc_ids]
        return TaskItems(
            values_I=np.concatenate(values),
            weights_I=np.concatenate(weights),
            unit=unit_of(self.metric.name),
            higher_is_better=self.higher_is_better,
            chance=self.chance,
            documents=documents,
            metric=self.metric.name,
            filter=self.metric.filter,
        )


def scored_task(key: str, config: TaskConfig, built: BuiltTask, leaves: list[Leaf]) -> ScoredTask:
    """Choose the metric of a task or a group.

    Raises:
        ConfigError: if it has no such metric, or it is no mean over documents, or has no better side.
    """
    place = f"suite.tasks.{key}"
    group = built.groups[built.top] if built.top is not None else None
    shared = [one for one in leaves[0].metrics if all(one in leaf.metrics for leaf in leaves)]
    aggregated = {one.metric: one for one in (group.aggregate_metric_list or [])} if group is not None else {}
    if aggregated:
        shared = [
            (metric, name)
            for metric, name in shared
            if metric in aggregated and name in (aggregated[metric].filter_list or [name])
        ]
    if not shared:
        raise ConfigError(f"{place}.task: the tasks of {config.task} have no metric in common; name one of them")
    metric = choose_metric(place, config.metric, shared, lambda name: all(is_mean(leaf.task, name) for leaf in leaves))
    better = {leaf.task.higher_is_better().get(metric.name) for leaf in leaves}
    if len(better) != 1 or None in better:
        raise ConfigError(
            f"{place}.metric: {metric.name}: the task does not say whether higher is better; name another"
        )
    by_size = aggregated[metric.name].weight_by_size if metric.name in aggregated else True
    levels = [chance_of(leaf.task, metric.name, leaf.documents) for leaf in leaves]
    known = [level for level in levels if level is not None]
    shares = [_share(leaf, leaves, by_size) for leaf in leaves]
    chance = float(np.average(known, weights=shares)) if len(known) == len(levels) else None
    return ScoredTask(key, leaves, built.groups, metric, by_size, bool(better.pop()), chance)


def _share(leaf: Leaf, leaves: Sequence[Leaf], by_size: bool) -> float:
    """Return what a task counts of its group's weight, which is its number of documents."""
    if by_size:
        return float(len(leaf.doc_ids))
    return sum(len(one.doc_ids) for one in leaves) / len(leaves)
