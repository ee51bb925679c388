"""Convex sets of merge weights: whether one is empty, its centre, and its point nearest to another.

A set is described in its own plane: every point is centre + basis @ step. What the equalities fix, also those that
only follow from inequalities (min = max, caps that sum to 1), then stays fixed to rounding, whatever the step.

Axes: M mixtures, C components, D datasets, E equalities, H faces, N directions of the plane.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from nemo_demix.mixture import Array

TOLERANCE = 1e-9  # within which a constraint holds
LP_OPTIONS = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
FLAT = 1e-10  # change of a face's value across the plane, below which it is no face there
THIN = 1e-7  # radius of the largest ball inside, below which faces are looked at one by one
NEWTON_STEPS = 100
NEWTON_DECREMENT = 1e-12  # squared, at which a minimum is found
ROUNDING = 1e-15  # of a value, below which a descent cannot be seen
MIN_LENGTH = 1e-6  # of a Newton step
PATH_FACTOR = 20.0  # between two barriers
GAP = 1e-12  # of the objective, at which the last barrier is light enough

Objective = Callable[[Array], tuple[float, Array, Array]]  # step_N -> value, gradient_N, Hessian_NN


@dataclass(frozen=True, eq=False)
class Divergence:
    """KL(data shares || prior), in nats, and its bound. Datasets whose prior is 0 are bounded by 0 elsewhere."""

    blend_CD: Array
    prior_D: Array  # above 0
    limit: float

    def of(self, weights_MC: Array) -> Array:
        """Return the divergence of each row, shape (M,)."""
        from scipy.special import rel_entr

        divergence_M: Array = rel_entr(np.maximum(weights_MC @ self.blend_CD, 0.0), self.prior_D).sum(axis=-1)
        return divergence_M

    def derivatives(self, weights_C: Array) -> tuple[Array, Array]:
        """Return the gradient, shape (C,), and Hessian, shape (C, C), where every share that can be above 0 is."""
        shares_D = weights_C @ self.blend_CD
        live_D = shares_D > 0
        blend_CD, shares_D, prior_D = self.blend_CD[:, live_D], shares_D[live_D], self.prior_D[live_D]
        return blend_CD @ (np.log(shares_D / prior_D) + 1), (blend_CD / shares_D) @ blend_CD.T


@dataclass(frozen=True, eq=False)
class ConvexSet:
    """Points centre_C + basis_CN @ step_N with faces_HN @ step_N <= room_H and at most the divergence's limit.

    Attributes:
        centre_C: The analytic centre, away from every face; float64, shape (C,).
        basis_CN: Orthonormal directions, shape (C, N); N is 0 where the set is one point.
        faces_HN: Outward normals of the faces, in the plane; shape (H, N).
        room_H: Room that is left to each face at the centre, shape (H,); above 0.
        divergence: The one bound that is not linear, or None.
    """

    centre_C: Array
    basis_CN: Array
    faces_HN: Array
    room_H: Array
    divergence: Divergence | None = None

    @classmethod
    def build(cls, faces_HC: Array, limits_H: Array, equal_EC: Array, values_E: Array) -> "ConvexSet | None":
        """Build the set faces_HC @ w <= limits_H, equal_EC @ w = values_E, which has to be bounded.

        Args:
            faces_HC: Outward normals of the faces, float64, shape (H, C).
            limits_H: Limits of the faces, shape (H,).
            equal_EC: Matrix of the equalities, shape (E, C).
            values_E: Values of the equalities, shape (E,).
        Returns:
            The set; None if it is empty.
        """
        from scipy.linalg import null_space

        while True:
            basis_CN = null_space(equal_EC)
            found = _largest_ball(faces_HC, limits_H, equal_EC, values_E, basis_CN)
            if found is None:
                return None
            centre_C, radius = found
            if radius > THIN or not basis_CN.shape[1]:
                break
            fixed_H = _fixed_faces(faces_HC, limits_H, equal_EC, values_E, basis_CN)
            if not fixed_H.any():
                break
            equal_EC = np.vstack([equal_EC, faces_HC[fixed_H]])
            values_E = np.append(values_E, limits_H[fixed_H])
        centre_C = centre_C + np.linalg.lstsq(equal_EC, values_E - equal_EC @ centre_C, rcond=None)[0]
        zero_C = (np.abs(basis_CN) < FLAT).all(axis=1) & (np.abs(centre_C) <= TOLERANCE)
        centre_C[zero_C], basis_CN[zero_C] = 0.0, 0.0
        real_H = np.linalg.norm(faces_HC @ basis_CN, axis=1) > FLAT
        room_H = limits_H[real_H] - faces_HC[real_H] @ centre_C
        if basis_CN.shape[1] and (room_H <= 0).any():  # too thin for floating point: the ball's centre it is
            return cls(centre_C, basis_CN[:, :0], np.empty((0, 0)), np.empty(0))
        whole = cls(centre_C, basis_CN, faces_HC[real_H] @ basis_CN, room_H)
        return whole._at(whole._minimise(None, np.zeros(basis_CN.shape[1])))

    @property
    def dimension(self) -> int:
        """How many directions a point can move in."""
        return self.basis_CN.shape[1]

    def points(self, steps_MN: Array) -> Array:
        """Merge weights, shape (M, C), of steps in the plane, shape (M, N); rounding below 0 is cut."""
        return np.maximum(self.centre_C + steps_MN @ self.basis_CN.T, 0.0)

    def within_limit_M(self, steps_MN: Array) -> npt.NDArray[np.bool_]:
        """Return which steps keep the divergence's limit; bool, shape (M,)."""
        if self.divergence is None:
            return np.ones(len(steps_MN), dtype=bool)
        within_M: npt.NDArray[np.bool_] = self.divergence.of(self.points(steps_MN)) <= self.divergence.limit
        return within_M

    def within(self, divergence: Divergence) -> "ConvexSet | None":
        """Cut the set at the divergence's limit.

        Returns:
            The set, with `centre_C` (shape (C,)) at the analytic centre of what is left; None if nothing is left.
        """
        least_C = self.least(divergence)
        excess = float(divergence.of(least_C)) - divergence.limit
        if excess > TOLERANCE:
            return None
        if excess > -TOLERANCE:  # in floating point the limit leaves one point
            return ConvexSet(least_C, self.basis_CN[:, :0], np.empty((0, 0)), np.empty(0))
        bounded = replace(self, divergence=divergence)
        step_N = self.basis_CN.T @ (least_C - self.centre_C)
        share = 1.0  # of the way from that point, which may be on a face, to the centre
        while divergence.of(self.points((1 - share) * step_N)) >= divergence.limit:
            share /= 2
        return bounded._at(bounded._minimise(None, (1 - share) * step_N))

    def least(self, divergence: Divergence) -> Array:
        """Return the point of least divergence, within 1e-10 nats of it and just inside all faces; shape (C,)."""

        def objective(step_N: Array) -> tuple[float, Array, Array]:
            weights_C = self.points(step_N)
            gradient_C, hessian_CC = divergence.derivatives(weights_C)
            hessian_NN = self.basis_CN.T @ hessian_CC @ self.basis_CN
            return float(divergence.of(weights_C)), self.basis_CN.T @ gradient_C, hessian_NN

        return self.points(self._follow_path(objective))

    def nearest(self, weights_C: Array) -> Array:
        """Return the point at the least Euclidean distance from `weights_C`, just inside all faces; shape (C,)."""
        goal_N = self.basis_CN.T @ (weights_C - self.centre_C)

        def objective(step_N: Array) -> tuple[float, Array, Array]:
            return float(((step_N - goal_N) ** 2).sum() / 2), step_N - goal_N, np.eye(len(goal_N))

        return self.points(self._follow_path(objective))

    def barrier(self, step_N: Array) -> tuple[float, Array, Array]:
        """Return the logarithmic barrier at a step: minus the sum of the logarithms of all room; infinite outside.

        Returns:
            The value, its gradient, shape (N,), and its Hessian, shape (N, N).
        """
        left_H = self.room_H - self.faces_HN @ step_N
        if (left_H <= 0).any():
            return math.inf, step_N, np.eye(len(step_N))
        scaled_HN = self.faces_HN / left_H[:, None]
        value, gradient_N, hessian_NN = -float(np.log(left_H).sum()), scaled_HN.sum(axis=0), scaled_HN.T @ scaled_HN
        if self.divergence is None:
            return value, gradient_N, hessian_NN
        weights_C = self.points(step_N)
        left = self.divergence.limit - float(self.divergence.of(weights_C))
        if left <= 0:
            return math.inf, step_N, np.eye(len(step_N))
        slope_C, curve_CC = self.divergence.derivatives(weights_C)
        slope_N = self.basis_CN.T @ slope_C / left
        curve_NN = self.basis_CN.T @ curve_CC @ self.basis_CN / left
        return value - math.log(left), gradient_N + slope_N, hessian_NN + curve_NN + np.outer(slope_N, slope_N)

    def _at(self, step_N: Array) -> "ConvexSet":
        room_H = self.room_H - self.faces_HN @ step_N
        return replace(self, centre_C=self.points(step_N), room_H=room_H)

    def _follow_path(self, objective: Objective) -> Array:
        """Return the minimum over the set, by ever lighter barriers. Source: Boyd and Vandenberghe, §11.3."""
        step_N = np.zeros(self.dimension)
        weight = 1.0
        while len(self.room_H) and len(self.room_H) > GAP * weight:
            step_N = self._minimise(lambda at_N, weight=weight: _scaled(objective(at_N), weight), step_N)  # type: ignore[misc]
            weight *= PATH_FACTOR
        return step_N

    def _minimise(self, objective: Objective | None, step_N: Array) -> Array:
        """Return the minimum of objective + barrier from a point inside, by Newton's method with backtracking."""
        value, gradient_N, hessian_NN = self._with_barrier(objective, step_N)
        for _ in range(NEWTON_STEPS if self.dimension else 0):
            ridge = np.finfo(np.float64).eps * hessian_NN.trace()  # as much as rounding hides anyway
            move_N = np.linalg.solve(hessian_NN + ridge * np.eye(self.dimension), -gradient_N)
            decrement = -float(gradient_N @ move_N)
            if decrement < max(NEWTON_DECREMENT, ROUNDING * abs(value)):
                break
            length = 1.0
            while length > MIN_LENGTH:
                found = self._with_barrier(objective, step_N + length * move_N)
                if found[0] <= value - 0.1 * length * decrement:
                    break
                length /= 2
            else:
                break  # rounding hides any further descent
            step_N = step_N + length * move_N
            value, gradient_N, hessian_NN = found
        return step_N

    def _with_barrier(self, objective: Objective | None, step_N: Array) -> tuple[float, Array, Array]:
        value, gradient_N, hessian_NN = self.barrier(step_N)
        if objective is None or math.isinf(value):
            return value, gradient_N, hessian_NN
        own = objective(step_N)
        return value + own[0], gradient_N + own[1], hessian_NN + own[2]


def _scaled(terms: tuple[float, Array, Array], weight: float) -> tuple[float, Array, Array]:
    return weight * terms[0], weight * terms[1], weight * terms[2]


def _largest_ball(
    faces_HC: Array, limits_H: Array, equal_EC: Array, values_E: Array, basis_CN: Array
) -> tuple[Array, float] | None:
    """Return the centre and radius of the largest ball of the plane that the faces hold (Chebyshev); None if they
    clash.

    Source: Boyd and Vandenberghe, Convex Optimization, §8.5.
    """
    from scipy.optimize import linprog

    norms_H1 = np.linalg.norm(faces_HC @ basis_CN, axis=1, keepdims=True)
    goal = np.append(np.zeros(faces_HC.shape[1]), -1.0)  # variables: the weights, then the radius
    balls_HX = np.hstack([faces_HC, np.where(norms_H1 > FLAT, norms_H1, 0.0)])
    equal_EX = np.hstack([equal_EC, np.zeros((len(equal_EC), 1))])
    found = linprog(goal, balls_HX, limits_H, equal_EX, values_E, bounds=(0, 1), options=LP_OPTIONS)
    return (found.x[:-1], float(found.x[-1])) if found.status == 0 else None


def _fixed_faces(faces_HC: Array, limits_H: Array, equal_EC: Array, values_E: Array, basis_CN: Array) -> Array:
    """Return which faces every point lies on: equalities that were not written as such; bool, shape (H,)."""
    from scipy.optimize import linprog

    fixed_H = np.zeros(len(faces_HC), dtype=bool)
    for face, normal_C in enumerate(faces_HC):
        if np.linalg.norm(normal_C @ basis_CN) > FLAT:
            found = linprog(normal_C, faces_HC, limits_H, equal_EC, values_E, bounds=(0, 1), options=LP_OPTIONS)
            fixed_H[face] = found.status == 0 and limits_H[face] - found.fun <= TOLERANCE
    return fixed_H
