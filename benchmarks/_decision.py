"""The study's figures of the decision: by the macro score, over references, their data orders, and component sets.

Axes: R references, S samples, P sets of component models, E data orders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nemo_demix.fidelity.consistency import Rows
from nemo_demix.fidelity.decision import (
    Decision,
    StandIn,
    averaged,
    decision,
    decision_estimates,
    over_orders,
    rho_difference,
)
from nemo_demix.fidelity.equal_cost import LAWS, EqualCost, draw_splits, fit_laws, left_out_decisions
from nemo_demix.fidelity.intervals import Estimate
from nemo_demix.fidelity.nulls import Mixtures, null_stand_ins
from nemo_demix.fidelity.resampled import multiplicities
from nemo_demix.mixture import Array

KINDS = ("merge", "predictions")  # compared with what needs no component
SHOWN = ("regret", "slope", "pairs")  # in the summary beside rho; the others are in the rows


@dataclass(frozen=True)
class DecisionStudy:
    """Every stand-in against the references.

    Attributes:
        whole: Stand-ins on all references.
        left_out: Stand-ins and laws on the references that regressions of equal cost left out.
        null_names: Those that need no model.
    """

    whole: Mapping[str, Decision]
    left_out: Mapping[str, Decision]
    null_names: tuple[str, ...]

    @classmethod
    def of(
        cls,
        reference_ER: Array,
        stand_ins: Mapping[str, Sequence[Array]],
        mixtures: Mixtures,
        samples_SR: Rows,
        cost: EqualCost,
    ) -> "DecisionStudy":
        """Judge every stand-in.

        Args:
            reference_ER: The references' macro scores in each data order, lower is better; they are judged by the
                mean, and laws of equal cost are fitted to the first.
            stand_ins: By name, once for each set of component models; their intervals hold the luck of the sets too.
            mixtures: The references' data.
            samples_SR: Of the references.
            cost: What a set of component models costs in references.
        """
        assert not cost.reason, cost.reason
        counts_SR = multiplicities(samples_SR)
        capabilities = set(mixtures.capabilities)
        nulls = null_stand_ins(mixtures, dict.fromkeys(sorted(capabilities), 1 / len(capabilities)))
        sets = {name: [StandIn(values_R) for values_R in found] for name, found in stand_ins.items()}
        sets |= {name: [null] for name, null in nulls.items()}
        splits_KN = draw_splits(reference_ER.shape[1], cost.num_fitted, np.random.default_rng(2))
        flat = {f"{name}/{index}": one for name, found in sets.items() for index, one in enumerate(found)}

        def on_all(reference_R: Array, some_SR: Array) -> dict[str, Decision]:
            return {name: decision(reference_R, one, some_SR) for name, one in flat.items()}

        fitted = fit_laws(reference_ER[0], mixtures.shares_RD, splits_KN)

        def on_left_out(reference_R: Array, some_SR: Array) -> dict[str, Decision]:
            return left_out_decisions(reference_R, flat, fitted, some_SR, splits_KN)

        def by_stand_in(judged: Mapping[str, Decision]) -> dict[str, Decision]:
            return {
                name: _over_sets([judged[f"{name}/{index}"] for index in range(len(found))])
                for name, found in sets.items()
            }

        whole, left_out = (over_orders(reference_ER, counts_SR, 3, judge) for judge in (on_all, on_left_out))
        laws = {law: left_out[law] for law in LAWS}
        return cls(by_stand_in(whole), {**by_stand_in(left_out), **laws}, tuple(nulls))

    @classmethod
    def joined(cls, studies: Sequence["DecisionStudy"]) -> "DecisionStudy":
        """Return the mean of studies with references, components and a base of their own, of what is in all of them."""

        def mean(given: Sequence[Mapping[str, Decision]]) -> dict[str, Decision]:
            found = {name: [one[name] for one in given] for name in given[0] if all(name in one for one in given)}
            return {
                name: replace(averaged(each), num_references=sum(one.num_references for one in each))
                for name, each in found.items()
            }

        return cls(mean([one.whole for one in studies]), mean([one.left_out for one in studies]), studies[0].null_names)

    def table(self, confidence: float) -> list[dict[str, Any]]:
        """One row a stand-in: by measure the figure and its interval, and why there is none."""
        rows = []
        for name in {**self.whole, **self.left_out}:
            row: dict[str, Any] = {"proxy": name}
            for where, found in (("objective", self.whole), ("objective_left_out", self.left_out)):
                if name in found:
                    estimates = decision_estimates(found[name], confidence)
                    row[where] = {measure: _rounded(estimate) for measure, estimate in estimates.items()}
                    row[where]["reasons"] = {key: one.reason for key, one in estimates.items() if one.reason}
            rows.append(row)
        return rows

    def summary(self, confidence: float, tail: str, names: Mapping[str, str]) -> dict[str, Any]:
        """Flat figures, a law's on the references left out; what is undefined is in the rows, with its reason.

        Args:
            names: What stand-ins are called in the summary, where it is not their name.
        """
        flat: dict[str, Any] = {}
        defined = {name: found for name, found in self.left_out.items() if "rho" not in found.reasons}
        for name, apart in defined.items():
            label = names.get(name, name)
            estimates = decision_estimates(self.whole.get(name, apart), confidence)
            flat |= with_interval(f"objective_rho{tail}_{label}", estimates["rho"])
            flat |= {f"{measure}{tail}_{label}": estimates[measure].value for measure in SHOWN}
            flat[f"objective_rho_left_out{tail}_{label}"] = decision_estimates(apart, confidence)["rho"].value
        for kind in KINDS:
            for other in (*self.null_names, *(law for law in LAWS if law in defined)):
                where = self.whole if other in self.whole else self.left_out
                difference = rho_difference(where[kind], where[other], confidence)
                flat |= with_interval(f"objective_rho{tail}_{kind}_minus_{other}", difference)
        return flat


def _over_sets(found: Sequence[Decision]) -> Decision:
    """The mean over the sets of component models, these resampled beside the references."""
    if len(found) == 1:
        return found[0]
    num_samples = len(found[0].values["rho"])
    drawn_SP = np.random.default_rng(1).integers(0, len(found), (num_samples, len(found)))
    drawn_SP[0] = np.arange(len(found))
    return averaged(found, multiplicities(drawn_SP))


def _rounded(estimate: Estimate) -> list[float | None]:
    return [None if value is None else round(value, 4) for value in (estimate.value, estimate.low, estimate.high)]


def with_interval(key: str, estimate: Estimate) -> dict[str, float | None]:
    """A figure and the ends of its interval, as a summary has them."""
    return {key: estimate.value, f"{key}_lo": estimate.low, f"{key}_hi": estimate.high}
