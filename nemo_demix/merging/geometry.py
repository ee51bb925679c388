"""Tensors as rows: where a checkpoint keeps which rows, and which rows make up one logical matrix.

A stored tensor of shape (..., R, C) is seen as rows of width C: all axes but the last, flattened. Whatever grid of
chunks a checkpoint was saved in, consecutive whole rows are one run of bytes in every chunk that holds a part of them;
so any two grids can be read and written through the same blocks of rows, each byte once and in order.
"""

import bisect
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from nemo_demix.checkpoints.layouts import Architecture
from nemo_demix.checkpoints.metadata import Chunk
from nemo_demix.errors import CheckpointError

BLOCK_ELEMENTS = 131_072  # of each source at a time: what is summed stays in a core's own cache
_STACKED = re.compile(r"\.layers\.(?!\d)")  # Megatron stacks layers on axis 0 and drops their number from the name
_EXPERTS = ".experts.experts."  # grouped experts are stacked on the next axis


class Segment(NamedTuple):
    """Rows [first_row, end_row), columns [first_column, end_column) of a tensor, as one chunk keeps them."""

    first_row: int
    end_row: int
    first_column: int
    end_column: int
    chunk: int
    start: int  # element of the chunk's payload that the first of them is


class Span(NamedTuple):
    """A block: some whole rows, or a part of one row."""

    first_row: int
    end_row: int
    first_column: int
    end_column: int


class Piece(NamedTuple):
    """What of a block lies in one chunk: `size` elements from `start`, in order."""

    chunk: int
    start: int
    size: int
    rows: slice  # of the block
    columns: slice


@dataclass(frozen=True)
class Matrix:
    """A logical matrix: the rows of a stored tensor that a Hugging Face export would give a name of their own."""

    label: str  # e.g. "layer 3, k"; empty for a whole tensor
    runs: tuple[tuple[int, int], ...]  # rows [first, end), ascending


@dataclass(frozen=True)
class Rows:
    """A tensor as rows."""

    num_rows: int
    width: int
    rows_per_matrix: int  # of one layer (and expert); 1 for vectors

    @property
    def num_elements(self) -> int:
        """Of the whole tensor."""
        return self.num_rows * self.width


def as_rows(name: str, shape: Sequence[int]) -> Rows:
    """How a stored tensor is seen: stacked layers and experts are matrices of their own, the rest is rows of them."""
    stacked = 0
    if _STACKED.search(name) and len(shape) > 1:
        stacked = 2 if _EXPERTS in name and len(shape) > 3 else 1
    own = shape[stacked:]
    rows_per_matrix = math.prod(own[:-1])
    return Rows(math.prod(shape[:stacked]) * rows_per_matrix, shape[-1] if shape else 1, rows_per_matrix)


class Grid:
    """Where a checkpoint keeps the rows of one tensor."""

    def __init__(self, shape: Sequence[int], chunks: Sequence[Chunk]) -> None:
        found = sorted(_segments(shape, chunks))
        # Between two neighbouring bounds every row lies in the same segments.
        self._bounds = sorted({row for segment in found for row in (segment.first_row, segment.end_row)})
        self._bands: list[list[Segment]] = [[] for _ in self._bounds]
        for segment in found:
            first, end = (bisect.bisect_left(self._bounds, row) for row in (segment.first_row, segment.end_row))
            for band in self._bands[first:end]:
                band.append(segment)
        self._last: tuple[Span, tuple[Piece, ...]] | None = None  # most sources share a grid, and ask in turn

    def pieces(self, span: Span) -> tuple[Piece, ...]:
        """Where a block lies, by ascending rows."""
        if self._last is None or self._last[0] != span:
            self._last = (span, tuple(self._find(span)))
        return self._last[1]

    def _find(self, span: Span) -> Iterator[Piece]:
        first = max(0, bisect.bisect_right(self._bounds, span.first_row) - 1)
        end = bisect.bisect_left(self._bounds, span.end_row)
        for segment in dict.fromkeys(itertools.chain.from_iterable(self._bands[first:end])):
            low, high = max(segment.first_row, span.first_row), min(segment.end_row, span.end_row)
            left, right = max(segment.first_column, span.first_column), min(segment.end_column, span.end_column)
            if left >= right:
                continue
            width = segment.end_column - segment.first_column
            yield Piece(
                segment.chunk,
                segment.start + (low - segment.first_row) * width + (left - segment.first_column),
                (high - low) * (right - left),
                slice(low - span.first_row, high - span.first_row),
                slice(left - span.first_column, right - span.first_column),
            )


def _segments(shape: Sequence[int], chunks: Sequence[Chunk]) -> Iterator[Segment]:
    for index, chunk in enumerate(chunks):
        if not shape:
            yield Segment(0, 1, 0, 1, index, 0)
            continue
        width = chunk.sizes[-1]
        columns = (chunk.offsets[-1], chunk.offsets[-1] + width)
        height = chunk.sizes[-2] if len(shape) > 1 else 1
        start = 0
        for outer in itertools.product(*(range(size) for size in chunk.sizes[:-2])):
            row = 0
            for axis, size in enumerate(shape[:-1]):
                row = row * size + chunk.offsets[axis] + (outer[axis] if axis < len(outer) else 0)
            yield Segment(row, row + height, *columns, index, start)
            start += height * width


def spans(first_row: int, end_row: int, width: int, whole_rows: bool) -> Iterator[Span]:
    """Cut rows into blocks of at most BLOCK_ELEMENTS; a longer row is itself cut, unless whole rows are asked for."""
    step = max(1, BLOCK_ELEMENTS // width)
    for row in range(first_row, end_row, step):
        end = min(row + step, end_row)
        if width <= BLOCK_ELEMENTS or whole_rows:
            yield Span(row, end, 0, width)
        else:
            for column in range(0, width, BLOCK_ELEMENTS):
                yield Span(row, end, column, min(column + BLOCK_ELEMENTS, width))


def matrices(name: str, rows: Rows, architecture: Architecture) -> list[Matrix]:
    """The logical matrices of a stored tensor, in order of their first rows.

    Fused q, k and v are interleaved by query group; gate and up are the two halves of `linear_fc1`. A fused bias is one
    vector, and is not split.

    Raises:
        CheckpointError: if the architecture contradicts the tensor's shape, or a fused tensor cannot be split because
            the architecture is not known.
    """
    count = rows.num_rows // rows.rows_per_matrix
    parts = _parts(name, rows.rows_per_matrix, architecture)
    found = []
    for index in range(count):
        label = f"matrix {index}" if count > 1 else ""
        offset = index * rows.rows_per_matrix
        for part, runs in parts:
            text = ", ".join(filter(None, (label, part)))
            found.append(Matrix(text, tuple((offset + first, offset + end) for first, end in runs)))
    return sorted(found, key=lambda matrix: matrix.runs)


def _parts(name: str, num_rows: int, architecture: Architecture) -> list[tuple[str, list[tuple[int, int]]]]:
    whole = [("", [(0, num_rows)])]
    if num_rows == 1:
        return whole
    if name.endswith("linear_qkv.weight"):
        heads, channels = architecture.num_attention_heads, architecture.kv_channels
        if heads is None or channels is None:
            raise _unknown(name, "the number of attention heads and their size")
        groups = architecture.num_query_groups or heads
        queries = heads // groups
        if (queries + 2) * groups * channels != num_rows:
            raise CheckpointError(
                f"{name}: has {num_rows} rows, but {heads} heads of {channels} in {groups} groups make "
                f"{(queries + 2) * groups * channels}; the checkpoint's configuration is of another model"
            )
        sizes = (("q", 0, queries), ("k", queries, 1), ("v", queries + 1, 1))
        period = (queries + 2) * channels
        return [
            (part, [(g * period + first * channels, g * period + (first + n) * channels) for g in range(groups)])
            for part, first, n in sizes
        ]
    if name.endswith("linear_fc1.weight"):
        if architecture.gated_linear_unit is None:
            raise _unknown(name, "whether its MLP is gated")
        if architecture.gated_linear_unit:
            return [("gate", [(0, num_rows // 2)]), ("up", [(num_rows // 2, num_rows)])]
    return whole


def _unknown(name: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"{name}: this method works on q, k, v, gate and up apart, and the checkpoint does not say {what}; bring it "
        "with its context/ (NeMo), its args (Megatron-LM) or run_config.yaml (Bridge), or use method=linear"
    )
