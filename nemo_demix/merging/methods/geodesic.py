"""Methods that average directions on the sphere and lengths apart: slerp, nuslerp, multislerp, karcher.

All work on each logical matrix as one vector. Their results lie in the span of the vectors averaged, so the inner
products of these are all that has to be known. With `task_vectors` the vectors are theta_k - base, else the models.

Axes: M mixtures, K components, T sources (the components, then the base where the method uses one).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nemo_demix.merging.methods.base import Array, LinearMethod, Statistics
from nemo_demix.merging.methods.linear import around_base
from nemo_demix.merging.methods.parameters import check_parameter, normalised

_SMALLEST_SINE = 1e-7  # of an angle: below it two directions count as one, or as opposite


@dataclass(frozen=True)
class _Geodesic(LinearMethod):
    """Common to all: coefficients for each mixture from the Gram matrix."""

    needs_gram: ClassVar[bool] = True
    task_vectors: bool = False

    @property
    def uses_base(self) -> bool:  # type: ignore[override]
        """Whether task vectors are averaged."""
        return self.task_vectors

    def coefficients(self, weights_MK: Array, statistics: Statistics | None) -> Array:
        """Return coefficients, float64, shape (M, K), or (M, K + 1) with `task_vectors`."""
        assert statistics is not None
        assert statistics.gram_KK is not None
        # Mixture by mixture: the bits must not depend on which others are merged.
        rows = [self.combine(weights_K, statistics.gram_KK) for weights_K in normalised(weights_MK)]
        coefficients_MK = np.array(rows).reshape(weights_MK.shape)
        return around_base(coefficients_MK) if self.task_vectors else coefficients_MK

    def combine(self, weights_K: Array, gram_KK: Array) -> Array:
        """Return coefficients (K,) on the vectors averaged, from weights that sum to 1."""
        raise NotImplementedError


@dataclass(frozen=True)
class NuSlerp(_Geodesic):
    """The arc between two vectors, out = [sin((1 - t) a) v_1 + sin(t a) v_2] / sin(a), t = w_2 / (w_1 + w_2).

    The angle a is that between v_1 and v_2. As in mergekit the vectors are not brought to unit length, so lengths are
    interpolated along with the directions. Parallel, opposite (sin a < 1e-7) and zero vectors: (1 - t) v_1 + t v_2.

    Args:
        task_vectors: Interpolate theta_k - base (needs a base) rather than the models; False by default. mergekit
            decides by whether a base is given.

    Source: Shoemake, Animating rotation with quaternion curves, 1985; mergekit's nuslerp with `nuslerp_flatten`.
    """

    name: ClassVar[str] = "nuslerp"
    num_components: ClassVar[int | None] = 2

    def combine(self, weights_K: Array, gram_KK: Array) -> Array:
        """Return coefficients, float64, shape (2,), on the two vectors."""
        lengths = math.sqrt(gram_KK[0, 0]) * math.sqrt(gram_KK[1, 1])
        if lengths == 0:
            return weights_K
        angle = math.acos(min(max(float(gram_KK[0, 1]) / lengths, -1.0), 1.0))
        if math.sin(angle) < _SMALLEST_SINE:
            return weights_K
        return np.array([math.sin(weight * angle) for weight in weights_K.tolist()]) / math.sin(angle)


@dataclass(frozen=True)
class Slerp(NuSlerp):
    """The arc between two models, t = the weight of the second; `nuslerp` under its usual name.

    mergekit's takes the straight line instead where the cosine is above 0.9995; this one only below a sine of 1e-7.
    """

    name: ClassVar[str] = "slerp"


@dataclass(frozen=True)
class MultiSlerp(_Geodesic):
    """The weighted mean of directions, at the weighted mean of lengths.

    out = (sum_k w_k |v_k|) m / |m|,  m = sum_k w_k v_k / |v_k|.

    mergekit goes on to add the weighted tangents u_k - <u_k, m> m at m, but they sum to 0 identically, so this is what
    it gives. With logarithms for tangents it is one step of `karcher` (max_iterations=1). Vectors of length 0 have no
    direction: they count in the mean length only. Where the directions cancel (|m| < 1e-7): sum_k w_k v_k.

    Args:
        task_vectors: Average theta_k - base (needs a base) rather than the models; False by default. mergekit decides
            by whether a base is given.

    Source: DeMix Table 4 (Multi-SLERP); mergekit's multislerp, and the article it names,
    https://goddard.blog/posts/multislerp-wow-what-a-cool-idea.
    """

    name: ClassVar[str] = "multislerp"

    def combine(self, weights_K: Array, gram_KK: Array) -> Array:
        """Return coefficients (K,) on the vectors."""
        return spherical_mean(weights_K, gram_KK, 0, 0.0)


@dataclass(frozen=True)
class Karcher(_Geodesic):
    """The weighted Karcher mean of directions, at the weighted mean of lengths.

    The direction p minimises sum_k w_k angle(p, v_k)^2. From p = m / |m| of `multislerp`, repeat
    p <- exp_p(sum_k w_k log_p(v_k / |v_k|)) until the step is shorter than the tolerance.
    For two vectors of equal length it is `slerp`. Vectors of length 0, and directions that cancel: as `multislerp`.
    A direction opposite to p has no logarithm and does not move it. mergekit's karcher ignores the weights.

    Args:
        task_vectors: Average theta_k - base (needs a base) rather than the models; False by default.
        max_iterations: Most steps, 0 or more; 50 by default (mergekit: max_iter, 10).
        tolerance: Length in radians of a step that ends the iteration; 1e-7 by default (mergekit: tol, 1e-5).

    Source: Karcher, Riemannian center of mass and mollifier smoothing, 1977; mergekit names arXiv:2603.04972.
    """

    name: ClassVar[str] = "karcher"
    max_iterations: int = 50
    tolerance: float = 1e-7

    def __post_init__(self) -> None:
        check_parameter("max_iterations", self.max_iterations, self.max_iterations >= 0, "an integer >= 0")
        check_parameter("tolerance", self.tolerance, 0 < self.tolerance < 1, "0 < value < 1")

    def combine(self, weights_K: Array, gram_KK: Array) -> Array:
        """Return coefficients (K,) on the vectors."""
        return spherical_mean(weights_K, gram_KK, self.max_iterations, self.tolerance)


def spherical_mean(weights_K: Array, gram_KK: Array, max_steps: int, tolerance: float) -> Array:
    """Return coefficients (K,) on the vectors of a weighted mean on the sphere, scaled by the weighted mean length.

    Args:
        weights_K: Weights that sum to 1; they may be negative.
        gram_KK: Inner products of the vectors, float64, shape (K, K).
        max_steps: Steps from the normalised weighted mean towards the Karcher mean.
        tolerance: Length in radians of a step after which no other is made.
    """
    lengths_K = np.sqrt(np.diag(gram_KK))
    present_K = lengths_K > 0
    inverse_K = np.divide(1.0, lengths_K, out=np.zeros_like(lengths_K), where=present_K)
    cosines_KK = np.clip(gram_KK * inverse_K[:, None] * inverse_K[None, :], -1, 1)
    np.fill_diagonal(cosines_KK, present_K)
    weights_K = weights_K * present_K
    # Directions are written in the unit vectors v_k / |v_k|; a_K @ cosines_KK @ b_K is their inner product.
    direction_K = weights_K
    length = _length(direction_K, cosines_KK)
    if length < _SMALLEST_SINE:
        return weights_K
    direction_K = direction_K / length
    for _ in range(max_steps):
        step_K = _step(direction_K, weights_K, cosines_KK)
        angle = _length(step_K, cosines_KK)
        direction_K = math.cos(angle) * direction_K + float(np.sinc(angle / math.pi)) * step_K
        direction_K = direction_K / _length(direction_K, cosines_KK)
        if angle < tolerance:
            break
    return float(weights_K @ lengths_K) * direction_K * inverse_K


def _length(vector_K: Array, cosines_KK: Array) -> float:
    return math.sqrt(max(float(vector_K @ cosines_KK @ vector_K), 0.0))


def _step(direction_K: Array, weights_K: Array, cosines_KK: Array) -> Array:
    """Return sum_k w_k log_p(u_k), written in the unit vectors; log_p(u) = angle / sin(angle) (u - cos(angle) p)."""
    projections_K = np.clip(cosines_KK @ direction_K, -1, 1)
    angles_K = np.arccos(projections_K)
    opposite_K = angles_K > math.pi - _SMALLEST_SINE
    factors_K = np.where(opposite_K, 0.0, weights_K / np.where(opposite_K, 1.0, np.sinc(angles_K / math.pi)))
    step_K: Array = factors_K - float(factors_K @ projections_K) * direction_K
    return step_K
