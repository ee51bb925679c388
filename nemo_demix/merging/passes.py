"""The pass before a merge, for methods that must know something of whole matrices; each matrix is one worker's."""

import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from nemo_demix.checkpoints.blob import damaged, find_payload
from nemo_demix.merging.files import OpenFiles
from nemo_demix.merging.geometry import Matrix
from nemo_demix.merging.methods.base import Block, Statistics
from nemo_demix.merging.plan import MergePlan, Range, consecutive_share
from nemo_demix.merging.statistics import collect
from nemo_demix.merging.stream import SourceBlocks, crc_of

Key = tuple[int, int]  # tensor, matrix


def matrices_of(plan: MergePlan, worker: int, num_workers: int) -> list[Key]:
    """Return a worker's matrices: consecutive, and about as many elements as everyone else's."""
    sizes = [
        ((number, index), num_elements(plan, number, matrix))
        for number, tensor in enumerate(plan.tensors)
        if tensor.is_averaged
        for index, matrix in enumerate(tensor.matrices)
    ]
    share = consecutive_share([size for _, size in sizes], worker, num_workers)
    return [sizes[index][0] for index in share]


def num_elements(plan: MergePlan, tensor: int, matrix: Matrix) -> int:
    """Count the elements of a logical matrix."""
    return sum(end - first for first, end in matrix.runs) * plan.tensors[tensor].rows.width


def collect_matrices(plan: MergePlan, keys: Sequence[Key]) -> Iterator[tuple[Key, Statistics]]:
    """Yield the statistics of matrices, one after the other.

    Raises:
        CheckpointError: if a source is damaged, or holds NaN.
    """
    blocks = SourceBlocks(plan, keep_crcs=False)
    for key in keys:
        size = num_elements(plan, key[0], plan.tensors[key[0]].matrices[key[1]])
        yield key, collect(plan.method, functools.partial(matrix_blocks, plan, blocks, key), size)
    blocks.close()


def gather(plan: MergePlan, keys: Sequence[Key], path: Path, done: Callable[[int], None]) -> None:
    """Append the statistics of matrices to a file, one line each."""
    with open(path, "a", encoding="utf-8") as file:
        for key, found in collect_matrices(plan, keys):
            file.write(json.dumps([*key, _plain(found)]) + "\n")
            file.flush()
            done(found.num_elements)


def check_payloads(plan: MergePlan, worker: int, num_workers: int) -> None:
    """Compare a worker's share of the inputs' payloads with the CRCs they were saved with.

    Raises:
        CheckpointError: naming the first that differs.
    """
    files = OpenFiles()
    chunks = [
        (source, tensor, tensor.dtypes[index], chunk)
        for index, source in enumerate(plan.inputs)
        for tensor in plan.tensors
        for chunk in tensor.chunks[index]
    ]
    for source, tensor, dtype, chunk in chunks[worker::num_workers]:
        path = source.layout.weights / chunk.file
        payload = find_payload(files[str(path)], path, tensor.name, chunk, dtype)
        crc = crc_of(files[str(path)], payload.offset, payload.num_bytes)
        if crc != payload.crc:
            raise damaged(path, tensor.name, chunk, crc, payload.crc)
    files.close()


def matrix_blocks(plan: MergePlan, blocks: SourceBlocks, key: Key) -> Iterator[Block]:
    """Yield a logical matrix, block by block; the same blocks for any number of workers and any grid."""
    tensor, matrix = key
    for first, end in plan.tensors[tensor].matrices[matrix].runs:
        part = Range(tensor, matrix, first, end)
        for span in plan.blocks(part):
            block = blocks.block(part, span)
            blocks.check_finite(part, span, block.sources_TRC.flatten(1))
            yield block


def load_statistics(folder: Path) -> dict[Key, Statistics]:
    """Return what all workers have gathered; a line that was cut off is left out, and its matrix is done again."""
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
    """Return a file of this process alone: workers of several machines share the folder."""
    return folder / f"{kind}-{os.uname().nodename}-{os.getpid()}-{os.times().elapsed:.0f}.jsonl"
