"""SCE: select the elements that vary most, calculate coefficients from energies, erase the minority's sign.

Axes: M mixtures, K components, T their task vectors and then the base, R rows, C columns, S series (here one: the
variance).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nemo_demix.merging.methods.base import Array, Block, DeltaMethod, Statistics
from nemo_demix.merging.methods.combine import elected_mean, prepared, task_vectors
from nemo_demix.merging.methods.parameters import check_density
from nemo_demix.merging.methods.sparsify import kept_ranks

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Sce(DeltaMethod):
    """Task vectors averaged in proportion to their energy, where they vary most and agree in sign.

    Of the matrix's elements the share `select_topk` with the largest variance over the components is kept, in every
    component alike. With e_k = sum d_k^2 over what is kept, s = sign(sum_k w_k d_k) and A the components whose w_k d_k
    has the sign s,

        out = base + sum_A w_k e_k d_k / sum_A w_k e_k.

    At equal weights this is the paper's, which knows no weights. Elements equal to the smallest variance kept are all
    kept. mergekit counts the share in the elements whose variance is not 0, and adds 1e-6 under the division.

    Args:
        select_topk: Share of the elements that is kept; 1 by default, as in mergekit.

    Source: Wan et al., FuseChat: Knowledge fusion of chat models, arXiv:2408.07990 (SCE).
    """

    name: ClassVar[str] = "sce"
    needs_sums: ClassVar[bool] = True
    select_topk: float = 1.0

    def __post_init__(self) -> None:
        check_density(self.select_topk, "select_topk")

    def ranks(self, num_elements: int) -> tuple[int, ...]:
        """Return the rank of the smallest variance kept; none where all are kept."""
        return kept_ranks(num_elements, self.select_topk)[1:] if self.select_topk < 1 else ()

    def magnitudes(self, deltas_KRC: torch.Tensor) -> torch.Tensor:
        """Return the variance over the components, fp32, shape (1, R, C)."""
        import torch

        mean_RC, variance_RC = torch.zeros_like(deltas_KRC[0]), torch.zeros_like(deltas_KRC[0])
        for delta_RC in deltas_KRC:
            mean_RC.add_(delta_RC)
        mean_RC.div_(len(deltas_KRC))
        for delta_RC in deltas_KRC:
            variance_RC.add_(torch.sub(delta_RC, mean_RC).square_())
        return variance_RC.div_(len(deltas_KRC))[None]

    def sums(self, block: Block, statistics: Statistics) -> Array:
        """Return the energy of each component in this block, float64, shape (K,)."""
        import torch

        selected_KRC = self._select(task_vectors(block.sources_TRC), statistics)
        flat_KN = selected_KRC.reshape(len(selected_KRC), -1).double()
        return np.array([float(torch.dot(flat_N, flat_N)) for flat_N in flat_KN])

    def prepare(self, block: Block, statistics: Statistics | None) -> torch.Tensor:
        """Return task vectors where the variance is large, and the base, fp32, shape (T, R, C)."""
        assert statistics is not None
        prepared_TRC = prepared(block.sources_TRC)
        self._select(prepared_TRC[:-1], statistics)
        return prepared_TRC

    def mix(self, prepared_TRC: torch.Tensor, weights_MK: Array, statistics: Statistics | None) -> torch.Tensor:
        """Return the merged rows, fp32, shape (M, R, C)."""
        assert statistics is not None
        assert statistics.sums_S is not None
        deltas_KRC, base_RC = prepared_TRC[:-1], prepared_TRC[-1]
        mixed_MRC = base_RC.new_empty((len(weights_MK), *base_RC.shape))
        for mixed_RC, weights_K in zip(mixed_MRC, weights_MK, strict=True):
            weighted_K = weights_K * statistics.sums_S
            total = math.fsum(np.abs(weighted_K))
            coefficients_K = (weighted_K / total if total > 0 else weights_K).tolist()
            elected_mean(deltas_KRC, weights_K.tolist(), coefficients_K, mixed_RC)
            mixed_RC.add_(base_RC)
        return mixed_MRC

    def _select(self, deltas_KRC: torch.Tensor, statistics: Statistics) -> torch.Tensor:
        """Set to zero, in place, where the variance is below the smallest kept."""
        import torch

        if self.select_topk < 1:
            assert statistics.order_SQ is not None
            keep_RC = self.magnitudes(deltas_KRC)[0]
            torch.ge(keep_RC, float(statistics.order_SQ[0, 0]), out=keep_RC)
            for delta_RC in deltas_KRC:
                delta_RC.mul_(keep_RC)
        return deltas_KRC
