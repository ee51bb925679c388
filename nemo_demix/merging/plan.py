"""What a merge will do, worked out before a byte of weight is read: which rows, from where, to where, by whom."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from nemo_demix.artifacts import fingerprint
from nemo_demix.checkpoints.blob import frame
from nemo_demix.checkpoints.metadata import Chunk
from nemo_demix.checkpoints.store import StorePath
from nemo_demix.errors import MixtureError
from nemo_demix.merging.geometry import Grid, Matrix, Rows, Span, as_rows, matrices, spans, units
from nemo_demix.merging.methods.base import Array, Method
from nemo_demix.merging.moments import Moments, second_moments
from nemo_demix.merging.sources import Source
from nemo_demix.mixture import is_folder_name

_MIN_UNIT_BYTES = 8 << 20
_MAX_UNIT_BYTES = 512 << 20
_AHEAD_BYTES = 48 << 20  # fetched ahead of a worker from object stores, in all
_AHEAD_OF_A_FILE = (1 << 20, 8 << 20)  # at least and at most
_UNITS = 256  # aimed at; small enough to lose little, large enough to write down little


@dataclass(frozen=True)
class TensorPlan:
    """One tensor of the merge."""

    name: str
    shape: tuple[int, ...]
    dtypes: tuple[torch.dtype, ...]  # by input: one in all sources, and one of all second moments
    out_dtype: torch.dtype
    rows: Rows
    matrices: tuple[Matrix, ...]
    chunks: tuple[tuple[Chunk, ...], ...]  # by input, then the output's own; none of second moments it has not

    @property
    def dtype(self) -> torch.dtype:
        """Its type in every source."""
        return self.dtypes[0]

    @property
    def is_averaged(self) -> bool:
        """Integers are not: they must agree; of an empty tensor there is nothing."""
        return self.dtype.is_floating_point and self.rows.num_elements > 0


class Range(NamedTuple):
    """Rows of one run of one matrix of one tensor."""

    tensor: int
    matrix: int
    first_row: int
    end_row: int


@dataclass(frozen=True)
class Unit:
    """What is done at a time, and written down when it is done."""

    index: int
    ranges: tuple[Range, ...]
    num_elements: int


@dataclass(frozen=True)
class OutputFile:
    """A `.distcp` file of every output: its items in order, each (name, chunk index or None for an object)."""

    name: str
    num_bytes: int
    items: tuple[tuple[str, int | None], ...]


@dataclass(frozen=True, eq=False)
class MergePlan:
    """A merge of K components (and a base) into M mixtures.

    Axes: M mixtures, K components.
    """

    components: tuple[Source, ...]
    base: Source | None
    moments: tuple[Moments, ...]  # of the components in their order, where the method uses them
    method: Method
    mixtures: Mapping[str, Mapping[str, float]]
    tensors: tuple[TensorPlan, ...]
    files: tuple[OutputFile, ...]
    object_offsets: Mapping[str, tuple[str, int]]  # file and place of every byte object of an output
    units: tuple[Unit, ...]
    allow_nonfinite: bool
    objects_from: str | None

    @property
    def sources(self) -> tuple[Source, ...]:
        """The components, then the base where the method uses one."""
        return (*self.components, self.base) if self.base is not None else self.components

    @property
    def inputs(self) -> tuple[Source | Moments, ...]:
        """All that tensors are read from: the sources, then the components' second moments."""
        return (*self.sources, *self.moments)

    @property
    def template(self) -> Source:
        """The component that the outputs take their grid, files and context from."""
        if self.objects_from is not None:
            return next(source for source in self.components if source.name == self.objects_from)
        return self.components[0]

    @cached_property
    def weights_MK(self) -> Array:
        """Merge weights, float64, shape (M, K): mixtures and components in their order."""
        names = [source.name for source in self.components]
        return np.array([[mixture.get(name, 0.0) for name in names] for mixture in self.mixtures.values()])

    @cached_property
    def grids(self) -> tuple[tuple[Grid, ...], ...]:
        """Where rows lie: by tensor, a grid for each input and then the output's. Equal grids are one object."""
        known: dict[object, Grid] = {}

        def grid(tensor: TensorPlan, chunks: tuple[Chunk, ...]) -> Grid:
            key = (tensor.shape, tensor.rows.width, tuple((chunk.offsets, chunk.sizes) for chunk in chunks))
            if key not in known:
                known[key] = Grid(tensor.shape, chunks, tensor.rows.width)
            return known[key]

        return tuple(tuple(grid(tensor, chunks) for chunks in tensor.chunks) for tensor in self.tensors)

    @property
    def num_elements(self) -> int:
        """Elements of one model."""
        return sum(tensor.rows.num_elements for tensor in self.tensors)

    @property
    def source_bytes(self) -> int:
        """Bytes of one source's tensors."""
        return sum(tensor.rows.num_elements * tensor.dtype.itemsize for tensor in self.tensors)

    @property
    def moment_bytes(self) -> int:
        """Bytes of one component's second moments that are read."""
        return sum(
            tensor.rows.num_elements * tensor.dtypes[-1].itemsize
            for tensor in self.tensors
            if self.moments and tensor.chunks[-2]
        )

    @property
    def output_bytes(self) -> int:
        """Bytes of one output's files."""
        return sum(file.num_bytes for file in self.files)

    @cached_property
    def chunk_counts(self) -> tuple[int, ...]:
        """Chunks of each input's tensors, and then of an output's."""
        lists = len(self.inputs) + 1
        return tuple(sum(len(tensor.chunks[index]) for tensor in self.tensors) for index in range(lists))

    @cached_property
    def read_ahead(self) -> tuple[int, int]:
        """Bytes that a worker fetches at a time from a file in an object store, and how many files it has open.

        The parts of one tensor are read side by side, from all inputs; so many files there are. 0 bytes: all sources
        are on this machine, where the kernel reads ahead.
        """
        if not any(isinstance(source.path, StorePath) for source in self.sources):
            return 0, 0
        files = max(
            sum(len({chunk.file for chunk in chunks}) for chunks in tensor.chunks[:-1]) for tensor in self.tensors
        )
        least, most = _AHEAD_OF_A_FILE
        return min(max(_AHEAD_BYTES // max(files, 1), least), most), max(files, 1)

    @cached_property
    def source_fingerprint(self) -> str:
        """Fingerprint of the sources as they lie on disk."""
        return fingerprint(sources={source.name: source.fingerprint for source in self.sources})

    def mixture_fingerprint(self, mixture: str) -> str:
        """Fingerprint of everything that decides the bytes of one output."""
        return fingerprint(
            sources=self.source_fingerprint,
            method=self.method.name,
            parameters=self.method.parameters,
            weights=self.mixtures[mixture],
            dtypes=sorted({str(tensor.out_dtype) for tensor in self.tensors}),
            template=self.template.name,
            # 2: what random methods drop is of no layout; experts are matrices of their own in every layout.
            format=2 if self.method.is_random or self.method.needs_statistics else 1,
        )

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the whole merge."""
        return fingerprint(
            mixtures={name: self.mixture_fingerprint(name) for name in self.mixtures}, units=len(self.units)
        )

    def blocks(self, part: Range) -> Iterator[Span]:
        """Return the blocks of a range."""
        return spans(part.first_row, part.end_row, self.tensors[part.tensor].rows.width, self.method.needs_rows)

    def units_of(self, worker: int, num_workers: int) -> list[Unit]:
        """Return a worker's units: consecutive, and as many elements as everyone else's."""
        sizes = [unit.num_elements for unit in self.units]
        return [self.units[index] for index in consecutive_share(sizes, worker, num_workers)]


def make_plan(
    components: Sequence[Source],
    base: Source | None,
    method: Method,
    mixtures: Mapping[str, Mapping[str, float]],
    *,
    dtype: torch.dtype | None = None,
    objects_from: str | None = None,
    allow_nonfinite: bool = False,
) -> MergePlan:
    """Work out a merge of checkpoints that `compare` has passed.

    Args:
        base: The base, where the method uses one; else None.
        dtype: Type of the outputs' averaged tensors; None: as in the sources.

    Raises:
        CheckpointError: if the checkpoints' configuration does not fit their tensors, or they lack the second moments
            that the method uses.
        MixtureError: if a mixture's name cannot be a folder's.
    """
    for name in mixtures:
        if not is_folder_name(name):
            raise MixtureError(f"a mixture is called {name!r:.80}, which cannot be a folder's name; rename it")
    sources = [*components, base] if base is not None else list(components)
    moments = second_moments(components) if method.uses_moments else ()
    template = next((source for source in components if source.name == objects_from), components[0])
    tensors = []
    for name, entry in template.stored.tensors.items():
        rows = as_rows(name, entry.shape, template.layout.architecture)
        if method.needs_statistics or method.needs_rows:
            logical = matrices(rows, template.layout.architecture)
        else:
            logical = units(rows) if method.is_random else [Matrix(((0, rows.num_rows),))]
        inputs = [*(source.stored.tensors[name] for source in sources), *(one.of(name, entry) for one in moments)]
        dtypes, chunks = tuple(one.dtype for one in inputs), (*(one.chunks for one in inputs), entry.chunks)
        out_dtype = dtype if dtype is not None and entry.dtype.is_floating_point else entry.dtype
        tensors.append(TensorPlan(name, entry.shape, dtypes, out_dtype, rows, tuple(logical), chunks))
    tensors, files, object_offsets = _place(tensors, template)
    return MergePlan(
        components=tuple(components),
        base=base,
        moments=moments,
        method=method,
        mixtures=mixtures,
        tensors=tuple(tensors),
        files=tuple(files),
        object_offsets=object_offsets,
        units=tuple(_units(tensors)),
        allow_nonfinite=allow_nonfinite,
        objects_from=objects_from,
    )


def _place(
    tensors: list[TensorPlan], template: Source
) -> tuple[list[TensorPlan], list[OutputFile], dict[str, tuple[str, int]]]:
    """Give every chunk and object its place in the output's files: the template's, without training state."""
    by_name = {tensor.name: tensor for tensor in tensors}
    old: dict[str, list[tuple[int, str, int | None]]] = {}
    for tensor in tensors:
        for number, chunk in enumerate(tensor.chunks[-1]):
            old.setdefault(chunk.file, []).append((chunk.file_offset, tensor.name, number))
    for name, item in template.stored.objects.items():
        old.setdefault(item.file, []).append((item.file_offset, name, None))
    placed: dict[tuple[str, int], Chunk] = {}
    object_offsets: dict[str, tuple[str, int]] = {}
    files = []
    for file, some in sorted(old.items()):
        offset = 0
        items = [(name, index) for _, name, index in sorted(some, key=lambda item: item[0])]
        for name, index in items:
            if index is None:
                object_offsets[name] = (file, offset)
                offset += template.object_bytes(name)
            else:
                chunk = by_name[name].chunks[-1][index]
                length = frame(chunk.sizes, by_name[name].out_dtype).length
                placed[name, index] = Chunk(chunk.offsets, chunk.sizes, file, offset, length)
                offset += length
        files.append(OutputFile(file, offset, tuple(items)))
    result = []
    for tensor in tensors:
        own = tuple(placed[tensor.name, index] for index in range(len(tensor.chunks[-1])))
        result.append(dataclasses.replace(tensor, chunks=(*tensor.chunks[:-1], own)))
    result.sort(key=lambda tensor: min((chunk.file, chunk.file_offset) for chunk in tensor.chunks[-1]))
    return result, files, object_offsets


def _units(tensors: Sequence[TensorPlan]) -> Iterator[Unit]:
    total = sum(tensor.rows.num_elements * tensor.dtype.itemsize for tensor in tensors)
    aim = min(max(total // _UNITS, _MIN_UNIT_BYTES), _MAX_UNIT_BYTES)
    index, ranges, elements, num_bytes = 0, [], 0, 0
    for number, tensor in enumerate(tensors):
        row_bytes = tensor.rows.width * tensor.dtype.itemsize
        if not row_bytes:
            continue
        runs = sorted((*run, matrix) for matrix, found in enumerate(tensor.matrices) for run in found.runs)
        for row, end, matrix in runs:
            while row < end:
                step = min(end - row, max(1, math.ceil((aim - num_bytes) / row_bytes)))
                ranges.append(Range(number, matrix, row, row + step))
                elements += step * tensor.rows.width
                num_bytes += step * row_bytes
                row += step
                if num_bytes >= aim:
                    yield Unit(index, tuple(ranges), elements)
                    index, ranges, elements, num_bytes = index + 1, [], 0, 0
    if ranges:
        yield Unit(index, tuple(ranges), elements)


def consecutive_share(sizes: Sequence[int], worker: int, num_workers: int) -> Iterator[int]:
    """Yield which items are a worker's: consecutive ones, about as large together as everyone else's."""
    total, done = sum(sizes), 0
    for index, size in enumerate(sizes):
        if int((done + size / 2) * num_workers / total) == worker:
            yield index
        done += size


def output_weights(plan: MergePlan, folder: Path) -> Path:
    """Return the torch_dist folder of an output."""
    return folder / plan.template.layout.weights_relative
