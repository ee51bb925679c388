"""What a merge method is: the statistics of whole matrices it needs, and how it turns a block of rows into mixtures.

A method never sees a whole tensor. It is given blocks: some consecutive rows, whole rows, of one logical matrix (the
matrix that a Hugging Face export would name: q, k and v apart, gate and up apart, each layer, each expert). What it
must know of the whole matrix it declares, and gets as `Statistics`, exact, gathered in passes over the blocks.

Whatever depends on the tensors only, `prepare`, is done once for all mixtures; `mix` is done for the mixtures asked.
Every operation is element by element in fp32 and in the components' order, so results do not depend on how rows are cut
into blocks, on the number of workers, or on which mixtures are merged together.

Axes: M mixtures, K components, T sources (the components, then the base where the method uses one, then the components'
second moments where it uses those), R rows, C columns, S series whose order statistics are wanted, Q ranks asked of
each.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Block:
    """Consecutive rows of one logical matrix, in every source."""

    sources_TRC: torch.Tensor  # fp32; the components in order, then the base, then second moments, as the method uses
    components: tuple[str, ...]
    tensor: str  # the stored tensor's name
    unit: str  # the same wherever its layer and expert are stored; see `geometry.Rows.unit`
    first_index: int  # of the first element, in the flattened unit


@dataclass(frozen=True)
class Statistics:
    """What a method asked to know of one whole logical matrix."""

    num_elements: int
    gram_KK: Array | None = None  # inner products of the components, or of the task vectors if there is a base; float64
    order_SQ: npt.NDArray[np.float32] | None = None  # the magnitudes at the ranks asked
    sums_S: Array | None = None  # float64


class Method(ABC):
    """A merge method with its parameters (the fields of the concrete dataclass)."""

    name: ClassVar[str]
    uses_base: bool = False  # a parameter may decide: ask the instance
    uses_moments: ClassVar[bool] = False  # the second moments that Adam kept of each component's gradients
    num_components: ClassVar[int | None] = None  # exactly so many; None: two or more
    needs_gram: ClassVar[bool] = False  # `Statistics.gram_KK`
    needs_rows: ClassVar[bool] = False  # rows must not be cut
    is_random: ClassVar[bool] = False  # what happens to an element depends on its place

    @property
    def parameters(self) -> dict[str, Any]:
        """The method's own parameters, by name, with the seed where it has one."""
        return dataclasses.asdict(self)  # type: ignore[call-overload,no-any-return]

    @property
    def needs_statistics(self) -> bool:
        """Whether a pass over the sources has to come before the merge."""
        return self.needs_gram


class LinearMethod(Method):
    """out_m = sum_t coefficients_mt source_t, with coefficients that are the same all over a logical matrix."""

    @abstractmethod
    def coefficients(self, weights_MK: Array, statistics: Statistics | None) -> Array:
        """Return coefficients, float64, shape (M, T), from merge weights of shape (M, K)."""


class BlockMethod(Method):
    """Works element by element: prepares a block of all sources once, then combines what it prepared for each
    mixture.
    """

    needs_sums: ClassVar[bool] = False
    keeps_bf16: ClassVar[bool] = False  # what is prepared of sources in bf16 is bf16, if held as fp32

    def sums(self, block: Block, statistics: Statistics) -> Array:
        """Return this block's part of `Statistics.sums_S`, float64, shape (S,); the order statistics are known
        by then.
        """
        raise NotImplementedError

    @property
    def needs_statistics(self) -> bool:
        """Whether passes over the sources have to come before the merge."""
        return self.needs_gram or self.needs_sums

    @abstractmethod
    def prepare(self, block: Block, statistics: Statistics | None) -> torch.Tensor:
        """Return what `mix` needs of each source, fp32, shape (T, R, C); the same for every mixture."""

    @abstractmethod
    def mix(self, prepared_TRC: torch.Tensor, weights_MK: Array, statistics: Statistics | None) -> torch.Tensor:
        """Return the merged rows, fp32, shape (M, R, C)."""


class DeltaMethod(BlockMethod):
    """Works on task vectors, delta_k = theta_k - base; prepares them, sparsified, and the base behind them."""

    uses_base = True

    def ranks(self, num_elements: int) -> tuple[int, ...]:
        """Return which order statistics of each series are wanted: 1 is the largest magnitude. None by default."""
        return ()

    def magnitudes(self, deltas_KRC: torch.Tensor) -> torch.Tensor:
        """Return the series whose order statistics are wanted: fp32, >= 0, shape (S, R, C); |delta| of each
        component.
        """
        return deltas_KRC.abs()

    @property
    def needs_statistics(self) -> bool:
        """Whether passes over the sources have to come before the merge."""
        return super().needs_statistics or bool(self.ranks(1000))
