"""Fisher-weighted averaging: a component has the more say in an element, the more its loss depends on that element.

Axes: M mixtures, K components, T these and then their second moments, R rows, C columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nemo_demix.errors import CheckpointError
from nemo_demix.merging.methods.base import Array, Block, BlockMethod, Statistics
from nemo_demix.merging.methods.parameters import check_not_negative, check_parameter

if TYPE_CHECKING:
    import torch

_SMALLEST = 1e-30  # a mean second moment below it is none: Adam's own epsilon hides such gradients


@dataclass(frozen=True)
class Fisher(BlockMethod):
    """The average of each element, weighted by the curvature of each component's loss there.

    With h_k the second moment that Adam kept of component k's gradients, rounded to bf16, and m the mean of all h_k
    over the matrix and the components,

        out = sum_k w_k f_k theta_k / sum_k w_k f_k,  f_k = h_k / m + damping.

    Where a matrix has no second moments (it was not trained, or m < 1e-30) every f_k is 1: the weighted average. A
    one-hot mixture is its component, bit for bit.

    Args:
        damping: What every element counts beside its curvature, as a share of the matrix's mean; 1e-3 by default. The
            larger, the nearer to `linear`.

    Source: Matena and Raffel, Merging models with Fisher-weighted averaging, arXiv:2111.09832. Departs from it: Adam's
    second moments stand for the diagonal of the Fisher information, so that nothing is computed beside the training.
    """

    name: ClassVar[str] = "fisher"
    uses_moments: ClassVar[bool] = True
    needs_sums: ClassVar[bool] = True
    keeps_bf16: ClassVar[bool] = True
    damping: float = 1e-3

    def __post_init__(self) -> None:
        check_parameter("damping", self.damping, 0 < self.damping < math.inf, "a number above 0")

    def sums(self, block: Block, statistics: Statistics) -> Array:
        """Return the sum of each component's second moments in this block, float64, shape (K,).

        Raises:
            CheckpointError: if one is below 0, which no square is.
        """
        moments_KRC = block.sources_TRC[len(block.components) :]
        for component, moments_RC in zip(block.components, moments_KRC, strict=True):
            if bool((moments_RC < 0).any()):
                raise CheckpointError(
                    f"{block.tensor}: found second moments below 0 in {component}; they are squares, so its "
                    "optimizer's state is damaged: copy the checkpoint again, or merge with linear"
                )
        return np.array([moments_RC.numpy(force=True).sum(dtype=np.float64) for moments_RC in moments_KRC])

    def prepare(self, block: Block, statistics: Statistics | None) -> torch.Tensor:
        """Return the components and their second moments, fp32, shape (T, R, C)."""
        import torch

        prepared_TRC = block.sources_TRC.clone()
        moments_KRC = prepared_TRC[len(block.components) :]
        moments_KRC.copy_(moments_KRC.to(torch.bfloat16))
        return prepared_TRC

    def mix(self, prepared_TRC: torch.Tensor, weights_MK: Array, statistics: Statistics | None) -> torch.Tensor:
        """Return the merged rows, fp32, shape (M, R, C).

        Raises:
            MixtureError: if a weight is below 0, or all are 0: what is divided by could vanish anywhere.
        """
        import torch

        check_not_negative(weights_MK)
        assert statistics is not None
        assert statistics.sums_S is not None
        count = weights_MK.shape[1]
        thetas_KRC, moments_KRC = prepared_TRC[:count], prepared_TRC[count:]
        mean = math.fsum(statistics.sums_S) / (count * statistics.num_elements)
        if mean < _SMALLEST:
            factors_KRC = torch.ones_like(moments_KRC)
        else:
            factors_KRC = torch.mul(moments_KRC, 1 / mean).add_(self.damping)
        mixed_MRC = thetas_KRC.new_zeros((len(weights_MK), *thetas_KRC.shape[1:]))
        total_RC, share_RC = torch.empty_like(mixed_MRC[0]), torch.empty_like(mixed_MRC[0])
        # Every operation by itself, as in `combine`: the bits must not depend on where blocks end.
        for mixed_RC, weights_K in zip(mixed_MRC, weights_MK.tolist(), strict=True):
            active = [item for item in zip(thetas_KRC, factors_KRC, weights_K, strict=True) if item[-1] != 0]
            total_RC.zero_()
            for _, factor_RC, weight in active:
                total_RC.add_(torch.mul(factor_RC, weight, out=share_RC))
            for theta_RC, factor_RC, weight in active:
                torch.mul(factor_RC, weight, out=share_RC).div_(total_RC)
                mixed_RC.add_(share_RC.mul_(theta_RC))
        return mixed_MRC
