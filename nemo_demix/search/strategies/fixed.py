"""Mixtures that need no search: a plain baseline, and the exact optimum of prediction proxies."""

import logging
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from nemo_demix.config import SearchConfig
from nemo_demix.errors import ConfigError, DemixError, refuse
from nemo_demix.mixture import Array
from nemo_demix.prediction.capabilities import capability_averages
from nemo_demix.search.choose import Choice
from nemo_demix.search.objective import capability_weights
from nemo_demix.search.ranking import Row
from nemo_demix.search.strategies.base import Problem, Screen

logger = logging.getLogger(__name__)
OPTIMUM = "optimum over mixed predictions: %.6f bits/byte, at most %.2g from the best"


def no_shares(name: str) -> ConfigError:
    """Of a strategy whose data shares are given by nothing."""
    return ConfigError(
        f"search.strategy={name}: expected its data shares in search.{name}, or another run's mixture.json in "
        f"search.{name}_from; found neither"
    )


def mixmin_errors(settings: SearchConfig) -> Iterator[DemixError]:
    """What `mixmin` does not take."""
    if settings.objective != "mean":
        yield ConfigError(
            f"search.objective={settings.objective}: mixmin minimises a weighted mean of scores, which is convex; "
            "set search.objective=mean"
        )
    if settings.floors or settings.default_floor is not None:
        yield ConfigError(
            "search.floors: mixmin takes none; set search.strategy=recommended, which keeps them at its optimum"
        )


class Plain:
    """One of the space's baselines, moved to the nearest mixture that satisfies the constraints."""

    num_proxies = 0

    def __init__(self, problem: Problem, name: str) -> None:
        if name not in problem.space.baselines:
            raise no_shares(name)
        self._problem, self._name = problem, name

    def ask(self) -> list[Array]:
        """Nothing: no proxy is scored."""
        return []

    def tell(self, rows: Sequence[Row]) -> None:
        """Never called with rows."""

    def result(self) -> Choice:
        """The baseline; `moved_share` says how much of the data the constraints changed."""
        space = self._problem.space
        wanted = space.baselines[self._name]
        weights, _ = space.blend.merge_weights_for(wanted)
        wanted_D = np.array([wanted[name] for name in space.blend.datasets])
        weights_C = space.constraints.nearest(space.as_array(weights))
        distance = float(np.abs(space.blend.data_shares_MD(weights_C[None])[0] - wanted_D).sum())
        return Choice(space.as_weights(weights_C), notes={"moved_share": distance / 2})


class MixMin:
    """The exact optimum of a weighted mean of scores over mixed predictions, which is convex; nothing is fitted.

    Source: MixMin (arXiv:2502.10510): convex minimisation over the mixture of the sources' models.
    """

    num_proxies = 0

    def __init__(self, problem: Problem, screen: Screen) -> None:
        refuse(mixmin_errors(problem.settings))
        self._problem, self._screen = problem, screen

    def ask(self) -> list[Array]:
        """Nothing: the components' own predictions are enough."""
        return []

    def tell(self, rows: Sequence[Row]) -> None:
        """Never called with rows."""

    def result(self) -> Choice:
        """The optimum; `optimality_gap` is how far above the least possible value it can be."""
        space = self._problem.space
        objective = space.objective_capabilities
        by_capability = capability_weights(self._problem.settings.capability_weights, space.capability_directions())
        owners = list(objective.values())
        total = sum(by_capability.values())
        weights = {name: by_capability[owner] / (total * owners.count(owner)) for name, owner in objective.items()}
        optimum = self._screen.optimum(space.constraints, weights)
        logger.info(OPTIMUM, optimum.value, max(0.0, optimum.optimality_gap))
        return Choice(
            space.as_weights(optimum.weights_C),
            predicted=without_std(screened(self._problem, self._screen, optimum.weights_C)),
            baselines=screened_baselines(self._problem, self._screen),
            notes={"objective": optimum.value, "optimality_gap": optimum.optimality_gap},
        )


def screened(problem: Problem, screen: Screen, weights_C: Array) -> dict[str, float]:
    """Capability averages of one mixture by prediction proxies."""
    return {name: float(values[0]) for name, values in screened_averages(problem, screen, weights_C[None]).items()}


def screened_averages(problem: Problem, screen: Screen, weights_MC: Array) -> dict[str, Array]:
    """Capability averages of mixtures by prediction proxies, each of shape (M,)."""
    objective = problem.space.objective_capabilities
    return capability_averages(screen.scores_MB(weights_MC, list(objective)), objective, problem.space.weights)


def screened_baselines(problem: Problem, screen: Screen) -> dict[str, dict[str, float]]:
    """Capability averages of each baseline's nearest merge by prediction proxies."""
    space = problem.space
    return {
        name: screened(problem, screen, space.as_array(space.blend.merge_weights_for(shares)[0]))
        for name, shares in space.baselines.items()
    }


def without_std(averages: Mapping[str, float]) -> dict[str, dict[str, float | None]]:
    """Predicted scores as they are recorded where nothing was fitted."""
    return {name: {"score": score, "std": None, "fit_std": None, "cv_rmse": None} for name, score in averages.items()}
