"""A predictor fitted on scored mixtures, and what the objective makes of its predictions.

Axes: M scored mixtures, X predicted ones, C components.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nemo_demix.config import SearchConfig
from nemo_demix.errors import ConfigError, DemixError, MixtureError, ScoreError, near, refuse
from nemo_demix.mixture import Array
from nemo_demix.prediction.base import Predictor
from nemo_demix.prediction.capabilities import capability_averages
from nemo_demix.prediction.predictors import fit_predictor
from nemo_demix.search.baselines import unknown_floor_baseline
from nemo_demix.search.heldout import HeldoutFloor
from nemo_demix.search.objective import OBJECTIVES, Scale, above_floors, capability_weights, nearest_miss
from nemo_demix.search.proxy_row import ProxyRow
from nemo_demix.search.space import SearchSpace


class Scored:
    """Scored mixtures as arrays, each mixture once.

    Attributes:
        weights_MC: Merge weights, float64, shape (M, C).
        columns: Scores in the objective, each of shape (M,): by benchmark, or by capability if a strategy fits these.
        capability_of: Capability of each of these columns.
        weights: Weights of benchmarks in their capability's average.
        units: Units of all scores in the objective, as far as the rows say.
        higher_is_better: Whether higher is better, of each of these columns.
        fit_columns: Scores that are predicted and in no objective (use=fit).
        fit_higher_is_better: Whether higher is better, of each of those.
        heldout_M: The macro score on held-out text, shape (M,), bits per byte; None: not all were scored on it.
    """

    def __init__(self, space: SearchSpace, rows: Sequence[ProxyRow], by_capability: bool = False) -> None:
        objective = space.objective_capabilities
        if not objective:
            raise ScoreError("search: no benchmark is in the objective; give one suite.benchmarks.<name>.use=search")
        distinct = {space.as_array(row.merge_weights).tobytes(): row for row in rows}
        rows = list(distinct.values())
        self.weights_MC = np.array([space.as_array(row.merge_weights) for row in rows]).reshape(-1, len(space.names))
        self.columns = {name: _column(rows, name) for name in objective}
        self.capability_of = dict(objective)
        self.weights = space.weights
        self.higher_is_better = {name: space.higher_is_better[name] for name in objective}
        if by_capability:
            self.columns = capability_averages(self.columns, objective, space.weights)
            self.capability_of = {name: name for name in self.columns}
            self.higher_is_better = space.capability_directions()
        units = {row.scores[name].unit for row in rows for name in objective}
        self.units = sorted(unit for unit in units if unit is not None)
        fitted = [name for name in space.capabilities if name not in objective]
        self.fit_columns = {name: _column(rows, name) for name in fitted}
        self.fit_higher_is_better = {name: space.higher_is_better[name] for name in fitted}
        heldout = space.heldout_weights()
        self.heldout_M: Array | None = None
        if heldout and all(name in row.scores for row in rows for name in heldout):
            self.heldout_M = np.sum([weight * _column(rows, name) for name, weight in heldout.items()], axis=0)

    def averages(self) -> dict[str, Array]:
        """Return measured capability averages, each of shape (M,)."""
        return capability_averages(self.columns, self.capability_of, self.weights)


class Ranking:
    """Predicts capability averages of any mixture, and ranks mixtures by the objective.

    Args:
        by_capability: Fit one regressor a capability (MergeMix), not one a benchmark.
    Raises:
        ConfigError: if the objective, a weight or a floor names what is not there.
        ScoreError: if the rows are too few to fit, or a score is missing or not finite.
    """

    def __init__(
        self,
        settings: SearchConfig,
        space: SearchSpace,
        rows: Sequence[ProxyRow],
        seed: int,
        by_capability: bool = False,
    ) -> None:
        refuse(objective_errors(settings))
        self.settings, self.space, self.seed = settings, space, seed
        self.scored = Scored(space, rows, by_capability)
        if OBJECTIVES[settings.objective].needs_one_unit and len(self.scored.units) > 1:
            raise ConfigError(
                f"search.objective={settings.objective}: scores in {' and '.join(self.scored.units)} have no mean; set "
                "search.objective=utility, and the same command goes on from the proxies that are scored"
            )
        columns = self.scored.columns | self.scored.fit_columns
        self.predictor: Predictor = fit_predictor(settings.predictor, self.scored.weights_MC, columns, seed)
        self.scales = objective_scales(settings, space, self.scored.averages())
        self.floors = floors_of(settings, space)
        self.heldout: HeldoutFloor | None = None
        if settings.heldout_floor is not None and (heldout_M := self.scored.heldout_M) is not None:
            baseline_C, weights_MC = floor_weights(settings, space), self.scored.weights_MC
            floor = settings.heldout_floor
            self.heldout = HeldoutFloor(settings.predictor, weights_MC, heldout_M, baseline_C, floor, seed)

    def averages(self, weights_XC: Array) -> dict[str, Array]:
        """Return predicted capability averages, each of shape (X,)."""
        return self.over_capabilities(self.predictor.predict(weights_XC))

    def averages_std(self, weights_XC: Array) -> dict[str, Array]:
        """Return the standard deviation of `averages`, each of shape (X,): the mean of its benchmarks', as if all erred
        alike.
        """
        return self.over_capabilities(self.predictor.predict_std(weights_XC))

    def fit_scores(self, weights_C: Array) -> dict[str, tuple[float, float]]:
        """Return predicted score and standard deviation of one mixture, by benchmark of use=fit."""
        if not self.scored.fit_columns:
            return {}
        mean, std = self.predictor.predict(weights_C[None]), self.predictor.predict_std(weights_C[None])
        return {name: (float(mean[name][0]), float(std[name][0])) for name in self.scored.fit_columns}

    def objective(self, averages: Mapping[str, Array]) -> Array:
        """Return the objective over a pool's averages, shape (X,); lower is better."""
        return OBJECTIVES[self.settings.objective](averages, self.scales)

    def kept(self, weights_XC: Array, averages: Mapping[str, Array], bound: float = 0.0) -> npt.NDArray[np.bool_]:
        """Return which mixtures are above the floors, bool, shape (X,).

        Args:
            averages: What is taken for their averages, perhaps better than predicted.
            bound: Standard deviations by which their held-out score is taken for better than predicted.
        """
        kept_X = above_floors(averages, self.floor_baseline, self.floors, self.scales)
        if self.heldout is not None and kept_X.any():
            kept_X[kept_X] = self.heldout.kept(weights_XC[kept_X], bound)
        return kept_X

    def nearest_miss(self, averages: Mapping[str, Array]) -> MixtureError:
        """Return what to raise where no mixture of a pool is above the floors."""
        if self.heldout is not None and above_floors(averages, self.floor_baseline, self.floors, self.scales).any():
            return MixtureError(
                f"search.heldout_floor={self.settings.heldout_floor}: no mixture of the pool that is above the other "
                "floors is above this one; raise it"
            )
        return nearest_miss(averages, self.floor_baseline, self.floors, self.scales)

    def heldout_note(self, weights_C: Array) -> dict[str, dict[str, float]]:
        """Return a mixture's predicted held-out score, and the most that it may be; empty without that floor."""
        if self.heldout is None:
            return {}
        return {"heldout": {"score": float(self.heldout.scores(weights_C[None])[0]), "most": self.heldout.most}}

    @cached_property
    def floor_baseline(self) -> dict[str, float]:
        """Predicted capability averages that floors are counted from; empty without floors."""
        if not self.floors:
            return {}
        weights_C = floor_weights(self.settings, self.space)
        return {name: float(values[0]) for name, values in self.averages(weights_C[None]).items()}

    def over_capabilities(self, scores: Mapping[str, Array]) -> dict[str, Array]:
        """Return capability averages of scores by column, each of shape (X,); those of use=fit are left out."""
        columns = {name: scores[name] for name in self.scored.columns}
        return capability_averages(columns, self.scored.capability_of, self.scored.weights)


def floors_of(settings: SearchConfig, space: SearchSpace) -> dict[str, float]:
    """Return how much worse than the floors' baseline each capability may be, in its scores' unit; none for one left
    out.
    """
    if settings.default_floor is None:
        return dict(settings.floors)
    return {**dict.fromkeys(space.capability_directions(), settings.default_floor), **settings.floors}


def floor_weights(settings: SearchConfig, space: SearchSpace) -> Array:
    """Return the merge weights nearest to the baseline that the floors are measured from, shape (C,).

    Raises:
        ConfigError: if there is no such baseline.
    """
    if settings.floor_baseline not in space.baselines:
        raise unknown_floor_baseline(settings.floor_baseline, space.baselines)
    return space.as_array(space.blend.merge_weights_for(space.baselines[settings.floor_baseline])[0])


def objective_scales(settings: SearchConfig, space: SearchSpace, averages: Mapping[str, Array]) -> dict[str, Scale]:
    """Return what each capability's scores mean to the objective, given the measured averages of the scored
    mixtures.
    """
    refuse(objective_errors(settings))
    directions = space.capability_directions()
    weights = capability_weights(settings.capability_weights, directions)
    scales = {}
    for name, higher in directions.items():
        low, high = float(averages[name].min()), float(averages[name].max())
        scales[name] = Scale(higher, weights[name], *((low, high) if higher else (high, low)))
    return scales


def objective_errors(settings: SearchConfig) -> Iterator[DemixError]:
    """Yield errors for an objective that does not exist."""
    if settings.objective not in OBJECTIVES:
        yield ConfigError(
            f"search.objective={settings.objective}: expected one of {', '.join(OBJECTIVES)}"
            f"{near(settings.objective, OBJECTIVES)}"
        )


def _column(rows: Sequence[ProxyRow], name: str) -> Array:
    absent = [row.name for row in rows if name not in row.scores]
    if absent:
        raise ScoreError(f"{name}: no score of {', '.join(absent[:5])}; score them, or leave the benchmark out")
    return np.array([row.scores[name].score for row in rows], dtype=np.float64)
