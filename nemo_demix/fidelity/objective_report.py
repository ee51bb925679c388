"""The part of `verify/fidelity.json` that the choice hangs on: stand-ins against references by the run's macro score.

Axes: R references, S samples, K splits, N fitted references of a split, E data orders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nemo_demix.artifacts import DataManifest, ModelRecord
from nemo_demix.config import DemixConfig
from nemo_demix.fidelity.consistency import Rows
from nemo_demix.fidelity.decision import (
    Decision,
    StandIn,
    decision,
    decision_estimates,
    over_orders,
    rho_difference,
)
from nemo_demix.fidelity.equal_cost import LAWS, draw_splits, equal_cost, fit_laws, left_out_decisions
from nemo_demix.fidelity.nulls import Mixtures, null_stand_ins
from nemo_demix.fidelity.objective import Macro, kind_of_score, macro_losses
from nemo_demix.fidelity.references import Reference
from nemo_demix.fidelity.resampled import multiplicities, pair_edges
from nemo_demix.mixture import Array
from nemo_demix.scoring.items import Scores
from nemo_demix.training.jobs import reference_settings

_STREAM = 5  # of the splits, beside the resamples' own


@dataclass(frozen=True)
class Compared:
    """What one set of scores compares.

    Attributes:
        orders: Scores of the references' models, by mixture, in each data order that all were trained in.
        measured: Scores of the kinds that components make (merge, predictions), by kind and mixture.
        trained: Scores of earlier checkpoints, by `trained_<tokens>` and mixture.
    """

    orders: Sequence[Mapping[str, Scores]]
    measured: Mapping[str, Mapping[str, Scores]]
    trained: Mapping[str, Mapping[str, Scores]]


def objective_report(
    config: DemixConfig,
    mixtures: Mixtures,
    found: Macro,
    compared: Compared,
    samples_SR: Rows,
    components: Sequence[ModelRecord],
) -> dict[str, Any]:
    """Compute the figures of one set of scores, over samples of references, indices of shape (S, R).

    Returns:
        unit and higher_is_better of the macro score, the capabilities' weights; pair_edges: the largest difference of
        the small and of the middle pairs; proxies: by stand-in and measure (`decision`); differences: of rho, from what
        needs no model; left_out: everything again on references that a regression of equal cost was not fitted to
        (`equal_cost`), with its differences. Where there is no macro score, `reason` says why and the rest is null.
    """
    nothing = dict.fromkeys(("unit", "higher_is_better", "pair_edges", "proxies", "differences", "left_out"))
    try:
        unit, higher_is_better = kind_of_score(found, next(iter(compared.orders[0].values())))
    except ValueError as error:
        return {"reason": str(error), "weights": found.capability_weights, **nothing}

    reference_ER = np.array([macro_losses(found, models, higher_is_better) for models in compared.orders])
    reference_R = reference_ER.mean(axis=0)
    stand_ins = {
        name: StandIn(macro_losses(found, rows, higher_is_better))
        for name, rows in {**compared.measured, **compared.trained}.items()
    }
    nulls = null_stand_ins(mixtures, found.capability_weights)
    counts_SR = multiplicities(samples_SR)
    everything = {**stand_ins, **nulls}

    def whole(scores_R: Array, some_SR: Array) -> dict[str, Decision]:
        return {name: decision(scores_R, one, some_SR) for name, one in everything.items()}

    decisions = over_orders(reference_ER, counts_SR, config.seed, whole)
    tokens = sum(record.num_tokens for record in components)
    cost = equal_cost(len(reference_R), tokens, reference_settings(config).num_tokens)
    left_out: dict[str, Any] = {"num_fitted": cost.num_fitted, "reason": cost.reason, "proxies": {}, "differences": {}}
    if not cost.reason:
        splits_KN = draw_splits(len(reference_R), cost.num_fitted, np.random.default_rng([config.seed, _STREAM]))

        # To one model each, which is what a reference costs.
        fitted = fit_laws(reference_ER[0], mixtures.shares_RD, splits_KN)

        def apart(scores_R: Array, some_SR: Array) -> dict[str, Decision]:
            return left_out_decisions(scores_R, everything, fitted, some_SR, splits_KN)

        judged = over_orders(reference_ER, counts_SR, config.seed, apart)
        left_out["num_splits"] = len(splits_KN)
        left_out |= _figures(judged, compared.measured, list(LAWS), config.verify.confidence)
    return {
        "reason": None,
        "weights": found.capability_weights,
        "unit": unit,
        "higher_is_better": higher_is_better,
        "pair_edges": pair_edges(reference_R),
        **_figures(decisions, compared.measured, list(nulls), config.verify.confidence),
        "left_out": left_out,
    }


def mixtures_of(references: Sequence[Reference], manifest: DataManifest) -> Mixtures:
    """Return the data of these references."""
    shares = [[reference.data_shares[name] for name in manifest.datasets] for reference in references]
    return Mixtures(np.array(shares), [record.capability for record in manifest.datasets.values()])


def _figures(
    decisions: Mapping[str, Decision], measured: Mapping[str, object], others: Sequence[str], confidence: float
) -> dict[str, Any]:
    return {
        "proxies": {name: decision_estimates(one, confidence) for name, one in decisions.items()},
        "differences": {
            f"{kind}_minus_{other}": rho_difference(decisions[kind], decisions[other], confidence)
            for kind in measured
            for other in others
        },
    }
