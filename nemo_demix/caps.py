"""Caps on merge weights and on the data shares they stand for, that hold exactly.

Axes: M mixtures, C components, F components that the caps leave free, K caps, H = K + F faces of the feasible set,
V rows that violate a cap.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog

from nemo_demix.errors import MixtureError
from nemo_demix.mixture import Array, BlendMatrix, check_names, check_rows

CAP_TOLERANCE = 1e-12  # on a cap: rounding of one dot product
FORCED_ZERO = 1e-9  # a component whose largest feasible weight is below this must be left out
LP_OPTIONS = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
FLAT = 1e-12  # change of a cap's value across the simplex
NEWTON_STEPS = 100
NEWTON_DECREMENT = 1e-20  # squared, at which the centre is found


@dataclass(frozen=True, eq=False)
class Caps:
    """Upper bounds on merge weights and on the data shares they stand for, and a point well inside them.

    Attributes:
        matrix_KC: Cap k bounds matrix_KC[k] @ weights_C.
        bounds_K: The bounds, same order.
        free_C: False where the caps leave a component no weight at all.
        centre_C: The analytic centre of the feasible set: unique, and away from every face.
    """

    matrix_KC: Array
    bounds_K: Array
    free_C: npt.NDArray[np.bool_]
    centre_C: Array

    @classmethod
    def build(
        cls,
        blend: BlendMatrix,
        max_weights: Mapping[str, float] | None = None,
        max_data_shares: Mapping[str, float] | None = None,
    ) -> "Caps":
        """Caps from bounds by component name and by dataset name; a name left out is not bounded.

        Raises:
            MixtureError: if a name is unknown, a bound is not a number >= 0, or no mixture satisfies all of them.
        """
        max_weights, max_data_shares = max_weights or {}, max_data_shares or {}
        _check_bounds(max_weights, blend.components, "caps on merge weights")
        _check_bounds(max_data_shares, blend.datasets, "caps on data shares")
        num_components = len(blend.components)
        rows = [np.eye(num_components)[blend.components.index(name)] for name in max_weights]
        rows += [blend.rows_CD[:, blend.datasets.index(name)] for name in max_data_shares]
        matrix_KC = np.array(rows, dtype=np.float64).reshape(len(rows), num_components)
        bounds_K = np.array([*max_weights.values(), *max_data_shares.values()], dtype=np.float64)
        free_C = _free_components(matrix_KC, bounds_K)
        centre_C = _centre(matrix_KC, bounds_K, free_C) if free_C.any() else None
        if centre_C is None:
            raise MixtureError(_why_infeasible(blend, max_weights, max_data_shares))
        return cls(matrix_KC, bounds_K, free_C, centre_C)

    def satisfied_M(self, weights_MC: Array) -> npt.NDArray[np.bool_]:
        """Which rows satisfy every cap, within 1e-12."""
        within_MK = weights_MC @ self.matrix_KC.T <= self.bounds_K + CAP_TOLERANCE
        satisfied_M: npt.NDArray[np.bool_] = within_MK.all(axis=1)
        return satisfied_M

    def without_forbidden(self, weights_MC: Array) -> Array:
        """The rows without the components that the caps forbid, the others scaled up; the centre if none is left."""
        if self.free_C.all():
            return weights_MC
        left_MC = np.where(self.free_C, weights_MC, 0.0)
        total_M1 = left_MC.sum(axis=1, keepdims=True)
        rows_MC: Array = np.where(total_M1 > 0, left_MC, self.centre_C) / np.where(total_M1 > 0, total_M1, 1.0)
        return rows_MC

    def apply(self, weights_MC: Array) -> Array:
        """The rows, those that violate a cap moved towards the centre by the smallest step that satisfies all.

        A component that the caps forbid is first dropped from a violating row and the rest scaled up to 1.

        Args:
            weights_MC: Merge weights, float64, shape (M, C); rows on the simplex.

        Returns:
            Merge weights, same shape; every row satisfies all caps within 1e-12 and sums to 1. Rows that already
            satisfied them are unchanged, bit for bit.

        Raises:
            MixtureError: if a row is not on the simplex.
        """
        capped_MC = check_rows(weights_MC, len(self.centre_C)).copy()
        violating_M = ~self.satisfied_M(capped_MC)
        if violating_M.any():
            capped_MC[violating_M] = self._move(self.without_forbidden(capped_MC[violating_M]))
        return capped_MC

    def _move(self, weights_VC: Array) -> Array:
        values_VK = weights_VC @ self.matrix_KC.T
        way_VK = values_VK - self.matrix_KC @ self.centre_C  # to the centre, so at least the excess
        excess_VK = values_VK - self.bounds_K
        step_VK = np.divide(excess_VK, way_VK, out=np.zeros_like(way_VK), where=excess_VK > CAP_TOLERANCE)
        step_V1 = np.minimum(step_VK.max(axis=1, keepdims=True), 1.0)
        moved_VC: Array = (1 - step_V1) * weights_VC + step_V1 * self.centre_C
        return moved_VC


def cap_weights_MC(
    weights_MC: Array,
    blend: BlendMatrix,
    max_weights: Mapping[str, float] | None = None,
    max_data_shares: Mapping[str, float] | None = None,
) -> Array:
    """Merge weights that satisfy caps by component and, on the converted shares, caps by dataset; see `Caps.apply`.

    Raises:
        MixtureError: if no mixture satisfies all caps, or a row is not on the simplex.
    """
    return Caps.build(blend, max_weights, max_data_shares).apply(weights_MC)


def _check_bounds(bounds: Mapping[str, float], names: tuple[str, ...], what: str) -> None:
    check_names(bounds, names, what)
    for name, bound in bounds.items():
        if not (math.isfinite(bound) and bound >= 0):
            raise MixtureError(f"{what}: {name}: expected a finite bound >= 0, found {bound}")


def _free_components(matrix_KC: Array, bounds_K: Array) -> npt.NDArray[np.bool_]:
    """Which components can have a weight above 0; all False where nothing is feasible."""
    num_components = matrix_KC.shape[1]
    ones_1C = np.ones((1, num_components))
    free_C = np.zeros(num_components, dtype=bool)
    for component in range(num_components):
        goal_C = -np.eye(num_components)[component]
        found = linprog(goal_C, matrix_KC, bounds_K, ones_1C, [1.0], bounds=(0, 1), options=LP_OPTIONS)
        free_C[component] = found.status == 0 and -found.fun > FORCED_ZERO
    return free_C


def _centre(matrix_KC: Array, bounds_K: Array, free_C: npt.NDArray[np.bool_]) -> Array | None:
    """The analytic centre among the free components; None where rounding leaves no feasible point.

    A linear programme finds the largest ball that the faces hold (Chebyshev); its centre is not unique, so Newton's
    method goes on to the point of largest product of distances. Where the ball has no size, its centre it is.

    Source: Boyd and Vandenberghe, Convex Optimization, §8.5.
    """
    num_free = int(free_C.sum())
    faces_HF = np.vstack([matrix_KC[:, free_C], -np.eye(num_free)])
    bounds_H = np.append(bounds_K, np.zeros(num_free))
    norms_H1 = np.linalg.norm(faces_HF - faces_HF.mean(axis=1, keepdims=True), axis=1, keepdims=True)
    goal = np.append(np.zeros(num_free), -1.0)  # variables: the weights, then the radius
    sum_row = np.append(np.ones(num_free), 0.0)[None]
    ball = np.hstack([faces_HF, norms_H1])
    found = linprog(goal, ball, bounds_H, sum_row, [1.0], bounds=(0, 1), options=LP_OPTIONS)
    if found.status != 0:
        return None
    weights_F = np.maximum(found.x[:-1], 0.0) / np.maximum(found.x[:-1], 0.0).sum()
    real_H = norms_H1[:, 0] > FLAT  # a cap that is the same everywhere is no face
    if (faces_HF @ weights_F < bounds_H)[real_H].all():
        weights_F = _analytic_centre(faces_HF[real_H], bounds_H[real_H], weights_F)
    centre_C = np.zeros(len(free_C))
    centre_C[free_C] = weights_F / weights_F.sum()
    return centre_C if (matrix_KC @ centre_C <= bounds_K + CAP_TOLERANCE).all() else None


def _analytic_centre(faces_HF: Array, bounds_H: Array, start_F: Array) -> Array:
    """The point of the simplex's plane with the largest sum of log distances to the faces, from one inside them.

    Damped Newton steps on this self-concordant function stay inside and converge.
    """
    num_free = len(start_F)
    system = np.zeros((num_free + 1, num_free + 1))
    system[-1, :-1] = system[:-1, -1] = 1.0  # steps keep the sum of the weights
    weights_F = start_F
    for _ in range(NEWTON_STEPS):
        inverse_H = 1 / (bounds_H - faces_HF @ weights_F)
        gradient_F = faces_HF.T @ inverse_H
        system[:-1, :-1] = (faces_HF.T * inverse_H**2) @ faces_HF
        step_F = np.linalg.solve(system, np.append(-gradient_F, 0.0))[:-1]
        decrement = max(-float(gradient_F @ step_F), 0.0)
        weights_F = weights_F + step_F / (1 + math.sqrt(decrement))
        if decrement < NEWTON_DECREMENT:
            break
    return weights_F


def _why_infeasible(blend: BlendMatrix, max_weights: Mapping[str, float], max_data_shares: Mapping[str, float]) -> str:
    bounded = (("merge weights", max_weights, blend.components), ("data shares", max_data_shares, blend.datasets))
    reasons = [
        f"the caps on {what} {dict(caps)} sum to {sum(caps.values()):.6g}, less than 1"
        for what, caps, names in bounded
        if len(caps) == len(names) and sum(caps.values()) < 1
    ]
    least_D = dict(zip(blend.datasets, blend.rows_CD.min(axis=0).tolist(), strict=True))
    reasons += [
        f"{name} is capped at {cap:.6g}, but every component was trained on at least {least_D[name]:.6g} of it (beta)"
        for name, cap in max_data_shares.items()
        if cap < least_D[name]
    ]
    reasons = reasons or [
        f"the caps on merge weights {dict(max_weights)} and on data shares {dict(max_data_shares)} exclude each other"
    ]
    return f"caps: no mixture satisfies them: {'; '.join(reasons)}; raise a cap"
