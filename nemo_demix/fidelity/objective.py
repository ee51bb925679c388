"""The score that a search minimises, of models and of what stands for them: the macro score of the run's objective.

It is the mean over capabilities, weighted by search.capability_weights, of the benchmarks that are in the objective
(use=search), each capability's weighted as the search weights them. It is defined where all of these scores are of one
unit and one direction; what else there is has no mean.

Axes: R references.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import DemixConfig
from nemo_demix.mixture import Array
from nemo_demix.scoring.identity import heldout_scores, judged_scores, shares_by, shares_of
from nemo_demix.scoring.items import Scores
from nemo_demix.search.objective import capability_weights

Shares = dict[str, dict[str, float]]  # by capability, what each of its scores counts in its average


@dataclass(frozen=True)
class Macro:
    """What the macro score of one set of scores is made of.

    Attributes:
        capability_weights: Weights of the capabilities that count; they sum to 1. Empty where none does.
        score_weights: Weights of the scores that count, by score name; they sum to 1.
        reason: Why there is no macro score, where none counts.
    """

    capability_weights: dict[str, float]
    score_weights: dict[str, float]
    reason: str | None = None


def macro_of_sets(config: DemixConfig, manifest: DataManifest) -> dict[str, Macro]:
    """Return the run's objective on both kinds of score: `benchmarks` and `heldout`.

    Raises:
        ConfigError: if search.capability_weights names a capability that neither has, or has a bad weight.
    """
    sets = {
        "benchmarks": (shares_of(judged_scores(config.suite, manifest, ("search",))), "no benchmark has use=search"),
        "heldout": (shares_by(heldout_scores(config.suite, manifest), {}), "suite.heldout_tokens=0: none is scored"),
    }
    known = dict.fromkeys((owner for shares, _ in sets.values() for owner in shares), True)
    weights = capability_weights(config.search.capability_weights, known)
    return {name: macro(shares, weights, why_none) for name, (shares, why_none) in sets.items()}


def macro(shares: Shares, weights: Mapping[str, float], why_none: str) -> Macro:
    """Build the macro score of these capabilities; those of weight 0 are left out.

    Args:
        shares: What each score counts in its capability's average, by capability.
        weights: Weights by capability, of any scale.
        why_none: The reason, where there are no scores.
    """
    used = {owner: weights[owner] for owner in shares if weights[owner] > 0}
    if not used:
        return Macro({}, {}, "search.capability_weights gives 0 to all capabilities here" if shares else why_none)
    total = sum(used.values())
    capabilities = {owner: weight / total for owner, weight in used.items()}
    return Macro(
        capabilities, {name: capabilities[owner] * part for owner in used for name, part in shares[owner].items()}
    )


def kind_of_score(found: Macro, model: Scores) -> tuple[str, bool]:
    """Return the unit and the direction (higher is better) of the macro score of a model's scores.

    Raises:
        ValueError: saying why, where it has none: no score counts, or they are of several units or directions.
    """
    if found.reason:
        raise ValueError(found.reason)
    scores = [model[name] for name in found.score_weights]
    units = sorted({score.unit or "a unit that is not known" for score in scores})
    if len(units) > 1:
        raise ValueError(f"the capabilities are of different units ({', '.join(units)}), which have no mean")
    directions = {score.higher_is_better for score in scores}
    if len(directions) > 1:
        raise ValueError("higher is better for some capabilities and lower for others: their mean says nothing")
    return units[0], directions.pop()


def macro_losses(found: Macro, models: Mapping[str, Scores], higher_is_better: bool) -> Array:
    """Return the macro score of each model, in their order, negated where higher is better: shape (R,), lower is
    better.
    """
    sign = -1.0 if higher_is_better else 1.0
    sums = [
        sum(weight * scores[name].score for name, weight in found.score_weights.items()) for scores in models.values()
    ]
    return sign * np.array(sums)
