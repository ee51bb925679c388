"""`search/what_if.json`: all that the page needs to predict any mixture by itself, from the predictor that chose.

Axes: C components, D datasets.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nemo_demix.artifacts import canonical_json
from nemo_demix.mixture import Array
from nemo_demix.prediction.base import Predictor
from nemo_demix.prediction.portable import packed, portable
from nemo_demix.prediction.predictors import FittedPredictor
from nemo_demix.scoring.identity import shares_by
from nemo_demix.search.objective import LINEAR, Scale, linear_objective
from nemo_demix.search.ranking import Ranking
from nemo_demix.search.space import SearchSpace

LARGEST = 1_700_000  # bytes: a page has 3 MB in all


def of_fitted(ranking: Ranking, refits: Sequence[Predictor]) -> dict[str, Any]:
    """Describe a predictor fitted on scored mixtures; refits on resampled ones give the intervals.

    Forests are many numbers: theirs are left out, and intervals are those of the errors out of fold.
    """
    scored = ranking.scored
    rows_MC = np.unique(scored.weights_MC, axis=0)  # in an order that is not the log's
    models = _models(ranking.predictor, ranking, rows_MC)
    if None in models.values():
        kind = ranking.settings.predictor.kind
        return {"reason": f"search.predictor.kind={kind} is of a kind that a page cannot evaluate by itself"}
    is_forest = any("trees" in canonical_json(model) for model in models.values())
    predictor = {
        "kind": "fitted",
        "rows": packed(rows_MC),
        "models": models,
        "refits": [] if is_forest else [_models(refit, ranking, rows_MC) for refit in refits],
    }
    shares = shares_by(scored.capability_of, scored.weights)
    return _record(ranking.space, predictor, shares, ranking.settings.objective, ranking.scales)


def of_mixed(
    space: SearchSpace, tokens: Mapping[str, Any], objective: str, scales: Mapping[str, Scale]
) -> dict[str, Any]:
    """Describe mixed predictions; resampled items give the intervals."""
    shares = shares_by(space.objective_capabilities, space.weights)
    return _record(space, {"kind": "tokens", **tokens}, shares, objective, scales)


def _models(predictor: Predictor, ranking: Ranking, rows_MC: Array) -> dict[str, Any]:
    assert isinstance(predictor, FittedPredictor)
    return {name: portable(predictor.models[name], rows_MC) for name in ranking.scored.columns}


def _record(
    space: SearchSpace,
    predictor: Mapping[str, Any],
    shares: Mapping[str, Mapping[str, float]],
    objective: str,
    scales: Mapping[str, Scale],
) -> dict[str, Any]:
    constraints = space.constraints
    found = {
        "components": space.names,
        "datasets": list(space.blend.datasets),
        "blend": space.blend.rows_CD.tolist(),
        "capabilities": shares,
        "higher_is_better": space.capability_directions(),
        "objective": linear_objective(objective, scales) if objective in LINEAR else None,
        "rules": [
            {"key": rule.key, "row": rule.row_C.tolist(), "lower": _finite(rule.lower), "upper": _finite(rule.upper)}
            for rule in constraints.feasible.rules
        ],
        "max_kl": None,
        "prior": None,
        "predictor": predictor,
    }
    if constraints.feasible.divergence is not None and constraints.prior_D is not None:
        found |= {"max_kl": constraints.feasible.divergence.limit, "prior": constraints.prior_D.tolist()}
    size = len(canonical_json(found))
    if size > LARGEST:
        return {"reason": f"the predictor takes {size / 1e6:.1f} MB, and a page has {LARGEST / 1e6:.1f} for it"}
    return found


def _finite(bound: float) -> float | None:
    return bound if abs(bound) < float("inf") else None
