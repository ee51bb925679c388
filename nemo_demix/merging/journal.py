"""What of an interrupted merge is done: one line a unit, with the CRC of every run of bytes it wrote, and of those it
read that are not whole chunks: these the worker has compared with the CRC they were saved with.

A line is only a claim. Before a resumed merge builds on it, the bytes written are read again and compared with it.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from isal.isal_zlib import crc32_combine

Key = tuple[int, int]  # tensor, chunk


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive elements of one chunk."""

    tensor: int
    chunk: int
    start: int
    count: int
    crc: int


@dataclass(frozen=True)
class UnitRecord:
    """A finished unit: the runs written to each output, by name, and of those read from each source what is left to be
    compared with what was saved: parts of chunks, and whole ones that are not as they were saved.
    """

    unit: int
    read: Mapping[str, tuple[Run, ...]]
    written: Mapping[str, tuple[Run, ...]]
    nonfinite: Mapping[str, int]  # "source: tensor" -> count, where NaN or infinity was let through


class Journal:
    """An append-only file of unit records."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        if os.fstat(self._descriptor).st_size:
            os.write(self._descriptor, b"\n")  # a line that was cut off must not swallow the next

    def append(self, record: UnitRecord) -> None:
        """Write one line."""

        def plain(runs: Mapping[str, tuple[Run, ...]]) -> dict[str, list[list[int]]]:
            return {name: [[r.tensor, r.chunk, r.start, r.count, r.crc] for r in some] for name, some in runs.items()}

        value = [record.unit, plain(record.read), plain(record.written), dict(record.nonfinite)]
        line = memoryview(json.dumps(value, separators=(",", ":")).encode() + b"\n")
        while line:  # one call, unless the disk is full
            line = line[os.write(self._descriptor, line) :]

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def read_journals(folder: Path) -> dict[int, UnitRecord]:
    """Return the last record of every unit, of all workers there have been."""
    records: dict[int, UnitRecord] = {}
    for path in sorted(folder.glob("journal-*.jsonl"), key=lambda path: path.stat().st_mtime_ns):
        for line in path.read_bytes().splitlines():
            record = _parse(line)
            if record is not None:
                records[record.unit] = record
    return records


def _parse(line: bytes) -> UnitRecord | None:
    """Read one line; None for a line that was cut off: its unit is done again."""
    try:
        unit, read, written, nonfinite = json.loads(line)
        runs = [{name: tuple(Run(*run) for run in some) for name, some in side.items()} for side in (read, written)]
        return UnitRecord(int(unit), runs[0], runs[1], nonfinite)
    except (ValueError, TypeError, AttributeError):
        return None


def whole_chunks(runs: Iterable[Run], itemsizes: Sequence[int]) -> Iterator[tuple[Key, int, int]]:
    """Yield the CRC of every chunk, from its runs.

    Args:
        itemsizes: Bytes an element, by tensor.
    Yields:
        The chunk, the number of elements found consecutively from its start, and their CRC.
    """
    by_chunk: dict[Key, list[Run]] = {}
    for run in runs:
        by_chunk.setdefault((run.tensor, run.chunk), []).append(run)
    for key, some in by_chunk.items():
        position = crc = 0
        for run in sorted(some, key=lambda run: run.start):
            if run.start != position:
                break
            crc = crc32_combine(crc, run.crc, run.count * itemsizes[run.tensor])
            position += run.count
        yield key, position, crc
