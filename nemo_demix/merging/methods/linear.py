"""Methods whose result is a weighted sum with coefficients known beforehand: linear, task arithmetic, Model Stock.

Axes: M mixtures, K components, T sources (the components, then the base where the method uses one).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nemo_demix.merging.methods.base import Array, LinearMethod, Statistics
from nemo_demix.merging.methods.parameters import check_scale, normalised


def around_base(weights_MK: Array) -> Array:
    """Return coefficients (M, K + 1) of base + sum_k weights_k (theta_k - base) on the components and the base."""
    base_M1 = np.array([[1 - math.fsum(weights_K)] for weights_K in weights_MK]).reshape(-1, 1)
    return np.hstack([weights_MK, base_M1])


@dataclass(frozen=True)
class Linear(LinearMethod):
    """The weighted average, out = sum_k w_k theta_k.

    Args:
        normalize: Divide the weights by their sum (default); False takes them as given.

    Source: DeMix §2.3, Eq. 6; Wortsman et al., Model soups, arXiv:2203.05482.
    """

    name: ClassVar[str] = "linear"
    normalize: bool = True

    def coefficients(self, weights_MK: Array, statistics: Statistics | None) -> Array:
        """Return coefficients, float64, shape (M, K)."""
        return normalised(weights_MK) if self.normalize else weights_MK.copy()


@dataclass(frozen=True)
class TaskArithmetic(LinearMethod):
    """The base plus weighted task vectors, out = base + scale sum_k w_k (theta_k - base).

    Args:
        scale: Called lambda in the paper and in mergekit; 1 by default.

    Source: Ilharco et al., Editing models with task arithmetic, arXiv:2212.04089.
    """

    name: ClassVar[str] = "task_arithmetic"
    uses_base = True
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_scale(self.scale)

    def coefficients(self, weights_MK: Array, statistics: Statistics | None) -> Array:
        """Return coefficients, float64, shape (M, K + 1)."""
        return around_base(self.scale * weights_MK)


@dataclass(frozen=True)
class ModelStock(LinearMethod):
    """The weighted average drawn back to the base, the more so the less the task vectors agree.

    out = t sum_k w_k theta_k + (1 - t) base,  t = K c / (1 + (K - 1) c),

    where c is the mean cosine over all pairs of task vectors of the matrix and the weights are divided by their sum.
    The ratio t is the same for every mixture; the weights (absent from the paper) weight the average only, so a one-hot
    mixture does not give its component unless the task vectors are parallel.

    The paper's geometry has 0 <= c <= 1; a mean cosine below 0 counts as 0 and gives the base, where mergekit
    extrapolates to its far side. A task vector of length 0 has no direction and takes no part in c; where no pair is
    left, t = 1.

    Source: Jang et al., Model Stock, arXiv:2403.19522. No parameters.
    """

    name: ClassVar[str] = "model_stock"
    uses_base = True
    needs_gram: ClassVar[bool] = True

    def coefficients(self, weights_MK: Array, statistics: Statistics | None) -> Array:
        """Return coefficients, float64, shape (M, K + 1)."""
        assert statistics is not None
        assert statistics.gram_KK is not None
        return around_base(self.ratio(statistics.gram_KK) * normalised(weights_MK))

    @staticmethod
    def ratio(gram_KK: Array) -> float:
        """Return the interpolation ratio t, 0 <= t <= 1, from the task vectors' inner products, float64,
        shape (K, K).
        """
        lengths_K = np.sqrt(np.diag(gram_KK))
        num_components = len(lengths_K)
        cosines = [
            gram_KK[i, j] / (lengths_K[i] * lengths_K[j])
            for i in range(num_components)
            for j in range(i + 1, num_components)
            if lengths_K[i] > 0 and lengths_K[j] > 0
        ]
        if not cosines:
            return 1.0
        cosine = min(max(math.fsum(cosines) / len(cosines), 0.0), 1.0)
        return num_components * cosine / (1 + (num_components - 1) * cosine)
