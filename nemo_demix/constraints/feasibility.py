"""Whether constraints can be satisfied together, with which components, and which of them clash.

Axes: C components, D datasets, K inequalities, E equalities, N cuts, V variables of a mixed-integer programme.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nemo_demix.constraints.convex_set import LP_OPTIONS, ConvexSet, Divergence
from nemo_demix.constraints.rules import KEY, Rule
from nemo_demix.errors import MixtureError
from nemo_demix.mixture import Array

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class FeasibleSet:
    """Merge weights on the simplex within rules and a divergence, each 0 or at least `min_used`."""

    num_components: int
    rules: tuple[Rule, ...]
    min_used: float
    divergence: Divergence | None

    @cached_property
    def inequalities(self) -> tuple[Array, Array]:
        """The inequalities matrix_KC @ weights_C <= bounds_K, but for weights_C >= 0.

        Returns:
            matrix_KC, float64, shape (K, C), and bounds_K, shape (K,).
        """
        rows = [(rule.row_C, rule.upper) for rule in self.rules if rule.lower < rule.upper < np.inf]
        rows += [(-rule.row_C, -rule.lower) for rule in self.rules if -np.inf < rule.lower < rule.upper]
        return self._stacked(rows)

    @cached_property
    def equalities(self) -> tuple[Array, Array]:
        """The equalities equal_EC @ weights_C = values_E, but for the sum of 1.

        Returns:
            equal_EC, float64, shape (E, C), and values_E, shape (E,).
        """
        return self._stacked([(rule.row_C, rule.lower) for rule in self.rules if rule.lower == rule.upper])

    def _stacked(self, rows: list[tuple[Array, float]]) -> tuple[Array, Array]:
        matrix = np.array([row_C for row_C, _ in rows], dtype=np.float64).reshape(len(rows), self.num_components)
        return matrix, np.array([value for _, value in rows], dtype=np.float64)

    def linear_set(self, used_C: Mask, least: float) -> ConvexSet | None:
        """Build the set of mixtures of the used components (bool, shape (C,)) that keep the rules.

        Each used component's weight is at least `least`. None if there are no such mixtures.
        """
        matrix_KC, bounds_K = self.inequalities
        equal_EC, values_E = self.equalities
        unused_EC = np.eye(self.num_components)[~used_C]
        return ConvexSet.build(
            np.vstack([matrix_KC, -np.eye(self.num_components)]),
            np.append(bounds_K, np.where(used_C, -least, 0.0)),
            np.vstack([np.ones((1, self.num_components)), equal_EC, unused_EC]),
            np.concatenate([[1.0], values_E, np.zeros(len(unused_EC))]),
        )

    def on_support(self, used_C: Mask) -> ConvexSet | None:
        """Build the set of feasible mixtures of exactly these components, bool, shape (C,); None if there are none."""
        found = self.linear_set(used_C, self.min_used)
        return found if found is None or self.divergence is None else found.within(self.divergence)

    def relaxed(self) -> ConvexSet | None:
        """Return the feasible set but for `min_used`, which is convex; None if it is empty."""
        return replace(self, min_used=0.0).on_support(np.ones(self.num_components, dtype=bool))

    def lowest_C(self) -> Array:
        """Return the least weight that the rules alone leave each component, where they can be satisfied;
        shape (C,).
        """
        from scipy.optimize import linprog

        matrix_KC, bounds_K = self.inequalities
        equal_EC, values_E = self.equalities
        equal_EC = np.vstack([np.ones((1, self.num_components)), equal_EC])
        lowest_C = [
            linprog(
                goal_C, matrix_KC, bounds_K, equal_EC, np.append(1.0, values_E), bounds=(0, 1), options=LP_OPTIONS
            ).fun
            for goal_C in np.eye(self.num_components)
        ]
        return np.maximum(np.array(lowest_C, dtype=np.float64), 0.0)

    def support_near(self, weights_C: Array) -> Mask | None:
        """Find the components that some feasible mixture near the given one (in L1) uses.

        A mixed-integer programme finds components that satisfy the rules. Where their least divergence is above the
        limit, its tangent there excludes them and others like them, and the programme is solved again.

        Returns:
            Which components it uses, bool, shape (C,); None if no mixture is feasible.
        Source: Duran and Grossmann 1986 (outer approximation).
        """
        from scipy.optimize import Bounds, LinearConstraint, milp

        num = self.num_components
        eye_CC, none_CC = np.eye(num), np.zeros((num, num))
        matrix_KC, bounds_K = self.inequalities
        equal_EC, values_E = self.equalities
        base = [  # variables: weights, whether each is used (0 or 1), distances from the given weights
            LinearConstraint(_wide(np.ones((1, num))), 1.0, 1.0),
            LinearConstraint(np.hstack([eye_CC, -eye_CC, none_CC]), -np.inf, 0.0),
            LinearConstraint(np.hstack([eye_CC, -self.min_used * eye_CC, none_CC]), 0.0, np.inf),
            LinearConstraint(np.hstack([eye_CC, none_CC, eye_CC]), weights_C, np.inf),
            LinearConstraint(np.hstack([eye_CC, none_CC, -eye_CC]), -np.inf, weights_C),
        ]
        base += [LinearConstraint(_wide(matrix_KC), -np.inf, bounds_K)] if len(bounds_K) else []
        base += [LinearConstraint(_wide(equal_EC), values_E, values_E)] if len(values_E) else []
        goal_V, whole_V = np.repeat([0.0, 0.0, 1.0], num), np.repeat([0, 1, 0], num)
        cuts: list[LinearConstraint] = []
        while True:
            found = milp(goal_V, constraints=[*base, *cuts], integrality=whole_V, bounds=Bounds(0.0, 1.0))
            if found.status != 0:
                return None
            used_C: Mask = found.x[num : 2 * num] > 0.5
            linear = self.linear_set(used_C, self.min_used)
            if linear is not None and (self.divergence is None or linear.within(self.divergence) is not None):
                return used_C
            if linear is not None and self.divergence is not None:
                point_C = linear.least(self.divergence)
                slope_C, _ = self.divergence.derivatives(point_C)
                most = self.divergence.limit - float(self.divergence.of(point_C)) + float(slope_C @ point_C)
                cuts.append(LinearConstraint(_wide(slope_C[None]), -np.inf, most))
            signs_C = np.where(used_C, -1.0, 1.0)  # and never exactly these again
            cuts.append(LinearConstraint(np.concatenate([0 * signs_C, signs_C, 0 * signs_C]), 1 - used_C.sum(), np.inf))

    def is_feasible(self) -> bool:
        """Return whether any mixture satisfies everything."""
        if not self.min_used:
            return self.relaxed() is not None
        return self.support_near(np.full(self.num_components, 1 / self.num_components)) is not None

    def check_feasible(self) -> None:
        """Refuse constraints that no mixture satisfies, and name a smallest set of them that clash.

        Each constraint is left out in turn: where the others still clash it is not needed for the clash (deletion
        filter). Those that are not linear go first, for a clash of plain bounds is the easiest to read.

        Raises:
            MixtureError: naming constraints any of which, left out, would let the others be satisfied.
        """
        if self.is_feasible():
            return
        clash = self
        for change in ({"divergence": None}, {"min_used": 0.0}):
            without = replace(clash, **change)  # type: ignore[arg-type]
            clash = clash if without.is_feasible() else without
        for rule in self.rules:
            without = replace(clash, rules=tuple(kept for kept in clash.rules if kept is not rule))
            clash = clash if without.is_feasible() else without
        keys = [rule.key for rule in clash.rules]
        keys += [f"{KEY}.min_used={clash.min_used:g}"] if clash.min_used else []
        keys += [f"{KEY}.max_kl={clash.divergence.limit:g}"] if clash.divergence else []
        hints = [rule.hint for rule in clash.rules if rule.hint]
        if clash.divergence and not clash.min_used:
            linear = replace(clash, divergence=None).relaxed()
            assert linear is not None, "the divergence is needed for the clash"
            least = float(clash.divergence.of(linear.least(clash.divergence)))
            hints.append(f"the least divergence is {least:.6g}")
        raise MixtureError(
            f"{KEY}: no mixture satisfies {'these together' if len(keys) > 1 else 'this'}: {', '.join(keys)}"
            f"{''.join(f'; {hint}' for hint in hints)}; relax one"
        )


def _wide(matrix_NC: Array) -> Array:
    """Return the same rows over all three kinds of variables."""
    return np.hstack([matrix_NC, np.zeros((len(matrix_NC), 2 * matrix_NC.shape[1]))])
