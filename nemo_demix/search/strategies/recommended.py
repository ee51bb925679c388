"""What we recommend: the exact optimum of the best proxies there are, above floors, with DeMix's own answer beside it.

Where scores can be had from mixed predictions, these choose: they order mixtures better than merges do, and their
optimum is exact (benchmarks/fidelity.py). Merged proxies are asked for in DeMix's iterations beside them. Elsewhere as
many merges choose: DeMix's first iteration, then batches where they may improve, a smooth predictor, and its minimum
(benchmarks/landscape.py).

Axes: M mixtures of the pool, N resamples, C components, D datasets.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from nemo_demix.config import SearchConfig
from nemo_demix.errors import ConfigError, DemixError
from nemo_demix.mixture import Array
from nemo_demix.prediction.correlation import spearman
from nemo_demix.search.baselines import PUBLISHED
from nemo_demix.search.choose import POOL_STREAM, Choice, front, share_intervals
from nemo_demix.search.floors import NOTHING_GAINED, nothing_gained
from nemo_demix.search.objective import LINEAR, OBJECTIVES, linear_objective
from nemo_demix.search.pool import wide_draw
from nemo_demix.search.proxy_row import ProxyRow
from nemo_demix.search.ranking import Scored, objective_scales
from nemo_demix.search.reach import edges
from nemo_demix.search.refine import choose_refined
from nemo_demix.search.select import up_to_top_rows
from nemo_demix.search.slices import slices
from nemo_demix.search.strategies.base import FromRows, Problem, ProxyPlan, Screen, Strategy, no_steps
from nemo_demix.search.strategies.bayes import Bayes
from nemo_demix.search.strategies.demix import Demix
from nemo_demix.search.strategies.fixed import OPTIMUM, screened, screened_averages, screened_baselines, without_std
from nemo_demix.search.strategies.floored import Floored
from nemo_demix.search.what_if import of_mixed

logger = logging.getLogger(__name__)
_REFIT_STREAM = 5  # of random numbers: the items' resamples


class Recommended(Strategy):
    """Asks for merged proxies, unless predictions alone are wanted; then minimises.

    Args:
        screen: Prediction proxies, which choose, beside the merges of DeMix's iterations; None: merged proxies choose,
            and are asked for as `Bayes` does.
    """

    name: ClassVar[str] = "recommended"
    proxies: ClassVar[tuple[str, ...]] = ("auto", "merge", "predictions")
    from_rows: ClassVar[FromRows | None] = staticmethod(choose_refined)
    own_baselines: ClassVar[tuple[str, ...]] = (PUBLISHED,)
    keeps_heldout: ClassVar[bool] = True

    def __init__(self, problem: Problem, screen: Screen | None = None) -> None:
        super().__init__(problem, screen)
        self._demix = None if problem.settings.proxy == "predictions" else Demix(published(problem))
        self._bayes = None if screen is not None else Bayes(improving(problem))

    @classmethod
    def errors(cls, settings: SearchConfig) -> Iterator[DemixError]:
        """Yield what it does not take: objectives without a slope, and no steps of DeMix, which it asks for."""
        if not settings.iterations:
            yield no_steps(settings)
        if settings.objective in OBJECTIVES and settings.objective not in LINEAR:
            yield ConfigError(
                f"search.objective={settings.objective}: recommended minimises, and ranks have no slope; expected one "
                f"of {', '.join(LINEAR)}"
            )

    @classmethod
    def num_proxies(cls, settings: SearchConfig) -> int:
        """Return how many merged proxies it asks for."""
        return 0 if settings.proxy == "predictions" else Demix.num_proxies(settings)

    @classmethod
    def plan(cls, settings: SearchConfig, can_mix: bool, shown_std: Mapping[str, float] | None = None) -> ProxyPlan:
        """Let predictions choose where they can be mixed, unless `verify` found merges nearer to trained models."""
        if settings.proxy == "predictions":
            return ProxyPlan("predictions", "predictions", screen=True)
        shown = shown_std or {}
        if settings.proxy == "auto" and shown.get("merge", np.inf) < shown.get("predictions", -np.inf):
            logger.info("search: merges choose: `verify` found them nearer to trained references than predictions")
            can_mix = False
        if settings.proxy == "auto" and can_mix:
            return ProxyPlan("merge", "predictions", screen=True)
        return ProxyPlan("merge", "merge")

    def ask(self) -> list[Array]:
        """Return the weights of the next merges, each of shape (C,); none where predictions alone are wanted."""
        asking = self._bayes or self._demix
        return [] if asking is None else asking.ask()

    def tell(self, rows: Sequence[ProxyRow]) -> None:
        """Take the rows, and hand them to what asks, and to DeMix's choice."""
        super().tell(rows)
        for strategy in (self._demix, self._bayes):
            if strategy is not None:
                strategy.tell(rows)

    def result(self) -> Choice:
        """Return the optimum."""
        settings, space = self._problem.settings, self._problem.space
        if settings.heldout_floor is not None and not space.heldout:
            logger.info("search: no floor under held-out text: none is scored (suite.heldout_tokens)")
        if self._screen is None:
            assert self._bayes is not None, "merges choose"
            choice = self._bayes.result()
            choice = replace(choice, notes={"chosen_by": "merge", **choice.notes})
            if settings.heldout_floor is not None and space.heldout and "heldout" not in choice.notes:
                logger.info("search: no floor under held-out text: not all proxies were scored on all of it")
        else:
            choice = self._by_predictions(self._screen)
        if nothing_gained(choice.notes.get("floors", ())):
            logger.warning("search: %s", NOTHING_GAINED.format(settings.floor_baseline))
        if self._demix is None:
            return choice
        published_C = self._demix.chosen()
        if self._screen is not None:
            told = {PUBLISHED: screened(self._problem, self._screen, published_C)}
            choice = replace(choice, baselines={**choice.baselines, **told})
        return replace(choice, published=space.as_weights(published_C))

    def _by_predictions(self, screen: Screen) -> Choice:
        settings, space = self._problem.settings, self._problem.space
        pool_MC = wide_draw(settings, space, settings.pool_size, [self._problem.seed, 0, POOL_STREAM])
        averages = screened_averages(self._problem, screen, pool_MC)
        scales = objective_scales(settings, space, averages)
        by_capability = linear_objective(settings.objective, scales)
        floored = Floored(self._problem, screen)
        found = floored.optimum(by_capability)
        logger.info(OPTIMUM, found.value, max(0.0, found.optimality_gap))
        at_optimum = screened(self._problem, screen, found.weights_C)
        rng = np.random.default_rng([self._problem.seed, _REFIT_STREAM])
        resampled = [screen.resampled(rng) for _ in range(settings.num_refits)]
        refits_NC = [Floored(self._problem, one).optimum(by_capability).weights_C for one in resampled]
        prices = floored.prices(by_capability, found.weights_C)
        kept_M = floored.kept(pool_MC, averages, scales)
        pool_MC = np.vstack([found.weights_C, pool_MC[kept_M]])
        averages = {name: np.append(at_optimum[name], values[kept_M]) for name, values in averages.items()}
        objective_M = OBJECTIVES[settings.objective](averages, scales)
        top_MC = pool_MC[up_to_top_rows(objective_M, settings.select_top)]
        shares = space.blend.data_shares_MD
        return Choice(
            space.as_weights(found.weights_C),
            predicted=without_std(at_optimum),
            baselines=screened_baselines(self._problem, screen),
            intervals=share_intervals(space, shares(top_MC), shares(np.array(refits_NC)) if refits_NC else None),
            pareto=front(space, pool_MC, averages),
            reach=edges(space, found.weights_C, lambda weights_C: self._objective(screen, weights_C, by_capability)),
            notes={
                "chosen_by": "predictions",
                "objective": found.value,
                "optimality_gap": found.optimality_gap,
                **floored.heldout_note(found.weights_C),
                "floors": prices,
                "merges": self._agreement(screen),
            },
            slices=slices(space, found.weights_C).record(
                partial(screened_averages, self._problem, screen),
                lambda averages: OBJECTIVES[settings.objective](averages, scales),
                [partial(screened_averages, self._problem, one) for one in resampled],
            ),
            what_if=of_mixed(
                space, screen.portable(list(space.objective_capabilities), resampled), settings.objective, scales
            ),
        )

    def _objective(self, screen: Screen, weights_MC: Array, by_capability: Mapping[str, float]) -> Array:
        averages = screened_averages(self._problem, screen, weights_MC)
        return np.sum([weight * averages[name] for name, weight in by_capability.items()], axis=0)

    def _agreement(self, screen: Screen) -> dict[str, Any]:
        """Return how merges and predictions of the same mixtures agree, by capability; empty without merges."""
        if not self._rows:
            return {}
        scored = Scored(self._problem.space, self._rows)
        merged, predicted = scored.averages(), screened_averages(self._problem, screen, scored.weights_MC)
        return {"number": len(self._rows), "rho": {name: spearman(merged[name], predicted[name]) for name in merged}}


def improving(problem: Problem) -> Problem:
    """Return the problem as `Bayes` would have it, with as many proxies as DeMix's iterations: the first of these at
    random.
    """
    settings = problem.settings
    bayes = replace(settings.bayes, initial=settings.iterations[0], budget=sum(settings.iterations))
    return replace(problem, settings=replace(settings, bayes=bayes))


def published(problem: Problem) -> Problem:
    """Return the problem as DeMix's published search would have it, on the same proxies: no floors, LightGBM."""
    predictor = replace(problem.settings.predictor, kind="lightgbm")
    settings = replace(
        problem.settings,
        strategy="demix",
        proxy="merge",
        predictor=predictor,
        floors={},
        default_floor=None,
        heldout_floor=None,
    )
    return replace(problem, settings=settings)
