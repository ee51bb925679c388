"""Tensors as rows: where a checkpoint keeps which rows, and which rows make up one logical matrix.

A stored tensor of shape (..., R, C) is seen as rows of width C: all axes but the last, flattened. Whatever grid of
chunks a checkpoint was saved in, consecutive whole rows are one run of bytes in every chunk that holds a part of them;
so any two grids can be read and written through the same blocks of rows, each byte once and in order.

Megatron stores one model in several ways: layers stacked on axis 0 or by number, experts stacked on the next axis or by
number, the halves of a gated MLP in one tensor or in two. `Rows.unit` names what they have in common.
"""

import bisect
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nemo_demix.checkpoints.architecture import Architecture
from nemo_demix.checkpoints.metadata import Chunk
from nemo_demix.errors import CheckpointError

BLOCK_ELEMENTS = 131_072  # of each source at a time: what is summed stays in a core's own cache
_LAYERS = re.compile(r"\.layers\.(?!\d)")  # stacked layers have no number in the name, nor do stacked experts
_EXPERTS = re.compile(r"\.experts\.experts\.(?!\d)")
_HALF = re.compile(r"(linear_fc1\.(?:weight|bias))_([wv])")  # the halves of a gated MLP, stored apart: gate, up


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

    runs: tuple[tuple[int, int], ...]  # rows [first, end), ascending


@dataclass(frozen=True)
class Rows:
    """A tensor as rows."""

    name: str
    stacked: tuple[int, ...]  # how many layers, and experts, the tensor holds
    rows_per_unit: int  # of one layer (and expert); 1 for vectors
    width: int

    @property
    def num_rows(self) -> int:
        """Rows of the whole tensor."""
        return math.prod(self.stacked) * self.rows_per_unit

    @property
    def num_elements(self) -> int:
        """Elements of the whole tensor."""
        return self.num_rows * self.width

    def unit(self, row: int, column: int) -> tuple[str, int]:
        """Return which layer's (and expert's) tensor an element is in, and its index there, however the model is
        stored.
        """
        index, row = divmod(row, self.rows_per_unit)
        name, place = self.name, row * self.width + column
        while name.startswith("module."):  # NeMo's alone
            name = name.removeprefix("module.")
        if half := _HALF.search(name):
            name = name.removesuffix(half[0]) + half[1]
            place += self.rows_per_unit * self.width if half[2] == "v" else 0
        numbers = [int(number) for number in np.unravel_index(index, self.stacked)] if self.stacked else []
        for pattern in (_LAYERS, _EXPERTS):
            if numbers and (found := pattern.search(name)):
                name = f"{name[: found.end()]}{numbers.pop(0)}.{name[found.end() :]}"
        return name, place


def as_rows(name: str, shape: Sequence[int], architecture: Architecture) -> Rows:
    """Return how a stored tensor is seen: stacked layers and experts are units of their own, the rest is rows of them.

    The fused bias of a gated MLP is two rows, as its weight is two matrices.
    """
    num_stacked = min(bool(_LAYERS.search(name)) + bool(_EXPERTS.search(name)), len(shape))
    own = shape[num_stacked:]
    rows, width = math.prod(own[:-1]), own[-1] if own else 1
    if name.endswith("linear_fc1.bias") and architecture.gated_linear_unit and width % 2 == 0:
        rows, width = 2, width // 2
    return Rows(name, tuple(shape[:num_stacked]), rows, width)


class Grid:
    """Where a checkpoint keeps the rows of one tensor.

    Args:
        width: Elements of a row: the last axis of the shape, or what divides it.
    """

    def __init__(self, shape: Sequence[int], chunks: Sequence[Chunk], width: int) -> None:
        found = sorted(_segments(shape, chunks, width))
        # Between two neighbouring bounds every row lies in the same segments.
        self._bounds = sorted({row for segment in found for row in (segment.first_row, segment.end_row)})
        self._bands: list[list[Segment]] = [[] for _ in self._bounds]
        for segment in found:
            first, end = (bisect.bisect_left(self._bounds, row) for row in (segment.first_row, segment.end_row))
            for band in self._bands[first:end]:
                band.append(segment)
        self._last: tuple[Span, tuple[Piece, ...]] | None = None  # most sources share a grid, and ask in turn

    def pieces(self, span: Span) -> tuple[Piece, ...]:
        """Return where a block lies, by ascending rows."""
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


def _segments(shape: Sequence[int], chunks: Sequence[Chunk], width: int) -> Iterator[Segment]:
    cuts = shape[-1] // width if shape and width else 1  # rows that the last axis is
    for index, chunk in enumerate(chunks):
        if 0 in chunk.sizes:
            continue
        if not shape:
            yield Segment(0, 1, 0, 1, index, 0)
            continue
        left, length = chunk.offsets[-1], chunk.sizes[-1]
        height = chunk.sizes[-2] if len(shape) > 1 and cuts == 1 else 1
        start = 0
        for outer in itertools.product(*(range(size) for size in chunk.sizes[: -2 if height > 1 else -1])):
            row = 0
            for axis, size in enumerate(shape[:-1]):
                row = row * size + chunk.offsets[axis] + (outer[axis] if axis < len(outer) else 0)
            if cuts == 1:
                yield Segment(row, row + height, left, left + length, index, start)
            else:
                for cut in range(left // width, -(-(left + length) // width)):
                    low, high = max(left, cut * width), min(left + length, (cut + 1) * width)
                    own = row * cuts + cut
                    yield Segment(own, own + 1, low - cut * width, high - cut * width, index, start + low - left)
            start += height * length


def spans(first_row: int, end_row: int, width: int, whole_rows: bool) -> Iterator[Span]:
    """Cut rows into blocks of at most BLOCK_ELEMENTS; a longer row is itself cut, unless whole rows are asked for."""
    step = max(1, BLOCK_ELEMENTS // max(1, width))
    for row in range(first_row, end_row, step):
        end = min(row + step, end_row)
        if width <= BLOCK_ELEMENTS or whole_rows:
            yield Span(row, end, 0, width)
        else:
            for column in range(0, width, BLOCK_ELEMENTS):
                yield Span(row, end, column, min(column + BLOCK_ELEMENTS, width))


def units(rows: Rows) -> list[Matrix]:
    """Give each stored layer (and expert) of a tensor a matrix of its own."""
    count, step = math.prod(rows.stacked), rows.rows_per_unit
    return [Matrix(((index * step, (index + 1) * step),)) for index in range(count)]


def matrices(rows: Rows, architecture: Architecture) -> list[Matrix]:
    """Return the logical matrices of a stored tensor, in order of their first rows.

    Fused q, k and v are interleaved by query group; gate and up are the two halves of `linear_fc1`. A fused bias of q,
    k and v is one vector, and is not split.

    Raises:
        CheckpointError: if the architecture contradicts the tensor's shape, or a fused tensor cannot be split because
            the architecture is not known.
    """
    if _EXPERTS.search(rows.name) and architecture.num_experts not in (None, rows.stacked[-1]):
        raise CheckpointError(
            f"{rows.name}: holds {rows.stacked[-1]} experts, but the checkpoint's configuration says "
            f"{architecture.num_experts}; it is of another model"
        )
    parts = _parts(rows, architecture)
    found = []
    for index in range(math.prod(rows.stacked)):
        offset = index * rows.rows_per_unit
        found += [Matrix(tuple((offset + first, offset + end) for first, end in runs)) for runs in parts]
    return sorted(found, key=lambda matrix: matrix.runs)


def _parts(rows: Rows, architecture: Architecture) -> list[list[tuple[int, int]]]:
    """Return the rows of each matrix of one layer (and expert)."""
    name, num_rows = rows.name, rows.rows_per_unit
    if name.endswith("linear_fc1.bias"):
        return [[(row, row + 1)] for row in range(num_rows)]
    if num_rows == 1:
        return [[(0, 1)]]
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
        period = (queries + 2) * channels
        return [
            [(g * period + first * channels, g * period + (first + n) * channels) for g in range(groups)]
            for first, n in ((0, queries), (queries, 1), (queries + 1, 1))
        ]
    if name.endswith("linear_fc1.weight"):
        if architecture.gated_linear_unit is None:
            raise _unknown(name, "whether its MLP is gated")
        if architecture.gated_linear_unit:
            return [[(0, num_rows // 2)], [(num_rows // 2, num_rows)]]
    return [[(0, num_rows)]]


def _unknown(name: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"{name}: this method works on q, k, v, gate and up apart, and the checkpoint does not say {what}; bring it "
        "with its context/ (NeMo), its args (Megatron-LM) or run_config.yaml (Bridge), or use method=linear"
    )
