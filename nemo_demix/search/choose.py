"""How scored mixtures lead to the mixture: predict a pool, rank it, take the mean of its top, and say how sure it is.

Importing this does not import torch.

Axes: M mixtures of the pool, N top ones, X predicted ones, C components, D datasets.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from nemo_demix.config import SearchConfig
from nemo_demix.mixture import Array
from nemo_demix.prediction.base import Predictor
from nemo_demix.prediction.cross_validation import CrossValidation, cross_validate, cross_validated
from nemo_demix.prediction.predictors import refits
from nemo_demix.search.objective import LINEAR
from nemo_demix.search.pareto import FRONT_SIZE, pareto_front, thinned
from nemo_demix.search.proxy_row import ProxyRow
from nemo_demix.search.ranking import Ranking
from nemo_demix.search.sample import sample_mixtures
from nemo_demix.search.select import mean_of_top, top_rows, up_to_top_rows
from nemo_demix.search.slices import INTERVAL, Averages, slices
from nemo_demix.search.space import SearchSpace
from nemo_demix.search.what_if import of_fitted

FIRST_STREAM, POOL_STREAM, DRAW_STREAM = 0, 1, 2  # of random numbers, beside (seed, step)
REFIT_POOL = 20_000  # mixtures that each bootstrap refit ranks


@dataclass(frozen=True)
class Choice:
    """What a strategy ends with; a field that does not apply to it is empty or None.

    Attributes:
        merge_weights: Weights by component (data shares by dataset, where the space is of datasets).
        predicted: Predictions by capability of the objective: score; std, the larger of fit_std (of the predictor at
            this mixture) and cv_rmse (out of fold, so with the noise of scores).
        fit_scores: The same by benchmark of use=fit, which is in no objective.
        baselines: Predicted capability averages of each baseline's nearest merge.
        intervals: The 5th and 95th percentile of each dataset's share, by dataset: `top` over the mixtures whose mean
            was taken, `refits` over what bootstrap refits of the predictor would have chosen.
        pareto: Mixtures of the pool that no other one is predicted to beat in every capability.
        reach: The edges of what the components can stand for that the mixture lies on, see `reach.edges`.
        published: Merge weights that DeMix's published search ends with on the same proxies, where another rule chose.
        notes: What else the strategy has to say.
        slices: The predicted objective along lines through the mixture, see `Slices.record`; None: it has no slopes.
        what_if: The predictor as plain values, see `what_if`; None: there is none.
        out_of_fold: Averages of the scored mixtures as measured, and as predicted without them, by capability.
    """

    merge_weights: dict[str, float]
    predicted: dict[str, dict[str, float | None]] = field(default_factory=dict)
    fit_scores: dict[str, dict[str, float | None]] = field(default_factory=dict)
    cross_validation: CrossValidation | None = None
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    intervals: dict[str, dict[str, list[float] | None]] = field(default_factory=dict)
    pareto: list[dict[str, Any]] = field(default_factory=list)
    reach: list[dict[str, Any]] = field(default_factory=list)
    published: dict[str, float] | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    slices: dict[str, Any] | None = None
    what_if: dict[str, Any] | None = None
    out_of_fold: dict[str, dict[str, list[float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class RankedPool:
    """A pool above the floors, with what is predicted of it; an objective is lower where better."""

    weights_MC: Array
    averages: dict[str, Array]
    objective_M: Array


def draw(settings: SearchConfig, space: SearchSpace, count: int, stream: Sequence[int]) -> Array:
    """Return fresh mixtures of the space, float64, shape (count, C), from a stream of random numbers of their own."""
    rng = np.random.default_rng(list(stream))
    return sample_mixtures(settings.sampler, space.prior, space.constraints, count, rng)


def rank_pool(ranking: Ranking, pool_MC: Array) -> RankedPool:
    """Predict a pool, leave out what is below a floor, and rank the rest.

    Raises:
        MixtureError: if nothing is above the floors.
    """
    averages = ranking.averages(pool_MC)
    kept_M = ranking.kept(pool_MC, averages)
    if not kept_M.any():
        raise ranking.nearest_miss(averages)
    averages = {name: values[kept_M] for name, values in averages.items()}
    return RankedPool(pool_MC[kept_M], averages, ranking.objective(averages))


def choose_from_rows(
    settings: SearchConfig, space: SearchSpace, rows: Sequence[ProxyRow], seed: int, step: int = 0
) -> Choice:
    """Return the mixture that scored rows point to; what the last step of most strategies does.

    Args:
        rows: Scored mixtures, each {name, merge_weights, scores: {benchmark: {score}}}; their order does not matter.
        seed: Seed of the pool, the predictor and the folds.
        step: Step of the search, so that its pools differ.

    Raises:
        ConfigError, MixtureError, ScoreError: as `Ranking`, `sample_mixtures`, `cross_validate` and `mean_of_top`.
    Memory: a few arrays of `search.pool_size` x (C + benchmarks) float64.
    """
    ranking = Ranking(settings, space, rows, seed)
    pool = rank_pool(ranking, draw(settings, space, settings.pool_size, [seed, step, POOL_STREAM]))
    return describe(ranking, pool, best_mean(ranking, pool, settings.select_top))


def best_mean(ranking: Ranking, pool: RankedPool, count: int) -> Array:
    """Return the mean of the pool's top, shape (C,); its best single row where the mean falls below a floor."""
    mean_C = mean_of_top(pool.weights_MC, pool.objective_M, count, ranking.space.constraints)
    if not ranking.kept(mean_C[None], ranking.averages(mean_C[None])).all():
        return pool.weights_MC[int(top_rows(pool.objective_M, 1)[0])]
    return mean_C


def describe(
    ranking: Ranking,
    pool: RankedPool,
    weights_C: Array,
    notes: Mapping[str, Any] | None = None,
    refit_choice: Callable[[Averages], Array] | None = None,
) -> Choice:
    """Return a chosen mixture with all that the predictor says of it.

    Args:
        refit_choice: What a predictor that was fitted on resampled mixtures would choose, given its capability
            averages; None: the mean of the top of the head of the pool.
    """
    settings, space, scored = ranking.settings, ranking.space, ranking.scored
    checks, out_of_fold = cross_validated(
        settings.predictor,
        scored.weights_MC,
        scored.columns,
        scored.capability_of,
        ranking.seed,
        scored.higher_is_better,
        scored.weights,
    )
    means, stds = ranking.averages(weights_C[None]), ranking.averages_std(weights_C[None])
    predicted = {
        name: prediction(float(means[name][0]), float(stds[name][0]), checks.capability_rmse[name]) for name in means
    }
    top_ND = space.blend.data_shares_MD(pool.weights_MC[up_to_top_rows(pool.objective_M, settings.select_top)])
    predictors = _refits(ranking)
    refitted: list[Averages] = [partial(_averages_of, ranking, predictor) for predictor in predictors]
    return Choice(
        merge_weights=space.as_weights(weights_C),
        predicted=predicted,
        fit_scores=_fit_scores(ranking, weights_C),
        cross_validation=checks,
        baselines=_baselines(ranking),
        intervals=share_intervals(space, top_ND, _refit_shares(ranking, pool, refit_choice, refitted)),
        pareto=front(space, pool.weights_MC, pool.averages),
        notes=dict(notes or {}),
        slices=slices(space, weights_C).record(ranking.averages, ranking.objective, refitted)
        if settings.objective in LINEAR
        else None,
        what_if=of_fitted(ranking, predictors),
        out_of_fold={
            name: {"measured": one.measured_M.tolist(), "predicted": one.predicted_M.tolist()}
            for name, one in out_of_fold.items()
        },
    )


def prediction(score: float, fit_std: float, cv_rmse: float) -> dict[str, float | None]:
    """Return a predicted score as it is recorded."""
    return {"score": score, "std": max(fit_std, cv_rmse), "fit_std": fit_std, "cv_rmse": cv_rmse}


def share_intervals(
    space: SearchSpace, top_ND: Array, refit_ND: Array | None
) -> dict[str, dict[str, list[float] | None]]:
    """Return the 5th and 95th percentile of each dataset's share, over the top of a pool and over refits."""
    top_2D = np.percentile(top_ND, INTERVAL, axis=0)
    refit_2D = None if refit_ND is None else np.percentile(refit_ND, INTERVAL, axis=0)
    return {
        name: {
            "top": top_2D[:, column].tolist(),
            "refits": None if refit_2D is None else refit_2D[:, column].tolist(),
        }
        for column, name in enumerate(space.blend.datasets)
    }


def front(space: SearchSpace, weights_MC: Array, averages: Mapping[str, Array]) -> list[dict[str, Any]]:
    """Return the pool's Pareto front, thinned, as plain values."""
    directions = space.capability_directions()
    rows = thinned(pareto_front(averages, directions), averages, directions, FRONT_SIZE)
    result = []
    for row in rows:
        weights = space.as_weights(weights_MC[row])
        result.append(
            {
                "merge_weights": weights,
                "data_shares": space.blend.data_shares(weights),
                "predicted": {name: float(values[row]) for name, values in averages.items()},
            }
        )
    return result


def _baselines(ranking: Ranking) -> dict[str, dict[str, float]]:
    result = {}
    for name, shares in ranking.space.baselines.items():
        weights, _ = ranking.space.blend.merge_weights_for(shares)
        averages = ranking.averages(ranking.space.as_array(weights)[None])
        result[name] = {capability: float(values[0]) for capability, values in averages.items()}
    return result


def _fit_scores(ranking: Ranking, weights_C: Array) -> dict[str, dict[str, float | None]]:
    scored = ranking.scored
    if not scored.fit_columns:
        return {}
    checks = cross_validate(
        ranking.settings.predictor,
        scored.weights_MC,
        scored.fit_columns,
        {name: name for name in scored.fit_columns},
        ranking.seed,
        scored.fit_higher_is_better,
    )
    return {
        name: prediction(score, std, checks.benchmark_rmse[name])
        for name, (score, std) in ranking.fit_scores(weights_C).items()
    }


def _refits(ranking: Ranking) -> list[Predictor]:
    """Return predictors that were fitted on resampled mixtures."""
    settings, scored = ranking.settings, ranking.scored
    if settings.num_refits < 1:
        return []
    return list(refits(settings.predictor, scored.weights_MC, scored.columns, ranking.seed, settings.num_refits))


def _averages_of(ranking: Ranking, predictor: Predictor, weights_XC: Array) -> Mapping[str, Array]:
    return ranking.over_capabilities(predictor.predict(weights_XC))


def _refit_shares(
    ranking: Ranking, pool: RankedPool, refit_choice: Callable[[Averages], Array] | None, refitted: Sequence[Averages]
) -> Array | None:
    """Return data shares that predictors fitted on resampled mixtures would choose; None: there are none."""
    settings = ranking.settings
    if not refitted:
        return None
    pool_MC = pool.weights_MC[:REFIT_POOL]
    count = max(1, round(settings.select_top * len(pool_MC) / len(pool.weights_MC)))
    chosen = []
    for averages in refitted:
        if refit_choice is not None:
            chosen.append(refit_choice(averages))
        else:
            objective_M = ranking.objective(averages(pool_MC))
            chosen.append(mean_of_top(pool_MC, objective_M, count, ranking.space.constraints))
    return ranking.space.blend.data_shares_MD(np.array(chosen))
