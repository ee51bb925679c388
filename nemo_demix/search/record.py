"""`search/mixture.json`: what every strategy writes, only what the seed and the inputs decide.

A field that does not apply to a strategy is null or empty. Importing this does not import torch.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from nemo_demix.artifacts import write_json, write_text
from nemo_demix.config import SearchConfig
from nemo_demix.mixture import epochs
from nemo_demix.search.baselines import PUBLISHED
from nemo_demix.search.choose import Choice
from nemo_demix.search.reach import edges
from nemo_demix.search.space import SearchSpace
from nemo_demix.search.strategies import strategy_of

BINDING = 1e-6  # of a share: a constraint that is met this closely decided something


@dataclass(frozen=True)
class Facts:
    """What a record says besides the choice.

    Attributes:
        proxy: merge | predictions | both | trained | imported; None where the strategy has no proxies.
        is_merge: The space is of component models, so that the weights are merge weights.
        component_epochs: The most epochs that a component saw of each dataset, by dataset.
        measured: The choice's own proxy, by capability, and its macro average; None where none was scored.
        baselines: What was measured of each baseline, by name.
    """

    seed: int
    fingerprint: str
    proxy: str | None
    is_merge: bool
    num_proxies: int = 0
    num_failed: int = 0
    num_prior: int = 0
    component_epochs: dict[str, float] = field(default_factory=dict)
    measured: Mapping[str, Any] | None = None
    measured_macro: float | None = None
    baselines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def mixture_record(settings: SearchConfig, space: SearchSpace, choice: Choice, facts: Facts) -> dict[str, Any]:
    """Return the record of a choice, ready for JSON but for `trust`, which is beyond the search."""
    shares = space.blend.data_shares(choice.merge_weights)
    budget = space.constraints.budget
    weights_C = space.as_array(choice.merge_weights)
    baselines = {name: _baseline(space, choice, facts, name) for name in space.baselines}
    reach = choice.reach or edges(space, weights_C, None)
    comparison = baselines.get("proportional", {}).get("chosen_minus_this")
    return {
        "strategy": settings.strategy,
        "proxy": facts.proxy,
        "objective": settings.objective if choice.predicted else None,
        "seed": facts.seed,
        "iterations": list(settings.iterations) if strategy_of(settings).is_iterated else [],
        "num_proxies": facts.num_proxies,
        "num_failed": facts.num_failed,
        "num_prior": facts.num_prior,
        "merge_weights": choice.merge_weights if facts.is_merge else {},
        "data_shares": shares,
        "intervals": choice.intervals,
        "epochs": epochs(shares, budget.num_tokens, budget.tokens_by_dataset) if budget else {},
        "constraints": constraints_met(space, weights_C, reach),
        "reach": reach,
        "warnings": space.constraints.warnings(weights_C, facts.component_epochs) if facts.component_epochs else [],
        "predicted": choice.predicted,
        "predicted_fit": choice.fit_scores,
        "measured": facts.measured,
        "measured_macro": facts.measured_macro,
        "cross_validation": choice.cross_validation,
        "baselines": baselines,
        "verdict": comparison["verdict"] if comparison else None,
        "notes": choice.notes,
        "fingerprint": facts.fingerprint,
    }


def with_published(space: SearchSpace, choice: Choice) -> SearchSpace:
    """Return the space with what DeMix's published search would have chosen among its baselines, where the choice says
    it.
    """
    if choice.published is None:
        return space
    return replace(space, baselines={**space.baselines, PUBLISHED: space.blend.data_shares(choice.published)})


def write_mixture(folder: Path, record: Mapping[str, Any], choice: Choice) -> None:
    """Write what belongs to the page alone, and then `mixture.json`, which says that the search is done."""
    write_json(folder / "pareto.json", {"mixtures": choice.pareto, "fingerprint": record["fingerprint"]})
    write_json(folder / "slices.json", {"slices": choice.slices, "fingerprint": record["fingerprint"]})
    write_json(folder / "out_of_fold.json", {"capabilities": choice.out_of_fold, "fingerprint": record["fingerprint"]})
    what_if = {"what_if": choice.what_if, "fingerprint": record["fingerprint"]}
    # Most of it is packed numbers: compact, and in the order in which the page shows it.
    write_text(folder / "what_if.json", json.dumps(what_if, separators=(",", ":"), allow_nan=False) + "\n")
    write_json(folder / "mixture.json", record)


def constraints_met(
    space: SearchSpace, weights_C: np.ndarray, reach: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Return whether a mixture satisfies all constraints, and which of them it cannot move beyond.

    Args:
        reach: The edges of what the components can stand for that it lies on, which bind as well.
    """
    constraints = space.constraints
    binding = []
    for rule in constraints.feasible.rules:
        value = float(rule.row_C @ weights_C)
        limits = [limit for limit in (rule.lower, rule.upper) if np.isfinite(limit)]
        if any(abs(value - limit) <= BINDING for limit in limits):
            binding.append(rule.key)
    binding += [f"components.beta, components.blends ({edge['dataset']}: {edge['bound']} share)" for edge in reach]
    return {"satisfied": bool(constraints.satisfied_M(weights_C[None])[0]), "binding": binding}


def _baseline(space: SearchSpace, choice: Choice, facts: Facts, name: str) -> dict[str, Any]:
    wanted = space.baselines[name]
    weights, distance = space.blend.merge_weights_for(wanted)
    return {
        "data_shares": wanted,
        "merge_weights": weights if facts.is_merge else {},
        "unreachable_share": distance / 2,  # of the data: what no merge of these components can stand for
        "predicted": choice.baselines.get(name, {}),
        "measured": None,
        "macro": None,
        "chosen_minus_this": None,
        **facts.baselines.get(name, {}),
    }
