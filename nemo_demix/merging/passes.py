"""The pass before a merge, for methods that must know something of whole matrices; each matrix is one worker's."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from nemo_demix.merging.geometry import Matrix
from nemo_demix.merging.methods.base import Block, Statistics
from nemo_demix.merging.plan import MergePlan, Range
from nemo_demix.merging.statistics import collect
from nemo_demix.merging.stream import SourceBlocks

Key = tuple[int, int]  # tensor, matrix


def matrices_of(plan: MergePlan, worker: int, num_workers: int) -> list[Key]:
    """A worker's matrices: consecutive, and about as many elements as everyone else's."""
    sizes = [
        ((number, index), num_elements(plan, number, matrix))
        for number, tensor in enumerate(plan.tensors)
        if tensor.is_averaged
        for index, matrix in enumerate(tensor.matrices)
    ]
    total = sum(size for _, size in sizes)
    chosen, done = [], 0
    for key, size in sizes:
        if int((done + size / 2) * num_workers / total) == worker:
            chosen.append(key)
        done += size
    return chosen


def num_elements(plan: MergePlan, tensor: int, matrix: Matrix) -> int:
    """Of a logical matrix."""
    return sum(end - first for first, end in matrix.runs) * plan.tensors[tensor].rows.width


def gather(plan: MergePlan, keys: list[Key], path: Path, done: Callable[[int], None]) -> None:
    """Append the statistics of matrices to a file, one line each.

    Raises:
        CheckpointError: if a source is damaged, or holds NaN.
    """
    blocks = SourceBlocks(plan, keep_crcs=False)
    with open(path, "a", encoding="utf-8") as file:
        for key in keys:
            matrix = plan.tensors[key[0]].matrices[key[1]]
            size = num_elements(plan, key[0], matrix)
            found = collect(plan.method, lambda key=key: matrix_blocks(plan, blocks, key), size)  # type: ignore[misc]
            file.write(json.dumps([*key, _plain(found)]) + "\n")
            file.flush()
            done(size)
    blocks.close()


def matrix_blocks(plan: MergePlan, blocks: SourceBlocks, key: Key) -> Iterator[Block]:
    """A logical matrix, block by block; the same blocks for any number of workers and any grid."""
    tensor, matrix = key
    for first, end in plan.tensors[tensor].matrices[matrix].runs:
        part = Range(tensor, matrix, first, end)
        for span in plan.blocks(part):
            block = blocks.block(part, span)
            blocks.check_finite(part, span, block.sources_TRC.flatten(1))
            yield block


def load_statistics(folder: Path) -> dict[Key, Statistics]:
    """What all workers have gathered; a line that was cut off is left out, and its matrix is done again."""
    found = {}
    for path in sorted(folder.glob("statistics-*.jsonl")):
        for line in path.read_bytes().splitlines():
            try:
                tensor, matrix, value = json.loads(line)
                found[tensor, matrix] = _statistics(value)
            except (ValueError, TypeError, KeyError):
                continue
    return found


def _plain(found: Statistics) -> dict[str, object]:
    return {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in vars(found).items()}


def _statistics(value: dict[str, object]) -> Statistics:
    arrays = {
        key: np.array(item, dtype=np.float32 if key == "order_SQ" else np.float64) if isinstance(item, list) else item
        for key, item in value.items()
    }
    return Statistics(**arrays)  # type: ignore[arg-type]


def journal_path(folder: Path, kind: str) -> Path:
    """A file of this process alone: workers of several machines share the folder."""
    return folder / f"{kind}-{os.uname().nodename}-{os.getpid()}-{os.times().elapsed:.0f}.jsonl"
