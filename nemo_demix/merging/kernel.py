"""The weighted sum of K sources for M mixtures at once, the same bits however it is called.

Each output element is one chain of fused multiply-adds over the sources, in their order, from zero, in fp32. torch's
sum of weighted table rows (`embedding_bag`, whose kernel is FBGEMM's) computes exactly that chain, and keeps it in
registers: a table row is a piece of a source, a bag the sources of a mixture at one place. `_chain_by_bags` checks it
once a process; where torch was built otherwise the chain is written out. On an accelerator a matrix product is taken,
without TF32; that it gives the same bits there is not claimed.

Axes: M mixtures, R rows of a product, T sources, N elements, in P pieces of D.
"""

from functools import cache

import torch

from nemo_demix.merging.methods.base import Array

_PIECE = 256  # D: elements of a bag, so few that those of all mixtures meet the sources in the first cache


class Coefficients:
    """What M mixtures take of T sources.

    Args:
        values_MT: Coefficients, float64, shape (M, T); used in fp32.
    """

    def __init__(self, values_MT: Array) -> None:
        self._values_MT = torch.from_numpy(values_MT).float()
        self.num_mixtures = len(values_MT)
        is_copy_M = ((self._values_MT != 0).sum(1) == 1) & (self._values_MT == 1).any(1)
        self._copies = {int(row): int(self._values_MT[row].argmax()) for row in is_copy_M.nonzero()}
        self._bags: tuple[tuple[int, int], list[torch.Tensor]] | None = None

    def apply(self, sources_TN: torch.Tensor) -> torch.Tensor:
        """Return the weighted sums of the sources' elements.

        A row with a single 1 copies its source bit for bit, signed zeros and NaN included; a source whose coefficient
        is 0 leaves no trace, not even where it is NaN.

        Args:
            sources_TN: Elements of the sources, fp32, shape (T, N), rows of a buffer: N and what lies from one row to
                the next are multiples of 256 (see `padded`).
        Returns:
            fp32, shape (M, P, D).
        """
        if sources_TN.device.type != "cpu":
            merged_MPD = self._by_product(sources_TN)
        elif _chain_by_bags():
            merged_MPD = self._by_bags(sources_TN)
        else:
            merged_MPD = self._by_chain(sources_TN)
        for row, source in self._copies.items():
            merged_MPD[row].copy_(sources_TN[source].unflatten(0, (-1, _PIECE)))
        return merged_MPD

    def _by_bags(self, sources_TN: torch.Tensor) -> torch.Tensor:
        num_sources, num_elements = sources_TN.shape
        num_pieces, from_row_to_row = num_elements // _PIECE, sources_TN.stride(0) // _PIECE
        assert sources_TN.stride() == (from_row_to_row * _PIECE, 1), "padded() first"
        assert num_elements == num_pieces * _PIECE, "padded() first"
        shape = (num_pieces, from_row_to_row)
        if self._bags is None or self._bags[0] != shape:
            self._bags = (shape, self._bags_of(*shape))
        table = sources_TN.as_strided(((num_sources - 1) * from_row_to_row + num_pieces, _PIECE), (_PIECE, 1))
        pieces, starts, weights = self._bags[1]
        sums, *_ = torch.embedding_bag(table, pieces, starts, False, 0, False, weights)  # mode 0: sum
        return sums.view(num_pieces, self.num_mixtures, _PIECE).transpose(0, 1)

    def _bags_of(self, num_pieces: int, from_row_to_row: int) -> list[torch.Tensor]:
        """Return which pieces the bags hold, where each bag starts, and the weights; mixtures run faster than places.

        A source whose coefficient is 0 is in no bag.
        """
        used_MT = self._values_MT != 0
        _, sources = used_MT.nonzero(as_tuple=True)  # by mixture, in the sources' order
        places = torch.arange(num_pieces)[:, None]
        sizes_M = used_MT.sum(1)
        starts = places * len(sources) + (sizes_M.cumsum(0) - sizes_M)
        weights = self._values_MT[used_MT].expand(num_pieces, -1)
        pieces = sources * from_row_to_row + places
        return [pieces.flatten().int(), starts.flatten().int(), weights.flatten()]

    def _by_product(self, sources_TN: torch.Tensor) -> torch.Tensor:
        # Zero times anything finite is zero: a last row of zeros shows NaN or infinity in any source.
        probed_RT = torch.cat([self._values_MT, self._values_MT.new_zeros(1, len(sources_TN))]).to(sources_TN.device)
        tf32, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, False
        merged_RN = torch.mm(probed_RT, sources_TN)
        torch.backends.cuda.matmul.allow_tf32 = tf32
        if merged_RN[-1].sum().item() != 0.0:
            return self._by_chain(sources_TN)
        return merged_RN[:-1].unflatten(1, (-1, _PIECE))

    def _by_chain(self, sources_TN: torch.Tensor) -> torch.Tensor:
        merged_MN = sources_TN.new_zeros(self.num_mixtures, sources_TN.shape[1])
        for row_N, coefficients in zip(merged_MN, self._values_MT.tolist(), strict=True):
            for coefficient, source_N in zip(coefficients, sources_TN, strict=True):
                if coefficient:
                    row_N.add_(source_N, alpha=coefficient)
        return merged_MN.unflatten(1, (-1, _PIECE))


def padded(num_elements: int) -> int:
    """Return the least N that `Coefficients.apply` takes for so many elements."""
    return -(-num_elements // _PIECE) * _PIECE


def num_bytes(num_sources: int, num_mixtures: int) -> float:
    """Return the memory that `Coefficients.apply` takes, in bytes for each element."""
    return num_mixtures * (4 + num_sources * 12 / _PIECE)


def put(merged_PD: torch.Tensor, out_N: torch.Tensor) -> None:
    """Round merged elements to a tensor's dtype: as many as it has, from the first on."""
    width = merged_PD.shape[1]
    whole, rest = divmod(out_N.numel(), width)
    out_N[: whole * width].view(whole, width).copy_(merged_PD[:whole])
    if rest:
        out_N[whole * width :].copy_(merged_PD[whole, :rest])


def all_within(merged: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return whether every element is finite once it is rounded to a dtype: a bool of shape ().

    False may be wrong, and only says to look: it is their norm that is compared, which none of them exceeds.
    """
    return torch.linalg.vector_norm(merged) < torch.finfo(dtype).max


@cache
def _chain_by_bags() -> bool:
    """Return whether this torch's `embedding_bag` is the chain, at several shapes; a few milliseconds."""
    generator = torch.Generator().manual_seed(0)
    for num_mixtures, num_sources, num_elements in ((1, 7, 65_536), (1, 2, 256), (4, 8, 16_384), (16, 51, 1_024)):
        sources_TN = torch.randn(num_sources, num_elements, generator=generator)
        values_MT = torch.randn(num_mixtures, num_sources, generator=generator, dtype=torch.float64)
        coefficients = Coefficients(values_MT.numpy())
        if not torch.equal(coefficients._by_bags(sources_TN), coefficients._by_chain(sources_TN)):
            return False
    return True
