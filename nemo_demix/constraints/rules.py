"""Turns what a user wrote under `search.constraints` into bounds on linear functions of merge weights.

Axes: C components, D datasets.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from nemo_demix.config import ConstraintsConfig, GroupConfig
from nemo_demix.errors import DemixError, MixtureError, found_by, refuse
from nemo_demix.mixture import Array, BlendMatrix, check_names

KEY = "search.constraints"


@dataclass(frozen=True)
class Budget:
    """What the final run trains on."""

    num_tokens: int
    tokens_by_dataset: dict[str, int]


@dataclass(frozen=True, eq=False)
class Rule:
    """lower <= row_C @ merge weights <= upper, as the user wrote it."""

    key: str  # with its value: search.constraints.min.math_1=0.1
    row_C: Array
    lower: float = -math.inf
    upper: float = math.inf
    hint: str = ""  # what the blends alone have to say about it, where it can never hold


def share_rules(config: ConstraintsConfig, blend: BlendMatrix, budget: Budget | None) -> list[Rule]:
    """Return all bounds on data shares.

    Raises:
        MixtureError: if a name is unknown, a value is out of range, or epochs are bounded and there is no budget.
    """
    rules = []
    for kind in ("min", "max", "pinned"):
        for name, share in _checked(getattr(config, kind), blend.datasets, f"{KEY}.{kind}", 1.0):
            lower = share if kind != "max" else -math.inf
            upper = share if kind != "min" else math.inf
            rules.append(_share_rule(f"{KEY}.{kind}.{name}={share:g}", blend, [name], lower, upper))
    for name, group in config.groups.items():
        rules += _group_rules(f"{KEY}.groups.{name}", group, blend)
    return [*rules, *_epoch_rules(config, blend, budget)]


def weight_rules(max_weights: Mapping[str, float], blend: BlendMatrix) -> list[Rule]:
    """Return caps of merge weights by component name.

    Raises:
        MixtureError: if a name is unknown or a cap is not a number >= 0.
    """
    key = "search.sampler.max_prior_multiple"
    return [
        Rule(f"{key} (merge weight of {name} <= {cap:.6g})", np.eye(len(blend.components))[index], upper=cap)
        for name, cap in _checked(max_weights, blend.components, key, math.inf)
        for index in [blend.components.index(name)]
    ]


def fixed_rules(fixed_weights: Mapping[str, float], blend: BlendMatrix) -> list[Rule]:
    """Merge weights by component name that cannot be another."""
    identity_CC = np.eye(len(blend.components))
    return [
        Rule(
            f"search.imported (every mixture has {weight:.4g} of {name})",
            identity_CC[blend.components.index(name)],
            weight,
            weight,
        )
        for name, weight in fixed_weights.items()
    ]


def constraint_errors(config: ConstraintsConfig, datasets: Sequence[str]) -> Iterator[DemixError]:
    """Yield errors for names that are no dataset and values out of range: what is known before the datasets' tokens
    are.
    """
    for kind, highest in (("min", 1.0), ("max", 1.0), ("pinned", 1.0), ("max_epochs_of", math.inf)):
        yield from _value_errors(getattr(config, kind), datasets, f"{KEY}.{kind}", highest)
    for name, group in config.groups.items():
        yield from _group_errors(f"{KEY}.groups.{name}", group, datasets)
    for kind, highest in (("min_used", 1.0), ("max_epochs", math.inf), ("max_kl", math.inf)):
        value = getattr(config, kind)
        if value is not None:
            yield from found_by(partial(check_number, value, f"{KEY}.{kind}", 0.0, highest))


def check_number(value: float, what: str, lowest: float, highest: float = math.inf) -> None:
    """Refuse what is no finite number from `lowest` to `highest`.

    Raises:
        MixtureError: naming `what`.
    """
    if not (math.isfinite(value) and lowest <= value <= highest):
        expected = f"from {lowest:g} to {highest:g}" if math.isfinite(highest) else f">= {lowest:g}"
        raise MixtureError(f"{what}: expected a finite number {expected}, found {value}")


def _checked(
    values: Mapping[str, float], names: Sequence[str], what: str, highest: float
) -> Iterator[tuple[str, float]]:
    refuse(_value_errors(values, names, what, highest))
    yield from values.items()


def _value_errors(values: Mapping[str, float], names: Sequence[str], what: str, highest: float) -> Iterator[DemixError]:
    yield from found_by(partial(check_names, values, names, what))
    for name, value in values.items():
        yield from found_by(partial(check_number, value, f"{what}.{name}", 0.0, highest))


def _group_errors(key: str, group: GroupConfig, datasets: Sequence[str]) -> Iterator[DemixError]:
    if not group.datasets or len(set(group.datasets)) != len(group.datasets):
        yield MixtureError(f"{key}.datasets: expected distinct datasets, at least one; found {list(group.datasets)}")
    yield from found_by(partial(check_names, group.datasets, datasets, f"{key}.datasets"))
    for bound in ("min", "max"):
        yield from found_by(partial(check_number, getattr(group, bound), f"{key}.{bound}", 0.0, 1.0))


def _share_rule(key: str, blend: BlendMatrix, datasets: Sequence[str], lower: float, upper: float) -> Rule:
    row_C = blend.rows_CD[:, [blend.datasets.index(name) for name in datasets]].sum(axis=1)
    least, most = float(row_C.min()), float(row_C.max())
    what = ", ".join(datasets)
    hint = ""
    if lower > most:
        hint = f"no merge of these components has more than {most:.6g} of {what}"
    elif upper < least:
        hint = f"every component was trained on at least {least:.6g} of {what}"
    return Rule(key, row_C, lower, upper, hint and f"{hint} (components.beta)")


def _group_rules(key: str, group: GroupConfig, blend: BlendMatrix) -> Iterator[Rule]:
    refuse(_group_errors(key, group, blend.datasets))
    if group.min > 0:
        yield _share_rule(f"{key}.min={group.min:g}", blend, group.datasets, group.min, math.inf)
    if group.max < 1:
        yield _share_rule(f"{key}.max={group.max:g}", blend, group.datasets, -math.inf, group.max)


def _epoch_rules(config: ConstraintsConfig, blend: BlendMatrix, budget: Budget | None) -> Iterator[Rule]:
    own = dict(_checked(config.max_epochs_of, blend.datasets, f"{KEY}.max_epochs_of", math.inf))
    if config.max_epochs is not None:
        check_number(config.max_epochs, f"{KEY}.max_epochs", 0.0)
    elif not own:
        return
    if budget is None or budget.num_tokens <= 0:
        raise MixtureError(
            f"{KEY}: max_epochs and max_epochs_of need the final run's tokens and those of each dataset, found none; "
            "set final.num_tokens, or bound shares with max"
        )
    for name in blend.datasets:
        most = own.get(name, config.max_epochs)
        if most is None:
            continue
        share = most * budget.tokens_by_dataset.get(name, 0) / budget.num_tokens
        key = f"{KEY}.max_epochs_of.{name}" if name in own else f"{KEY}.max_epochs"
        if share < 1:
            yield _share_rule(f"{key}={most:g} ({name} <= {share:.6g})", blend, [name], -math.inf, share)
