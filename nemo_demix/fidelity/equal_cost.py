"""What the component models' tokens buy otherwise: references to fit a regression on, which then orders the others.

The regression is judged on references that it has not seen, so the references are split at random, many times: as many
as the components cost in tokens are fitted on, the others left out. **Every** stand-in is judged on the same left-out
references, and the figure is the mean over the splits. Bootstrap resamples are of references, drawn once for all
splits: in a split a resample counts its left-out references as often as they were drawn, and what was fitted stays. So
the intervals hold the luck of which references there are to be ordered, and not that of a fit's own rows beyond the
mean over splits. Nothing is averaged before it is judged: a mean of the splits' predictions would have seen every
reference.

Axes: R references, S samples, K splits, N fitted references of a split, D datasets.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from nemo_demix.config import PredictorConfig
from nemo_demix.errors import ScoreError
from nemo_demix.fidelity.consistency import Rows
from nemo_demix.fidelity.decision import Decision, StandIn, averaged, decision, undefined
from nemo_demix.fidelity.nulls import log_shares
from nemo_demix.mixture import Array
from nemo_demix.prediction import log_linear, ridge
from nemo_demix.prediction.base import Function
from nemo_demix.prediction.correlation import MIN_RANKED

NUM_SPLITS = 50  # rho of one split of 24 varies by about .2, so that their mean does by .03
RIDGE_PENALTY = 1.0  # on features of standard deviation 1: few rows cannot choose one, and choose worse on average
MIN_FITTED = 3


@dataclass(frozen=True)
class Law:
    """A regression from data shares to a score.

    Attributes:
        fit: Fits it on data shares, shape (N, D), and scores, shape (N,).
        min_rows: The fewest references it can be fitted on, given D.
    """

    fit: Callable[[Array, Array], Function]
    min_rows: Callable[[int], int]


def fit_ridge(shares_ND: Array, losses_N: Array) -> Function:
    """Fit ridge regression on the standardised logarithms of the data shares; shapes (N, D) and (N,)."""
    return ridge.fit(log_shares, RIDGE_PENALTY, shares_ND, losses_N, seed=0)


def fit_log_linear(shares_ND: Array, losses_N: Array) -> Function:
    """Fit the data mixing law, c + k exp(t . share); shapes (N, D) and (N,)."""
    return log_linear.settle(PredictorConfig(), shares_ND, losses_N, 0).fit(shares_ND, losses_N, 0).predict


LAWS = {
    "ridge_equal_cost": Law(fit_ridge, lambda num_datasets: MIN_FITTED),
    "log_linear_equal_cost": Law(fit_log_linear, log_linear.LOG_LINEAR.min_rows),
}


@dataclass(frozen=True)
class EqualCost:
    """How many references are fitted on; `reason` says why none are."""

    num_fitted: int
    reason: str | None = None


def equal_cost(num_references: int, component_tokens: int, reference_tokens: int) -> EqualCost:
    """Count the references that the components' tokens would have trained, if enough are left to be ordered.

    Args:
        component_tokens: Training tokens of all components together; 0: they were brought.
        reference_tokens: Training tokens of one reference.
    """
    if not component_tokens:
        return EqualCost(0, "the components were brought: their tokens are not known")
    count = component_tokens // reference_tokens
    if count < MIN_FITTED:
        return EqualCost(0, f"not enough references: the components cost as much as {count}; {MIN_FITTED} are needed")
    if num_references - count < MIN_RANKED:
        return EqualCost(
            0,
            f"not enough references: {num_references}, of which the components' cost takes {count} to fit on; "
            f"{MIN_RANKED} have to be left out",
        )
    return EqualCost(count)


def draw_splits(num_references: int, num_fitted: int, rng: np.random.Generator) -> Rows:
    """Draw the references that are fitted on in each split, shape (NUM_SPLITS, num_fitted), ascending."""
    return np.array([np.sort(rng.permutation(num_references)[:num_fitted]) for _ in range(NUM_SPLITS)])


@dataclass(frozen=True)
class FittedLaw:
    """What a law that was fitted to each split's references says of all references.

    Attributes:
        predicted_KR: Predictions by split; without rows where it was not fitted.
        reason: Says why it was not fitted.
    """

    predicted_KR: Array
    reason: str | None = None


def fit_laws(
    models_R: Array, shares_RD: Array, splits_KN: Rows, laws: Mapping[str, Law] = LAWS
) -> dict[str, FittedLaw]:
    """Fit each law to the references of each split.

    Args:
        models_R: Scores of one model a reference, lower is better: a mean over data orders costs more.
        shares_RD: The references' data shares.
        splits_KN: References that each split fits on, see `draw_splits`.
    """
    return {name: _fit(law, models_R, shares_RD, splits_KN) for name, law in laws.items()}


def _fit(law: Law, models_R: Array, shares_RD: Array, splits_KN: Rows) -> FittedLaw:
    nothing = np.empty((0, len(models_R)))
    num_fitted, needed = splits_KN.shape[1], law.min_rows(shares_RD.shape[1])
    if num_fitted < needed:
        reason = f"not enough references: the components cost as much as {num_fitted}; it takes {needed} to fit"
        return FittedLaw(nothing, reason)
    try:
        predicted = [law.fit(shares_RD[fitted_N], models_R[fitted_N])(shares_RD) for fitted_N in splits_KN]
    except ScoreError as error:
        return FittedLaw(nothing, f"it could not be fitted: {error}")
    return FittedLaw(np.array(predicted))


def left_out_decisions(
    reference_R: Array,
    stand_ins: Mapping[str, StandIn],
    fitted: Mapping[str, FittedLaw],
    counts_SR: Array,
    splits_KN: Rows,
) -> dict[str, Decision]:
    """Judge all stand-ins and laws on the references that each split leaves out, averaged over the splits.

    Args:
        reference_R: The references' scores, shape (R,), lower is better.
        stand_ins: Stand-ins by name, their values in the references' order.
        fitted: Laws by name, see `fit_laws`, of the same splits.
        counts_SR: `multiplicities` of the samples, shape (S, R).
        splits_KN: References that each split fits on, shape (K, N), see `draw_splits`.
    """
    rows_R = np.arange(len(reference_R))
    left_out = [np.setdiff1d(rows_R, fitted_N) for fitted_N in splits_KN]

    def judged(values_KR: Array, has_unit: bool = True) -> Decision:
        return averaged(
            [
                decision(reference_R[out], StandIn(values_R[out], has_unit), counts_SR[:, out])
                for values_R, out in zip(values_KR, left_out, strict=True)
            ]
        )

    found = {name: judged(np.tile(one.values_R, (len(left_out), 1)), one.has_unit) for name, one in stand_ins.items()}
    for name, law in fitted.items():
        found[name] = (
            undefined(law.reason, len(counts_SR), len(left_out[0])) if law.reason else judged(law.predicted_KR)
        )
    return found
