"""One worker of a merge: read, sum, cast, write, a block of rows at a time, all mixtures from one read.

Memory: a few blocks, whatever the size of the model.
Axes: M mixtures, K components, T inputs (components, then the base, then second moments), N elements of a
block.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from isal.isal_zlib import crc32

from nemo_demix.artifacts import sync
from nemo_demix.checkpoints.blob import Payload, find_payload, frame
from nemo_demix.checkpoints.files import File, read_into
from nemo_demix.errors import CheckpointError
from nemo_demix.merging.files import EarlyWriteback, OpenFiles
from nemo_demix.merging.geometry import BLOCK_ELEMENTS, Span
from nemo_demix.merging.journal import Journal, Run, UnitRecord
from nemo_demix.merging.kernel import Coefficients, all_within, padded, put
from nemo_demix.merging.methods.base import Block, BlockMethod, LinearMethod, Statistics
from nemo_demix.merging.plan import MergePlan, Range, Unit, output_weights

MIXTURES_AT_ONCE = 16  # more do not make a sum cheaper
OUTPUT = "-> "  # before a mixture's name, where it and no source is not finite


class SourceBlocks:
    """Reads blocks of every input, keeps the CRC of what it read, and refuses NaN and infinity."""

    def __init__(self, plan: MergePlan, keep_crcs: bool = True) -> None:
        self._plan = plan
        self._keep_crcs = keep_crcs
        ahead, most = plan.read_ahead
        self._files = OpenFiles(ahead=ahead, most=most) if ahead else OpenFiles()
        self._places: dict[tuple[int, int, int], tuple[str, Payload]] = {}
        self._paths: dict[tuple[int, str], Path] = {}
        widest = max(tensor.rows.width for tensor in plan.tensors)
        self.capacity = padded(max(BLOCK_ELEMENTS, widest) if plan.method.needs_rows else BLOCK_ELEMENTS)
        self._raw_TB = np.zeros((len(plan.inputs), self.capacity * 4), dtype=np.uint8)
        self._part = np.zeros(self.capacity * 4, dtype=np.uint8)
        typed_TN = torch.from_numpy(self._raw_TB)
        dtypes = {dtype for tensor in plan.tensors for dtype in tensor.dtypes}
        self._typed = {dtype: typed_TN.view(dtype) for dtype in dtypes}
        self._values_TN = torch.zeros(len(plan.inputs), self.capacity)
        self._runs: list[dict[tuple[int, int], list[int]]] = [{} for _ in plan.inputs]
        self.bytes_read = 0

    def forget(self) -> None:
        """Begin anew: what was read so far, and where it lies, is kept no longer."""
        self._places.clear()
        for runs in self._runs:
            runs.clear()

    def unchecked_runs(self) -> dict[str, tuple[Run, ...]]:
        """Return the runs that were read, by input, but for whole chunks that are as they were saved."""
        return {
            source.name: as_runs({key: run for key, run in runs.items() if not self._is_as_saved(index, key, run)})
            for index, (source, runs) in enumerate(zip(self._plan.inputs, self._runs, strict=True))
        }

    def _is_as_saved(self, source: int, key: tuple[int, int], run: Sequence[int]) -> bool:
        _, count, crc = run
        _, payload = self._places[source, *key]
        return count * self._plan.tensors[key[0]].dtypes[source].itemsize == payload.num_bytes and crc == payload.crc

    def _place(self, source: int, tensor: int, chunk: int) -> tuple[str, Payload]:
        """Find the file and the payload of a chunk; its archive is checked the first time."""
        key = (source, tensor, chunk)
        if key not in self._places:
            found = self._plan.tensors[tensor]
            place = found.chunks[source][chunk]
            if (source, place.file) not in self._paths:
                self._paths[source, place.file] = self._plan.inputs[source].layout.weights / place.file
            path = self._paths[source, place.file]
            payload = find_payload(self._files[str(path)], path, found.name, place, found.dtypes[source])
            self._places[key] = (str(path), payload)
        return self._places[key]

    def read(self, part: Range, span: Span) -> np.ndarray:
        """Read a block of every input; what has no chunks is 0.

        Returns:
            The sources' bytes as stored, uint8, shape (sources, elements x item size); overwritten by the next call.
        """
        plan = self._plan
        tensor = plan.tensors[part.tensor]
        height, width = span.end_row - span.first_row, span.end_column - span.first_column
        for index, (grid, dtype) in enumerate(zip(plan.grids[part.tensor][:-1], tensor.dtypes, strict=True)):
            item = dtype.itemsize
            row = self._raw_TB[index, : height * width * item]
            if not tensor.chunks[index]:
                row.fill(0)
            for piece in grid.pieces(span):
                path, payload = self._place(index, part.tensor, piece.chunk)
                size = piece.size * item
                whole_width = piece.columns == slice(0, width)
                target = row[piece.rows.start * width * item :][:size] if whole_width else self._part[:size]
                until = payload.offset + payload.num_bytes
                read_into(self._files[path], target.data, payload.offset + piece.start * item, until)
                if self._keep_crcs:
                    add_run(self._runs[index], (part.tensor, piece.chunk), piece.start, piece.size, target.data)
                self.bytes_read += size
                if not whole_width:
                    columns = slice(piece.columns.start * item, piece.columns.stop * item)
                    into = row.reshape(height, width * item)[piece.rows, columns]
                    into[...] = target.reshape(into.shape)
        return self._raw_TB[: len(plan.sources), : height * width * tensor.dtype.itemsize]

    def values(self, part: Range, span: Span) -> torch.Tensor:
        """Return a block in fp32, shape (T, N), N padded with what was there before; overwritten by the next call."""
        self.read(part, span)
        dtypes, first = self._plan.tensors[part.tensor].dtypes, len(self._plan.sources)
        num_elements = (span.end_row - span.first_row) * (span.end_column - span.first_column)
        self._values_TN[:first, :num_elements].copy_(self._typed[dtypes[0]][:first, :num_elements])
        if self._plan.moments:
            self._values_TN[first:, :num_elements].copy_(self._typed[dtypes[-1]][first:, :num_elements])
        return self._values_TN[:, : padded(num_elements)]

    def block(self, part: Range, span: Span) -> Block:
        """Return a block as methods take it."""
        height, width = span.end_row - span.first_row, span.end_column - span.first_column
        tensor = self._plan.tensors[part.tensor]
        values_TN = self.values(part, span)[:, : height * width]
        unit, first_index = tensor.rows.unit(span.first_row, span.first_column)
        return Block(
            sources_TRC=values_TN.unflatten(1, (height, width)),
            components=tuple(source.name for source in self._plan.components),
            tensor=tensor.name,
            unit=unit,
            first_index=first_index,
        )

    def check_finite(self, part: Range, span: Span, values_TN: torch.Tensor) -> dict[str, int]:
        """Do what `nonfinite` does, at the price of one sum where all is well; values of shape (T, N)."""
        # A sum of finite values can overflow, so it only says where to look.
        return {} if torch.isfinite(values_TN.sum()) else self.nonfinite(part, span, values_TN)

    def nonfinite(self, part: Range, span: Span, values_TN: torch.Tensor) -> dict[str, int]:
        """Count the NaN and infinities that each source has in a block, values of shape (T, N).

        Raises:
            CheckpointError: if any, unless the plan lets them through.
        """
        height, width = span.end_row - span.first_row, span.end_column - span.first_column
        name = self._plan.tensors[part.tensor].name
        found = {}
        for source, values_N in zip(self._plan.inputs, values_TN, strict=True):
            count = int((~values_N[: height * width].isfinite()).sum())
            if count and not self._plan.allow_nonfinite:
                instead = "merge from another base" if source is self._plan.base else "leave the component out"
                raise CheckpointError(
                    f"{source.path}: {name} has {count} values that are NaN or infinite in rows {span.first_row} to "
                    f"{span.end_row - 1}; {instead}, or merge.allow_nonfinite=true"
                )
            if count:
                found[f"{source.name}: {name}"] = count
        return found

    def close(self) -> None:
        """Close the files."""
        self._files.close()


class Worker:
    """Does units: reads the sources' blocks, writes those of the outputs into folders that exist."""

    def __init__(
        self,
        plan: MergePlan,
        statistics: Mapping[tuple[int, int], Statistics],
        folders: Mapping[str, Path],
        journal: Journal,
    ) -> None:
        self._plan = plan
        self._statistics = statistics
        self._weights = {name: output_weights(plan, folder) for name, folder in folders.items()}
        self._journal = journal
        self._sources = SourceBlocks(plan)
        self._outputs = OpenFiles(write=True)
        self._writeback = EarlyWriteback(plan.output_bytes * len(folders))
        self._touched: set[str] = set()
        self._cast = {
            dtype: torch.zeros(self._sources.capacity, dtype=dtype)
            for dtype in {tensor.out_dtype for tensor in plan.tensors if tensor.is_averaged}
        }
        self._coefficients: dict[tuple[int, int], list[Coefficients]] = {}  # of the tensor that is being merged
        self._places: dict[tuple[int, int], tuple[str, int]] = {}

    @property
    def bytes_read(self) -> int:
        """Bytes of the sources' weights that were read so far."""
        return self._sources.bytes_read

    def run(self, units: Sequence[Unit], claimed: Mapping[int, UnitRecord], done: Callable[[Unit], None]) -> None:
        """Do units; a claimed one only where what it wrote is not there.

        Raises:
            CheckpointError: if a source is damaged or holds NaN.
        """
        for unit in units:
            if unit.index not in claimed or not self._is_written(claimed[unit.index]):
                self._do(unit)
            done(unit)
        self._writeback.close()
        for path in sorted(self._touched):
            sync(Path(path))
        self._sources.close()
        self._outputs.close()
        self._journal.close()

    def _do(self, unit: Unit) -> None:
        plan = self._plan
        self._sources.forget()
        written: dict[str, dict[tuple[int, int], list[int]]] = {name: {} for name in self._weights}
        nonfinite: dict[str, int] = {}
        paths: set[str] = set()
        for part in unit.ranges:
            for span in plan.blocks(part):
                if not plan.tensors[part.tensor].is_averaged:
                    self._agree(part, span, written, paths)
                    continue
                for key, count in self._merge(part, span, written, paths).items():
                    nonfinite[key] = nonfinite.get(key, 0) + count
        wrote = {name: as_runs(runs) for name, runs in written.items()}
        self._journal.append(UnitRecord(unit.index, self._sources.unchecked_runs(), wrote, nonfinite))
        self._touched |= paths
        for path in paths:
            self._writeback.begin(path)

    def _agree(
        self, part: Range, span: Span, written: dict[str, dict[tuple[int, int], list[int]]], paths: set[str]
    ) -> None:
        """Copy integers from the template; where none was named, all components have to agree."""
        plan = self._plan
        raw_TB = self._sources.read(part, span)
        names = [source.name for source in plan.sources]
        if plan.objects_from is None:
            for name, raw_B in zip(names, raw_TB, strict=True):
                if not np.array_equal(raw_B, raw_TB[0]):
                    raise CheckpointError(
                        f"{plan.tensors[part.tensor].name}: integers are not averaged, and {names[0]} and {name} "
                        "differ in them; name the component to take them from: merge.objects_from="
                    )
        chosen = raw_TB[names.index(plan.template.name)]
        for mixture in self._weights:
            self._write(mixture, part, span, chosen, written, paths)

    def _merge(
        self, part: Range, span: Span, written: dict[str, dict[tuple[int, int], list[int]]], paths: set[str]
    ) -> dict[str, int]:
        method, plan = self._plan.method, self._plan
        names = list(self._weights)
        found: dict[str, int] = {}  # in sources, whose outputs are then not finite either
        overflown: dict[str, int] = {}
        dtype = plan.tensors[part.tensor].out_dtype
        statistics = self._statistics.get((part.tensor, part.matrix))
        if isinstance(method, LinearMethod):
            values_TN = self._sources.values(part, span)
            found = self._sources.check_finite(part, span, values_TN)
            first = 0
            for some in self._coefficients_of(method, part):
                merged_MPD = some.apply(values_TN)
                is_within = bool(all_within(merged_MPD, dtype))
                for name, merged_PD in zip(names[first : first + some.num_mixtures], merged_MPD, strict=True):
                    rounded_N = self._put(name, part, span, merged_PD, written, paths)
                    overflown |= {} if is_within else self._overflown(name, part, rounded_N)
                first += some.num_mixtures
            return found or overflown
        assert isinstance(method, BlockMethod)
        block = self._sources.block(part, span)
        found = self._sources.check_finite(part, span, block.sources_TRC.flatten(1))
        prepared_TRC = method.prepare(block, statistics)
        for index, name in enumerate(names):
            weights_MK = plan.weights_MK[index : index + 1]
            (merged_RC,) = method.mix(prepared_TRC, weights_MK, statistics)
            rounded_N = self._put(name, part, span, merged_RC, written, paths)
            overflown |= {} if all_within(merged_RC, dtype) else self._overflown(name, part, rounded_N)
        return found or overflown

    def _coefficients_of(self, method: LinearMethod, part: Range) -> list[Coefficients]:
        """Give the coefficients of some mixtures at a time; they are worked out once a matrix."""
        key = (part.tensor, part.matrix) if method.needs_statistics else (0, 0)
        if key not in self._coefficients:
            if any(tensor != part.tensor for tensor, _ in self._coefficients):
                self._coefficients.clear()
            values_MT = method.coefficients(self._plan.weights_MK, self._statistics.get(key))
            self._coefficients[key] = [
                Coefficients(values_MT[first : first + MIXTURES_AT_ONCE])
                for first in range(0, len(values_MT), MIXTURES_AT_ONCE)
            ]
        return self._coefficients[key]

    def _put(
        self,
        mixture: str,
        part: Range,
        span: Span,
        merged_PD: torch.Tensor,
        written: dict[str, dict[tuple[int, int], list[int]]],
        paths: set[str],
    ) -> torch.Tensor:
        """Round to the output's dtype and write; returns what was written, shape (N,), until the next call."""
        tensor = self._plan.tensors[part.tensor]
        num_elements = (span.end_row - span.first_row) * (span.end_column - span.first_column)
        rounded_N = self._cast[tensor.out_dtype][:num_elements]
        put(merged_PD, rounded_N)
        self._write(mixture, part, span, rounded_N.view(torch.uint8).numpy(), written, paths)
        return rounded_N

    def _overflown(self, mixture: str, part: Range, rounded_N: torch.Tensor) -> dict[str, int]:
        """Count the values that are NaN or infinite once they are rounded.

        Raises:
            CheckpointError: if there are any, unless the plan lets them through: a sum, or the dtype, has overflown.
        """
        tensor = self._plan.tensors[part.tensor]
        count = int((~rounded_N.isfinite()).sum())
        if count and not self._plan.allow_nonfinite:
            kind = str(tensor.out_dtype).removeprefix("torch.")
            largest = torch.finfo(tensor.out_dtype).max
            raise CheckpointError(
                f"{mixture}: {count} values of {tensor.name} are NaN or infinite once they are summed and rounded "
                f"to {kind}, though they are finite in the sources: {kind} ends at {largest:g}; set merge.dtype to a "
                "wider one (bf16, fp32), or merge.allow_nonfinite=true"
            )
        return {f"{OUTPUT}{mixture}: {tensor.name}": count} if count else {}

    def _write(
        self,
        mixture: str,
        part: Range,
        span: Span,
        merged_B: np.ndarray,
        written: dict[str, dict[tuple[int, int], list[int]]],
        paths: set[str],
    ) -> None:
        plan = self._plan
        tensor = plan.tensors[part.tensor]
        item = tensor.out_dtype.itemsize
        height, width = span.end_row - span.first_row, span.end_column - span.first_column
        for piece in plan.grids[part.tensor][-1].pieces(span):
            if piece.columns == slice(0, width):
                data = merged_B[piece.rows.start * width * item :][: piece.size * item]
            else:
                columns = slice(piece.columns.start * item, piece.columns.stop * item)
                data = np.ascontiguousarray(merged_B.reshape(height, width * item)[piece.rows, columns]).reshape(-1)
            file, offset = self._place(part.tensor, piece.chunk)
            path = f"{self._weights[mixture]}/{file}"
            self._outputs.write(path, data.data, offset + piece.start * item)
            paths.add(path)
            add_run(written[mixture], (part.tensor, piece.chunk), piece.start, piece.size, data.data)

    def _place(self, tensor: int, chunk: int) -> tuple[str, int]:
        """Find the file of an output, and the byte, at which a chunk's elements begin."""
        key = (tensor, chunk)
        if key not in self._places:
            place = self._plan.tensors[tensor].chunks[-1][chunk]
            head = frame(place.sizes, self._plan.tensors[tensor].out_dtype).head
            self._places[key] = (place.file, place.file_offset + len(head))
        return self._places[key]

    def _is_written(self, record: UnitRecord) -> bool:
        """Return whether the bytes that a record claims are in every output."""
        if not set(self._weights) <= set(record.written):  # what is published already is written no more
            return False
        for mixture in self._weights:
            for run in record.written[mixture]:
                tensor = self._plan.tensors[run.tensor]
                item = tensor.out_dtype.itemsize
                file, offset = self._place(run.tensor, run.chunk)
                path = f"{self._weights[mixture]}/{file}"
                if crc_of(self._outputs[path], offset + run.start * item, run.count * item) != run.crc:
                    return False
                self._touched.add(path)
        return True


def add_run(
    runs: dict[tuple[int, int], list[int]], key: tuple[int, int], start: int, count: int, data: memoryview
) -> None:
    """Lengthen a chunk's last run by consecutive bytes, or begin another."""
    run = runs.get(key)
    if run is None:
        runs[key] = [start, count, crc32(data)]
        return
    assert run[0] + run[1] == start, "the blocks of a unit come in the order of their rows"
    run[1] += count
    run[2] = crc32(data, run[2])


def as_runs(runs: Mapping[tuple[int, int], Sequence[int]]) -> tuple[Run, ...]:
    """Turn runs of written bytes into what the journal keeps."""
    return tuple(Run(tensor, chunk, start, count, crc) for (tensor, chunk), (start, count, crc) in runs.items())


def crc_of(file: File, offset: int, num_bytes: int) -> int | None:
    """Return the CRC of a part of a file; None where the file ends before."""
    crc, buffer = 0, bytearray(min(num_bytes, file.piece))
    while num_bytes:
        size = file.read_some(memoryview(buffer)[: min(num_bytes, len(buffer))], offset)
        if size == 0:
            return None
        crc = crc32(memoryview(buffer)[:size], crc)
        offset, num_bytes = offset + size, num_bytes - size
    return crc
