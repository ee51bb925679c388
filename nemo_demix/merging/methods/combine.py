"""How sparsified task vectors become a mixture: a weighted sum, or a weighted mean under an elected sign.

Axes: M mixtures, K components, T the task vectors of these and then the base, R rows, C columns. Loops over components
are in their order and only multiply and add element by element, each rounded by itself: a fused multiply-add could
round otherwise in a vector's tail than in its body, and the bits would depend on where blocks end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nemo_demix.merging.methods.base import Array, DeltaMethod, Statistics
from nemo_demix.merging.methods.parameters import check_scale

if TYPE_CHECKING:
    import torch


def task_vectors(sources_TRC: torch.Tensor) -> torch.Tensor:
    """Return theta_k - base, fp32, shape (K, R, C), from the components and the base, which is last."""
    import torch

    return torch.sub(sources_TRC[:-1], sources_TRC[-1])


def prepared(sources_TRC: torch.Tensor) -> torch.Tensor:
    """Return the task vectors and behind them the base, fp32, shape (T, R, C): a copy, to be thinned out."""
    prepared_TRC = sources_TRC.clone()
    prepared_TRC[:-1].sub_(prepared_TRC[-1])
    return prepared_TRC


@dataclass(frozen=True)
class OnBase(DeltaMethod):
    """The base plus `scale` times what is made of the task vectors."""

    scale: float = 1.0

    def __post_init__(self) -> None:
        check_scale(self.scale)


@dataclass(frozen=True)
class WeightedSum(OnBase):
    """out = base + scale sum_k w_k d_k."""

    def mix(self, prepared_TRC: torch.Tensor, weights_MK: Array, statistics: Statistics | None) -> torch.Tensor:
        """Return the merged rows, fp32, shape (M, R, C)."""
        import torch

        deltas_KRC, base_RC = prepared_TRC[:-1], prepared_TRC[-1]
        mixed_MRC = base_RC.new_empty((len(weights_MK), *base_RC.shape))
        scratch_RC = torch.empty_like(mixed_MRC[0])
        for mixed_RC, weights_K in zip(mixed_MRC, weights_MK.tolist(), strict=True):
            _weighted_sum(deltas_KRC, weights_K, mixed_RC, scratch_RC)
            _on_base(mixed_RC, base_RC, self.scale)
        return mixed_MRC


@dataclass(frozen=True)
class SignElection(OnBase):
    """Only what points the way of the mixture's weighted sum is kept, as in TIES.

    s = sign(sum_k w_k d_k); with A the components whose w_k d_k has the sign s,
    out = base + scale sum_A w_k d_k / sum_A w_k,  or without the division if not `normalize`.

    The sign is elected for each mixture. Where the sum is 0 nobody is elected and the base stays.
    """

    normalize: bool = True

    def mix(self, prepared_TRC: torch.Tensor, weights_MK: Array, statistics: Statistics | None) -> torch.Tensor:
        """Return the merged rows, fp32, shape (M, R, C)."""
        deltas_KRC, base_RC = prepared_TRC[:-1], prepared_TRC[-1]
        mixed_MRC = base_RC.new_empty((len(weights_MK), *base_RC.shape))
        for mixed_RC, weights_K in zip(mixed_MRC, weights_MK.tolist(), strict=True):
            elected_mean(deltas_KRC, weights_K, weights_K, mixed_RC, self.normalize)
            _on_base(mixed_RC, base_RC, self.scale)
        return mixed_MRC


def elected_mean(
    deltas_KRC: torch.Tensor,
    votes_K: Sequence[float],
    weights_K: Sequence[float],
    out_RC: torch.Tensor,
    normalize: bool = True,
) -> None:
    """Write the weighted mean (or sum) of the task vectors that agree with the elected sign into `out_RC`.

    Args:
        deltas_KRC: Task vectors, fp32, shape (K, R, C).
        votes_K: K weights in the election of the sign.
        weights_K: K weights in the mean, each of its vote's sign.
        out_RC: Where to write, fp32, shape (R, C).
        normalize: Whether to divide by the agreeing weights' sum; where it is 0 the sum is left as it is.
    """
    import torch

    signed_RC, share_RC = torch.empty_like(out_RC), torch.empty_like(out_RC)
    _weighted_sum(deltas_KRC, votes_K, out_RC, share_RC)
    sign_RC = out_RC.sign()
    out_RC.zero_()
    divisor_RC = torch.zeros_like(out_RC)
    # Comparisons go into fp32: torch's kernels for bool tensors are several times as slow.
    for delta_RC, weight in zip(deltas_KRC, weights_K, strict=True):
        if weight == 0:
            continue
        torch.mul(delta_RC, sign_RC, out=signed_RC)
        agrees = torch.gt if weight > 0 else torch.lt
        agrees(signed_RC, 0, out=share_RC).mul_(weight)
        if normalize:
            divisor_RC.add_(share_RC)
        out_RC.add_(share_RC.mul_(signed_RC))
    if normalize:
        out_RC.div_(divisor_RC.add_(torch.eq(divisor_RC, 0, out=share_RC)))
    out_RC.mul_(sign_RC)


def _weighted_sum(
    deltas_KRC: torch.Tensor, weights_K: Sequence[float], out_RC: torch.Tensor, scratch_RC: torch.Tensor
) -> None:
    """Write sum_k w_k d_k into `out_RC`; components of weight 0 are not read."""
    import torch

    active = [(delta_RC, weight) for delta_RC, weight in zip(deltas_KRC, weights_K, strict=True) if weight != 0]
    if not active:
        out_RC.zero_()
        return
    (first_RC, weight), *rest = active
    torch.mul(first_RC, weight, out=out_RC)
    for delta_RC, weight in rest:
        out_RC.add_(torch.mul(delta_RC, weight, out=scratch_RC))


def _on_base(mixed_RC: torch.Tensor, base_RC: torch.Tensor, scale: float) -> None:
    if scale != 1:
        mixed_RC.mul_(scale)
    mixed_RC.add_(base_RC)
