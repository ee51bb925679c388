"""What a merge method has to know of a whole logical matrix, gathered in passes over its blocks.

Order statistics are exact and do not depend on the blocks: a radix count over the bits of the magnitudes, 16 high bits
in one pass and the 16 low ones of the bins found in another. Sums and inner products are float64, block after block;
they depend on the blocks in their last bits, so callers give the same blocks however many workers there are.

Axes: T sources, K components, R rows, C columns, N elements of a block, S series, Q ranks.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from nemo_demix.errors import CheckpointError
from nemo_demix.merging.methods.base import Array, Block, BlockMethod, DeltaMethod, Method, Statistics
from nemo_demix.merging.methods.combine import task_vectors

Blocks = Callable[[], Iterator[Block]]
_NUM_BINS = 1 << 16
_CHUNK = 1 << 14  # elements that are float64 at a time: they stay in the cache


def collect(method: Method, blocks: Blocks, num_elements: int) -> Statistics:
    """Return the statistics that a method asks of one logical matrix.

    Args:
        method: Says what it needs.
        blocks: Gives the matrix's blocks in order, from the start at each call; called once a pass: one for the Gram
            matrix, two for order statistics, one for sums.
        num_elements: Elements of the matrix.

    Raises:
        CheckpointError: if NaN or infinity gets into an inner product or a sum: every element of the matrix would
            become NaN. Order statistics count NaN as the largest, and leave it where it is.
    Memory: one block's task vectors, and 0.5 MiB a series.
    """
    statistics = Statistics(num_elements)
    if method.needs_gram:
        statistics = dataclasses.replace(statistics, gram_KK=_gram(method, blocks()))
    if isinstance(method, DeltaMethod) and (ranks := method.ranks(num_elements)):
        order_SQ = order_statistics(lambda: _magnitudes(method, blocks()), ranks, num_elements)
        statistics = dataclasses.replace(statistics, order_SQ=order_SQ)
    if isinstance(method, BlockMethod) and method.needs_sums:
        sums_S: Array = np.zeros(1)
        for block in blocks():
            sums_S = sums_S + _finite(method.sums(block, statistics), block, method)
        statistics = dataclasses.replace(statistics, sums_S=sums_S)
    return statistics


def order_statistics(
    series: Callable[[], Iterator[torch.Tensor]], ranks: Sequence[int], num_elements: int
) -> npt.NDArray[np.float32]:
    """Return the values at the given ranks of each series, exactly as a sort would give them.

    Args:
        series: Gives the values in pieces, fp32, >= 0, shape (S, ...); called twice. NaN counts as the largest.
        ranks: Ranks of the values; 1 is the largest value, `num_elements` the smallest.
        num_elements: Elements of each series.

    Returns:
        fp32, shape (S, Q).
    Speed: about 2 ns an element in the first pass, 1 ns in the second.
    """
    assert all(1 <= rank <= num_elements for rank in ranks), (ranks, num_elements)
    counts_SB = _count_high_bits(series())
    assert (counts_SB.sum(axis=1) == num_elements).all(), (counts_SB.sum(axis=1), num_elements)
    found = [[_bin_of_rank(counts_B, rank) for rank in ranks] for counts_B in counts_SB]
    low_counts = _count_low_bits(series(), [{high for high, _ in row} for row in found])
    bits = [
        [high << 16 | _bin_of_rank(low_counts[index][high], rank)[0] for high, rank in row]
        for index, row in enumerate(found)
    ]
    return np.array(bits, dtype=np.uint32).reshape(len(found), len(ranks)).view(np.float32)


def _magnitudes(method: DeltaMethod, blocks: Iterator[Block]) -> Iterator[torch.Tensor]:
    return (method.magnitudes(task_vectors(block.sources_TRC)) for block in blocks)


def _finite(values: Array, block: Block, method: Method) -> Array:
    if not np.isfinite(values).all():
        raise CheckpointError(
            f"{block.tensor}: found NaN or infinity in {', '.join(block.components)} or the base; {method.name} needs "
            "finite weights, leave that checkpoint out or merge with linear"
        )
    return values


def _gram(method: Method, blocks: Iterator[Block]) -> Array:
    """Return inner products of the components, or of their task vectors, float64, shape (K, K)."""
    total_KK: Array = np.zeros((1, 1))
    for block in blocks:
        flat_TN = block.sources_TRC.reshape(len(block.sources_TRC), -1)
        for start in range(0, flat_TN.shape[1], _CHUNK):
            chunk_TN = flat_TN[:, start : start + _CHUNK].double()
            chunk_KN = chunk_TN[:-1] - chunk_TN[-1] if method.uses_base else chunk_TN
            total_KK = total_KK + _finite((chunk_KN @ chunk_KN.T).numpy(force=True), block, method)
    return total_KK


def _bits(values: torch.Tensor) -> npt.NDArray[np.uint32]:
    """Return the bit patterns, shape (S, N); of values >= 0 they order as the values do."""
    return values.reshape(len(values), -1).contiguous().numpy(force=True).view(np.uint32)


def _count_high_bits(series: Iterator[torch.Tensor]) -> npt.NDArray[np.int64]:
    """Return how many values of each series have each pattern of high bits, shape (S, bins)."""
    counts: list[npt.NDArray[np.int64]] = []
    for values in series:
        rows = _bits(values)
        counts = counts or [np.zeros(_NUM_BINS, dtype=np.int64) for _ in rows]
        for row, counts_B in zip(rows, counts, strict=True):
            found = np.bincount(row >> 16)  # as long as its largest value asks
            counts_B[: len(found)] += found
    return np.stack(counts)


def _count_low_bits(series: Iterator[torch.Tensor], bins: Sequence[set[int]]) -> list[dict[int, npt.NDArray[np.int64]]]:
    """Count, for each series and each of its bins of high bits, how many values have each pattern of low bits."""
    counts = [{high: np.zeros(_NUM_BINS, dtype=np.int64) for high in wanted} for wanted in bins]
    for values in series:
        for row, row_counts in zip(_bits(values), counts, strict=True):
            high_N = row >> 16
            for high, counts_B in row_counts.items():
                np.add.at(counts_B, row[high_N == high] & 0xFFFF, 1)  # few, as a rule: cheaper than a bincount
    return counts


def _bin_of_rank(counts_B: npt.NDArray[np.int64], rank: int) -> tuple[int, int]:
    """Return the bin that holds the rank, counted from the largest, and the rank within the bin."""
    above_B = counts_B[::-1].cumsum()
    place = int(np.searchsorted(above_B, rank))
    before = int(above_B[place - 1]) if place else 0
    return _NUM_BINS - 1 - place, rank - before
