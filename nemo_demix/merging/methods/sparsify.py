"""How task vectors are thinned out, once for all mixtures: by magnitude, between two magnitudes, at random, by rank.

Masks are fp32 factors, 1 or 0: torch's kernels for bool tensors are several times as slow. Infinity dropped is NaN.

Axes: K components, T their task vectors and then the base, R rows, C columns, S series of magnitudes (here the
components), Q ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from nemo_demix.merging.methods.base import Block, Statistics
from nemo_demix.merging.methods.combine import OnBase, prepared
from nemo_demix.merging.methods.parameters import check_density, check_parameter
from nemo_demix.merging.methods.randomness import uniforms

if TYPE_CHECKING:
    import torch


def kept_ranks(num_elements: int, density: float, gamma: float = 0.0) -> tuple[int, int]:
    """Return first and last rank kept, 1 being the largest magnitude: `density` of the elements below the top `gamma`.

    Counts are rounded down, and at least one element is kept.
    """
    top = int(gamma * num_elements)
    return top + 1, min(top + max(1, int(density * num_elements)), num_elements)


@dataclass(frozen=True)
class Trimming(OnBase):
    """Keeps the largest magnitudes of each component, a share `density` of the matrix's elements.

    Elements equal to the smallest magnitude kept are all kept, so the layout decides nothing.
    """

    density: float = 0.9

    def __post_init__(self) -> None:
        check_density(self.density)
        super().__post_init__()

    def ranks(self, num_elements: int) -> tuple[int, ...]:
        """Return the rank of the smallest magnitude kept; none at density 1."""
        return kept_ranks(num_elements, self.density)[1:] if self.density < 1 else ()

    def prepare(self, block: Block, statistics: Statistics | None) -> torch.Tensor:
        """Return trimmed task vectors and the base, fp32, shape (T, R, C)."""
        import torch

        prepared_TRC = prepared(block.sources_TRC)
        if self.density < 1:
            assert statistics is not None
            assert statistics.order_SQ is not None
            for delta_RC, (smallest,) in zip(prepared_TRC[:-1], statistics.order_SQ.tolist(), strict=True):
                keep_RC = delta_RC.abs()
                delta_RC.mul_(torch.ge(keep_RC, smallest, out=keep_RC))
        return prepared_TRC


@dataclass(frozen=True)
class Crumbs(OnBase):
    """Drops the largest magnitudes, a share `gamma`, and the smallest; keeps a share `density` in between.

    Elements equal to the largest or the smallest magnitude kept are all kept.
    """

    density: float = 0.9
    gamma: float = 0.01

    def __post_init__(self) -> None:
        check_density(self.density)
        expected = f"0 <= value <= 1 - density ({1 - self.density:.6g})"
        check_parameter("gamma", self.gamma, self.gamma >= 0 and self.density + self.gamma <= 1 + 1e-12, expected)
        super().__post_init__()

    def ranks(self, num_elements: int) -> tuple[int, ...]:
        """Return the ranks of the largest and of the smallest magnitude kept; none at density 1."""
        return kept_ranks(num_elements, self.density, self.gamma) if self.density < 1 else ()

    def prepare(self, block: Block, statistics: Statistics | None) -> torch.Tensor:
        """Return task vectors without their largest and smallest elements, and the base, fp32, shape (T, R, C)."""
        import torch

        prepared_TRC = prepared(block.sources_TRC)
        if self.density < 1:
            assert statistics is not None
            assert statistics.order_SQ is not None
            for delta_RC, (largest, smallest) in zip(prepared_TRC[:-1], statistics.order_SQ.tolist(), strict=True):
                magnitude_RC, keep_RC = delta_RC.abs(), torch.empty_like(delta_RC)
                delta_RC.mul_(torch.ge(magnitude_RC, smallest, out=keep_RC))
                delta_RC.mul_(torch.le(magnitude_RC, largest, out=keep_RC))
        return prepared_TRC


@dataclass(frozen=True)
class Dropping(OnBase):
    """Keeps each element with probability `density`, divided by it: the expectation stays (to 2**-16)."""

    is_random: ClassVar[bool] = True
    density: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        check_density(self.density)
        super().__post_init__()

    def prepare(self, block: Block, statistics: Statistics | None) -> torch.Tensor:
        """Return dropped and rescaled task vectors and the base, fp32, shape (T, R, C)."""
        import torch

        prepared_TRC = prepared(block.sources_TRC)
        if self.density < 1:
            for component, delta_RC in zip(block.components, prepared_TRC[:-1], strict=True):
                keep_RC = _uniforms_of(block, component, self.seed)
                delta_RC.mul_(torch.lt(keep_RC, self.density, out=keep_RC)).mul_(1 / self.density)
        return prepared_TRC


@dataclass(frozen=True)
class RankedDropping(OnBase):
    """Keeps an element with a probability p that grows with its magnitude's rank in its row, divided by p.

    p = density - epsilon + 2 epsilon (rank - 1) / (C - 1), rank 1 being the smallest of the row's C magnitudes; the
    first of equal magnitudes ranks lower. A row of one element has p = density. A vector counts as one row.
    """

    needs_rows: ClassVar[bool] = True
    is_random: ClassVar[bool] = True
    density: float = 0.9
    epsilon: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        check_density(self.density)
        expected = f"0 <= value < density and density + value <= 1 (density: {self.density})"
        valid = 0 <= self.epsilon < self.density and self.density + self.epsilon <= 1 + 1e-12
        check_parameter("epsilon", self.epsilon, valid, expected)
        super().__post_init__()

    def prepare(self, block: Block, statistics: Statistics | None) -> torch.Tensor:
        """Return dropped and rescaled task vectors and the base, fp32, shape (T, R, C)."""
        import torch

        prepared_TRC = prepared(block.sources_TRC)
        if self.density < 1:
            for component, delta_RC in zip(block.components, prepared_TRC[:-1], strict=True):
                probability_RC = self._probabilities(delta_RC)
                keep_RC = _uniforms_of(block, component, self.seed)
                delta_RC.mul_(torch.lt(keep_RC, probability_RC, out=keep_RC)).div_(probability_RC)
        return prepared_TRC

    def _probabilities(self, delta_RC: torch.Tensor) -> torch.Tensor:
        """Return the probability with which each element is kept, fp32, shape (R, C)."""
        import torch

        num_columns = delta_RC.shape[1]
        if num_columns == 1 or self.epsilon == 0:
            return torch.full_like(delta_RC, self.density)
        return rank_in_row(delta_RC).mul_(2 * self.epsilon / (num_columns - 1)).add_(self.density - self.epsilon)


def rank_in_row(values_RC: torch.Tensor) -> torch.Tensor:
    """Return how many magnitudes of the row come before each element's, fp32, shape (R, C); equal ones in
    their order.
    """
    import torch

    # The bits of a magnitude order as it does; the column below them carries the place through one plain sort.
    bits_RC = values_RC.abs().contiguous().view(torch.int32).to(torch.int64)
    columns_C = torch.arange(values_RC.shape[1], device=values_RC.device)
    keys_RC = bits_RC.bitwise_left_shift_(32).add_(columns_C)
    if keys_RC.device.type == "cpu":
        keys_RC.numpy().sort(axis=1)  # several times as fast as torch's, which carries indices along
    else:
        keys_RC = keys_RC.sort(dim=1).values
    places_RC = keys_RC.bitwise_and_(0xFFFFFFFF)
    ranks_RC = columns_C.to(torch.float32).expand(values_RC.shape)
    return torch.empty_like(values_RC).scatter_(1, places_RC, ranks_RC)


def _uniforms_of(block: Block, component: str, seed: int) -> torch.Tensor:
    """Return uniform numbers of the block's elements in one component, fp32, shape (R, C)."""
    rows_RC = block.sources_TRC[0]
    flat = uniforms(seed, component, block.unit, block.first_index, rows_RC.numel())
    return flat.view(rows_RC.shape).to(rows_RC.device)
