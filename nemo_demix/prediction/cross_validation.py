"""How far the predictor is to be trusted: repeated K-fold predictions of mixtures it was not fitted on.

Axes: M scored mixtures, R repeats.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nemo_demix.config import PredictorConfig
from nemo_demix.errors import ConfigError, ScoreError
from nemo_demix.mixture import Array
from nemo_demix.prediction.capabilities import capability_averages
from nemo_demix.prediction.correlation import spearman, top_spearman
from nemo_demix.prediction.folds import Folds, draw_folds
from nemo_demix.prediction.predictors import checked_inputs, fit_checked

__all__ = ["CrossValidation", "cross_validate", "spearman"]


@dataclass(frozen=True)
class CrossValidation:
    """Out-of-fold agreement of predicted with measured scores, by benchmark and by capability average.

    A correlation is None where it is undefined: scores or predictions are constant, or fewer than 3 mixtures are
    ranked. A macro average is None where one of its members is. Each figure is the mean over the repeats. On a few
    dozen mixtures rho leans low: trees that cannot split predict their folds' means, and those run against the held
    fold.
    """

    num_rows: int
    folds: int
    repeats: int
    benchmark_rho: dict[str, float | None]  # Spearman's, over all mixtures
    benchmark_rho_top: dict[str, float | None]  # over the quarter with the best measured scores
    benchmark_rmse: dict[str, float]  # unit of the scores
    capability_rho: dict[str, float | None]
    capability_rho_top: dict[str, float | None]
    capability_rmse: dict[str, float]  # unit of the scores: the standard deviation of a predicted capability average
    rho_macro: float | None
    rho_top_macro: float | None
    rmse_macro: float


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Each mixture's average of one capability, as it was scored and as it was predicted (mean over the repeats)."""

    measured_M: Array
    predicted_M: Array


def cross_validate(
    config: PredictorConfig,
    weights_MC: Array,
    scores: Mapping[str, Array],
    capability_of: Mapping[str, str],
    seed: int,
    higher_is_better: Mapping[str, bool] | None = None,
    weights: Mapping[str, float] | None = None,
) -> CrossValidation:
    """Return the figures of `cross_validated` alone; arguments and errors are the same."""
    return cross_validated(config, weights_MC, scores, capability_of, seed, higher_is_better, weights)[0]


def cross_validated(
    config: PredictorConfig,
    weights_MC: Array,
    scores: Mapping[str, Array],
    capability_of: Mapping[str, str],
    seed: int,
    higher_is_better: Mapping[str, bool] | None = None,
    weights: Mapping[str, float] | None = None,
) -> tuple[CrossValidation, dict[str, OutOfFold]]:
    """Fit on all folds but one, predict that one, `config.repeats` times over; nothing is tuned on what is scored.

    What a kind chooses by itself (settings, or the kind itself) it chooses anew on the rows that each fold leaves.
    Rows of one mixture share a fold. The order of the rows does not matter.

    Args:
        config: The kind, its settings, folds and repeats.
        weights_MC: Merge weights (or data shares) of the scored mixtures, float64, shape (M, C).
        scores: Measured scores by benchmark, each of shape (M,).
        capability_of: The capability that each benchmark belongs to.
        seed: Seed of the folds and of the predictor.
        higher_is_better: Direction by benchmark; it decides which quarter is the best. None: lower is better for all,
            as for bits per byte.
        weights: Weights of benchmarks in their capability's average, see `capability_averages`.

    Raises:
        ConfigError: if the folds are not from 2 to half the distinct mixtures, or repeats are below 1.
        MixtureError: if a row of weights is not on the simplex.
        ScoreError: as `fit_predictor`; or if a benchmark has no capability or no direction, or a capability averages
            benchmarks of both directions.
    """
    weights_MC, columns, num_distinct = checked_inputs(config, weights_MC, scores)
    if not 2 <= config.folds <= num_distinct // 2 or config.repeats < 1:
        raise ConfigError(
            f"search.predictor: expected folds from 2 to {num_distinct // 2} (half the distinct scored mixtures) and "
            f"repeats >= 1, found {config.folds} and {config.repeats}"
        )
    averages = capability_averages(columns, capability_of, weights)
    benchmark_higher, capability_higher = _directions(columns, capability_of, higher_is_better or {})
    rng = np.random.default_rng(seed)
    repeats = [
        _out_of_fold(config, weights_MC, columns, draw_folds(weights_MC, config.folds, rng), seed)
        for _ in range(config.repeats)
    ]
    benchmarks = _agreement(columns, repeats, benchmark_higher)
    repeated_averages = [capability_averages(predicted, capability_of, weights) for predicted in repeats]
    capabilities = _agreement(averages, repeated_averages, capability_higher)
    figures = CrossValidation(
        num_rows=len(weights_MC),
        folds=config.folds,
        repeats=config.repeats,
        benchmark_rho=benchmarks.rho,
        benchmark_rho_top=benchmarks.rho_top,
        benchmark_rmse=benchmarks.rmse,
        capability_rho=capabilities.rho,
        capability_rho_top=capabilities.rho_top,
        capability_rmse=capabilities.rmse,
        rho_macro=_mean(capabilities.rho.values()),
        rho_top_macro=_mean(capabilities.rho_top.values()),
        rmse_macro=float(np.mean(list(capabilities.rmse.values()))),
    )
    means = {name: np.mean([predicted[name] for predicted in repeated_averages], axis=0) for name in averages}
    return figures, {name: OutOfFold(averages[name], means[name]) for name in averages}


@dataclass(frozen=True)
class _Agreement:
    """The three figures, by column."""

    rho: dict[str, float | None]
    rho_top: dict[str, float | None]
    rmse: dict[str, float]


def _agreement(
    measured: Mapping[str, Array], repeats: Sequence[Mapping[str, Array]], higher_is_better: Mapping[str, bool]
) -> _Agreement:
    agreement = _Agreement({}, {}, {})
    for name, measured_M in measured.items():
        predicted_RM = np.array([predicted[name] for predicted in repeats])
        agreement.rho[name] = _mean([spearman(measured_M, row_M) for row_M in predicted_RM])
        agreement.rho_top[name] = _mean(
            [top_spearman(measured_M, row_M, higher_is_better[name]) for row_M in predicted_RM]
        )
        agreement.rmse[name] = float(np.sqrt(np.mean((predicted_RM - measured_M) ** 2)))
    return agreement


def _out_of_fold(
    config: PredictorConfig,
    weights_MC: Array,
    columns: Mapping[str, Array],
    fold_M: Folds,
    seed: int,
) -> dict[str, Array]:
    """Return predictions of every row by regressors that were not fitted on its fold."""
    predicted = {name: np.empty(len(weights_MC)) for name in columns}
    for fold in range(config.folds):
        held_M = fold_M == fold
        kept = {name: scores_M[~held_M] for name, scores_M in columns.items()}
        predictor = fit_checked(config, weights_MC[~held_M], kept, seed)
        for name, held in predictor.predict(weights_MC[held_M]).items():
            predicted[name][held_M] = held
    return predicted


def _directions(
    columns: Mapping[str, Array], capability_of: Mapping[str, str], higher_is_better: Mapping[str, bool]
) -> tuple[dict[str, bool], dict[str, bool]]:
    """Return whether higher is better, by benchmark and by capability."""
    benchmarks: dict[str, bool] = {}
    capabilities: dict[str, bool] = {}
    for name in columns:
        if higher_is_better and name not in higher_is_better:
            raise ScoreError(f"cross-validation: no direction for {name}; say whether higher is better")
        benchmarks[name] = higher_is_better.get(name, False)
        if capabilities.setdefault(capability_of[name], benchmarks[name]) != benchmarks[name]:
            raise ScoreError(f"{capability_of[name]}: its average would mix scores of both directions, as of {name}")
    return benchmarks, capabilities


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean; None where a member is."""
    known = list(values)
    defined = [value for value in known if value is not None]
    return float(np.mean(defined)) if len(defined) == len(known) else None
