"""Mixtures that need no search: a plain baseline, and the exact optimum of prediction proxies."""

import logging
from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import numpy as np

from nemo_demix.config import SearchConfig
from nemo_demix.errors import ConfigError, DemixError
from nemo_demix.mixture import Array
from nemo_demix.prediction.capabilities import capability_averages
from nemo_demix.search.choose import Choice
from nemo_demix.search.objective import capability_weights
from nemo_demix.search.strategies.base import Problem, ProxyPlan, Screen, WithoutProxies

logger = logging.getLogger(__name__)
OPTIMUM = "optimum over mixed predictions: %.6f bits/byte, at most %.2g from the best"


def no_shares(name: str) -> ConfigError:
    """Make the error for a strategy whose data shares are given by nothing."""
    return ConfigError(
        f"search.strategy={name}: expected its data shares in search.{name}, or another run's mixture.json in "
        f"search.{name}_from; found neither"
    )


class Plain(WithoutProxies):
    """One of the space's baselines, moved to the nearest mixture that satisfies the constraints.

    A subclass's name is the baseline's.
    """

    mixes: ClassVar[Literal["components", "datasets"]] = "datasets"
    proxies: ClassVar[tuple[str, ...]] = ()

    def __init__(self, problem: Problem, screen: Screen | None = None) -> None:
        super().__init__(problem, screen)
        if self.name not in problem.space.baselines:
            raise no_shares(self.name)

    @classmethod
    def errors(cls, settings: SearchConfig) -> Iterator[DemixError]:
        """Yield what it cannot do: keep floors, as nothing is predicted."""
        if settings.floors or settings.default_floor is not None:
            yield ConfigError(f"search.floors: {cls.name} predicts nothing; take another search.strategy")

    def result(self) -> Choice:
        """Return the baseline; `moved_share` says how much of the data the constraints changed."""
        space = self._problem.space
        wanted = space.baselines[self.name]
        weights, _ = space.blend.merge_weights_for(wanted)
        wanted_D = np.array([wanted[name] for name in space.blend.datasets])
        weights_C = space.constraints.nearest(space.as_array(weights))
        distance = float(np.abs(space.blend.data_shares_MD(weights_C[None])[0] - wanted_D).sum())
        return Choice(space.as_weights(weights_C), notes={"moved_share": distance / 2})


class Proportional(Plain):
    """Every dataset in proportion to its tokens."""

    name: ClassVar[str] = "proportional"


class Equal(Plain):
    """Every dataset alike."""

    name: ClassVar[str] = "equal"


class UniMax(Plain):
    """Shares as uniform as can be while no dataset is repeated too often, see `unimax_shares`."""

    name: ClassVar[str] = "unimax"


class Heuristic(Plain):
    """The user's own shares."""

    name: ClassVar[str] = "heuristic"

    @classmethod
    def errors(cls, settings: SearchConfig) -> Iterator[DemixError]:
        """Yield what any plain mixture refuses, and shares that nothing gives."""
        yield from super().errors(settings)
        if not settings.heuristic and settings.heuristic_from is None:
            yield no_shares(cls.name)


class MixMin(WithoutProxies):
    """The exact optimum of a weighted mean of scores over mixed predictions, which is convex; nothing is fitted.

    The components' own predictions are enough: no proxy is asked for.

    Source: MixMin (arXiv:2502.10510): convex minimisation over the mixture of the sources' models.
    """

    name: ClassVar[str] = "mixmin"
    proxies: ClassVar[tuple[str, ...]] = ("merge", "predictions", "both")  # its optimum's own is a merge, whichever

    @classmethod
    def errors(cls, settings: SearchConfig) -> Iterator[DemixError]:
        """Yield what it does not take: floors, and objectives that are not a mean."""
        if settings.objective != "mean":
            yield ConfigError(
                f"search.objective={settings.objective}: mixmin minimises a weighted mean of scores, which is convex; "
                "set search.objective=mean"
            )
        if settings.floors or settings.default_floor is not None:
            yield ConfigError(
                "search.floors: mixmin takes none; set search.strategy=recommended, which keeps them at its optimum"
            )

    @classmethod
    def plan(cls, settings: SearchConfig, can_mix: bool, shown_std: Mapping[str, float] | None = None) -> ProxyPlan:
        """Let predictions choose; the optimum's merge is scored, and compared with the baselines' merges."""
        return ProxyPlan("merge", "predictions", judged_by="merge", screen=True)

    def result(self) -> Choice:
        """Return the optimum; `optimality_gap` is how far above the least possible value it can be."""
        space, screen = self._problem.space, self._screen
        assert screen is not None, "the plan asks for one"
        objective = space.objective_capabilities
        by_capability = capability_weights(self._problem.settings.capability_weights, space.capability_directions())
        owners = list(objective.values())
        total = sum(by_capability.values())
        weights = {name: by_capability[owner] / (total * owners.count(owner)) for name, owner in objective.items()}
        optimum = screen.optimum(space.constraints, weights)
        logger.info(OPTIMUM, optimum.value, max(0.0, optimum.optimality_gap))
        return Choice(
            space.as_weights(optimum.weights_C),
            predicted=without_std(screened(self._problem, screen, optimum.weights_C)),
            baselines=screened_baselines(self._problem, screen),
            notes={"objective": optimum.value, "optimality_gap": optimum.optimality_gap},
        )


def screened(problem: Problem, screen: Screen, weights_C: Array) -> dict[str, float]:
    """Return capability averages of one mixture by prediction proxies."""
    return {name: float(values[0]) for name, values in screened_averages(problem, screen, weights_C[None]).items()}


def screened_averages(problem: Problem, screen: Screen, weights_MC: Array) -> dict[str, Array]:
    """Return capability averages of mixtures by prediction proxies, each of shape (M,)."""
    objective = problem.space.objective_capabilities
    return capability_averages(screen.scores_MB(weights_MC, list(objective)), objective, problem.space.weights)


def screened_baselines(problem: Problem, screen: Screen) -> dict[str, dict[str, float]]:
    """Return capability averages of each baseline's nearest merge by prediction proxies."""
    space = problem.space
    return {
        name: screened(problem, screen, space.as_array(space.blend.merge_weights_for(shares)[0]))
        for name, shares in space.baselines.items()
    }


def without_std(averages: Mapping[str, float]) -> dict[str, dict[str, float | None]]:
    """Return predicted scores as they are recorded where nothing was fitted."""
    return {name: {"score": score, "std": None, "fit_std": None, "cv_rmse": None} for name, score in averages.items()}
