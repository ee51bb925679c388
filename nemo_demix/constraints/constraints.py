"""What a mixture has to satisfy: bounds on the data shares that merge weights stand for, and on the weights.

All but one of them leave a convex set, and so does that one (`min_used`: a weight is 0 or at least so much) once it is
settled which components are used: the *support*. An empty set is refused with a smallest set of constraints that
clash.

Axes: M mixtures, C components, D datasets, K inequalities, E equalities.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from nemo_demix.config import ConstraintsConfig
from nemo_demix.constraints.convex_set import TOLERANCE, ConvexSet, Divergence
from nemo_demix.constraints.feasibility import FeasibleSet, Mask
from nemo_demix.constraints.rules import KEY, Budget, Rule, check_number, fixed_rules, share_rules, weight_rules
from nemo_demix.errors import MixtureError
from nemo_demix.mixture import Array, BlendMatrix, check_rows, check_simplex, epochs


@dataclass(frozen=True, eq=False)
class Constraints:
    """All constraints of a search, as inequalities and equalities of merge weights.

    Attributes:
        blend: What each component was trained on.
        feasible: The mixtures that the constraints leave, and the constraints by the keys that a user wrote.
        convex: The feasible set but for `min_used`.
        prior_D: Data shares that `max_kl` is counted from; None where it is.
        budget: What the final run trains on; None: epochs are not defined.
    """

    blend: BlendMatrix
    feasible: FeasibleSet
    convex: ConvexSet
    prior_D: Array | None
    budget: Budget | None

    @classmethod
    def build(
        cls,
        config: ConstraintsConfig,
        blend: BlendMatrix,
        budget: Budget | None,
        prior_shares: Mapping[str, float] | None,
        max_weights: Mapping[str, float] | None = None,
        fixed_weights: Mapping[str, float] | None = None,
    ) -> "Constraints":
        """Return the constraints of a configuration.

        Args:
            config: What the user wrote under `search.constraints`.
            blend: What each component was trained on.
            budget: Tokens of the final run and of each dataset; needed where epochs are bounded.
            prior_shares: Data shares by dataset; needed where the divergence from them is bounded.
            max_weights: Largest merge weight, by component (`search.sampler.max_prior_multiple`).
            fixed_weights: Merge weight of components of which the scores know no other one.

        Raises:
            MixtureError: if a name is unknown, a value is out of range, or no mixture satisfies all constraints; the
                message names a smallest set of them that clash.
        """
        check_number(config.min_used, f"{KEY}.min_used", 0.0, 1.0)
        rules = [
            *share_rules(config, blend, budget),
            *weight_rules(max_weights or {}, blend),
            *fixed_rules(fixed_weights or {}, blend),
        ]
        if config.max_kl is None:
            feasible = FeasibleSet(len(blend.components), tuple(rules), config.min_used, None)
            return cls(blend, feasible, _relaxed(feasible), None, budget)
        check_number(config.max_kl, f"{KEY}.max_kl", 0.0)
        if prior_shares is None:
            raise MixtureError(f"{KEY}.max_kl: found no token counts to take the prior shares from; unset it")
        prior_D = np.array(list(check_simplex(prior_shares, blend.datasets, "prior").values()))
        known_D = prior_D > 0  # the divergence is infinite where another dataset is used, so that is a rule
        rules += [
            Rule(f"{KEY}.max_kl={config.max_kl:g} ({name} has no share in the prior)", column_C, upper=0.0)
            for name, column_C in zip(np.array(blend.datasets)[~known_D], blend.rows_CD.T[~known_D], strict=True)
        ]
        divergence = Divergence(blend.rows_CD[:, known_D], prior_D[known_D], config.max_kl)
        feasible = FeasibleSet(len(blend.components), tuple(rules), config.min_used, divergence)
        return cls(blend, feasible, _relaxed(feasible), prior_D, budget)

    @classmethod
    def none(cls, blend: BlendMatrix) -> "Constraints":
        """Build constraints that hold every mixture of the simplex."""
        return cls.build(ConstraintsConfig(), blend, None, None)

    def with_max_weights(self, max_weights: Mapping[str, float]) -> "Constraints":
        """Add caps of merge weights by component; a cap that is there already changes nothing.

        Raises:
            MixtureError: if no mixture satisfies all of them.
        """
        keys = {rule.key for rule in self.feasible.rules}
        added = [rule for rule in weight_rules(max_weights, self.blend) if rule.key not in keys]
        if not added:
            return self
        feasible = replace(self.feasible, rules=(*self.feasible.rules, *added))
        return replace(self, feasible=feasible, convex=_relaxed(feasible))

    @property
    def matrix_KC(self) -> Array:
        """The matrix, float64, shape (K, C), of matrix_KC @ weights_C <= bounds_K, besides weights_C >= 0."""
        return self.feasible.inequalities[0]

    @property
    def bounds_K(self) -> Array:
        """The bounds of `matrix_KC`, float64, shape (K,)."""
        return self.feasible.inequalities[1]

    @property
    def equal_EC(self) -> Array:
        """The matrix, float64, shape (E, C), of equal_EC @ weights_C = values_E, besides the sum of 1."""
        return self.feasible.equalities[0]

    @property
    def values_E(self) -> Array:
        """The values of `equal_EC`, float64, shape (E,)."""
        return self.feasible.equalities[1]

    @property
    def min_used(self) -> float:
        """The least merge weight of a component that is used; a weight is 0 or at least this."""
        return self.feasible.min_used

    @property
    def max_kl(self) -> float | None:
        """Largest KL(data shares || prior_D), in nats; None: not bounded."""
        return None if self.feasible.divergence is None else self.feasible.divergence.limit

    @property
    def free_C(self) -> Mask:
        """Which components the constraints leave any weight; bool, shape (C,)."""
        free_C: Mask = self.convex.centre_C > 0
        return free_C

    @property
    def suits_grid(self) -> bool:
        """Whether weights can be rounded: nothing is fixed but their sum, and weights that have to be 0."""
        return self.convex.dimension == int(self.free_C.sum()) - 1

    def satisfied_M(self, weights_MC: Array) -> Mask:
        """Return which rows, each on the simplex, satisfy every constraint within 1e-9; a weight not used is 0 exactly.

        Returns:
            Bool, shape (M,).
        """
        weights_MC = np.asarray(weights_MC, dtype=np.float64)
        satisfied_M: Mask = (weights_MC @ self.matrix_KC.T <= self.bounds_K + TOLERANCE).all(axis=1)
        satisfied_M &= (np.abs(weights_MC @ self.equal_EC.T - self.values_E) <= TOLERANCE).all(axis=1)
        if self.min_used:
            satisfied_M &= ((weights_MC == 0) | (weights_MC >= self.min_used - TOLERANCE)).all(axis=1)
        divergence = self.feasible.divergence
        if divergence is not None:
            satisfied_M &= divergence.of(weights_MC) <= divergence.limit + TOLERANCE
        return satisfied_M

    def nearest(self, weights_C: Array) -> Array:
        """Find a feasible row near a given one: the row itself where it is feasible, else the nearest (least L2).

        Under `min_used`, smaller weights are dropped and the mixture of the others that is nearest is taken; where
        they have none, that of the support which is nearest in L1.

        Returns:
            Merge weights, float64, shape (C,).

        Raises:
            MixtureError: if the row is not on the simplex.
        """
        weights_C = check_rows(np.asarray(weights_C, dtype=np.float64)[None], len(self.blend.components))[0]
        if self.satisfied_M(weights_C[None])[0]:
            return weights_C
        found = self.nearest_of_used(weights_C)
        if found is not None:
            return found
        used_C = self.feasible.support_near(weights_C)
        near = None if used_C is None else self.feasible.on_support(used_C)
        assert near is not None, "checked when these constraints were built"
        return near.nearest(weights_C)

    def nearest_of_used(self, weights_C: Array) -> Array | None:
        """Find the nearest feasible row of the components whose weights reach `min_used`.

        Returns:
            Merge weights, float64, shape (C,); None if these components have no feasible mixture.
        """
        near = self.feasible.on_support(weights_C >= self.min_used)
        return None if near is None else near.nearest(weights_C)

    def warnings(self, weights_C: Array, component_epochs: Mapping[str, float]) -> list[str]:
        """Name the datasets that the final run repeats more often than any component did: no proxy knows the effect.

        Args:
            weights_C: The chosen merge weights, shape (C,).
            component_epochs: The most epochs that a component saw, by dataset; one left out was not seen.

        Returns:
            One sentence a dataset; none without a budget, by which epochs are counted.
        """
        if self.budget is None:
            return []
        shares_D = np.asarray(weights_C, dtype=np.float64) @ self.blend.rows_CD
        shares = dict(zip(self.blend.datasets, shares_D.tolist(), strict=True))
        final = epochs(shares, self.budget.num_tokens, self.budget.tokens_by_dataset)
        return [
            f"{name}: {shares[name]:.4g} of {self.budget.num_tokens:,} tokens is {count:.3g} epochs of it, and no "
            f"component saw more than {component_epochs.get(name, 0.0):.3g}: no score knows what the repetition does; "
            f"add data, bound it with {KEY}.max_epochs_of.{name}, or have components repeat theirs: "
            f"components.epochs={count:.3g}"
            for name, count in final.items()
            if count > max(1.0, component_epochs.get(name, 0.0)) * (1 + TOLERANCE)
        ]


def _relaxed(feasible: FeasibleSet) -> ConvexSet:
    feasible.check_feasible()
    convex = feasible.relaxed()
    assert convex is not None, "wider than the feasible set"
    return convex
