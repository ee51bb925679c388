"""What a checkpoint holds, from its metadata and its small files: no tensor is read."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nemo_demix.artifacts import parse_json
from nemo_demix.checkpoints.architecture import Architecture
from nemo_demix.checkpoints.files import read_file, sizes_below
from nemo_demix.checkpoints.layouts import Layout, detect
from nemo_demix.checkpoints.metadata import (
    TensorEntry,
    is_common_state,
    is_training_state,
    read_metadata,
    weight_of_moments,
)
from nemo_demix.checkpoints.store import one_look


@dataclass(frozen=True)
class TensorSummary:
    """One tensor as stored."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    grid: tuple[int, ...]  # chunks along each axis
    num_bytes: int  # of its elements


@dataclass(frozen=True)
class CheckpointSummary:
    """A checkpoint as `nemo-demix merge inspect` shows it; JSON through `as_json`."""

    kind: str
    root: str
    weights: str
    architecture: Architecture
    tensors: tuple[TensorSummary, ...]  # of the model, by name
    num_objects: int  # byte objects of the model: extra states of its layers
    num_training_tensors: int  # optimizer and its like, which a merge leaves out
    num_training_objects: int
    training_bytes: int
    has_optimizer_state: bool
    num_second_moments: int  # weights whose second moments are stored by name: all that merge.method=fisher can use
    files: dict[str, int]  # bytes, by path relative to the root
    merge: dict[str, Any] | None  # how it was merged, if it was

    @property
    def model_bytes(self) -> int:
        """Bytes of the model's elements."""
        return sum(tensor.num_bytes for tensor in self.tensors)

    @property
    def num_parameters(self) -> int:
        """Elements of the model's tensors; tied embeddings are stored, and counted, once."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())

    def as_json(self) -> dict[str, Any]:
        """Turn it into plain values, sums included."""
        sums = {"model_bytes": self.model_bytes, "num_parameters": self.num_parameters, "total_bytes": self.total_bytes}
        return {**asdict(self), **sums}


@one_look()
def describe(path: Path) -> CheckpointSummary:
    """Return what the checkpoint at `path` holds.

    Raises:
        CheckpointError: if there is none, or it is not read; see `detect`.
    """
    layout = detect(path)
    stored = read_metadata(layout.weights)
    tensors = tuple(_summary(name, stored.tensors[name]) for name in sorted(stored.tensors))
    training = [tensor for tensor in tensors if is_training_state(tensor.name)]
    training_objects = [name for name in stored.objects if is_training_state(name)]
    return CheckpointSummary(
        kind=layout.kind,
        root=str(layout.root),
        weights=str(layout.weights),
        architecture=layout.architecture,
        tensors=tuple(tensor for tensor in tensors if not is_training_state(tensor.name)),
        num_objects=len([name for name in stored.objects if not is_training_state(name) and not is_common_state(name)]),
        num_training_tensors=len(training),
        num_training_objects=len(training_objects),
        training_bytes=sum(tensor.num_bytes for tensor in training),
        has_optimizer_state=bool(training),
        num_second_moments=sum(weight_of_moments(name) in stored.tensors for name in stored.tensors),
        files=_files(layout),
        merge=_merge_record(layout),
    )


def print_summary(summary: CheckpointSummary) -> None:
    """Print the summary as tables on standard output."""
    console = Console(width=118)
    console.print(f"[bold]{summary.kind}[/bold] {escape(summary.root)}", highlight=False)
    known = {name: value for name, value in asdict(summary.architecture).items() if value is not None}
    console.print(_pairs("Architecture", known.items()) if known else "Architecture: the checkpoint does not say")
    console.print(_tensor_table(summary))
    if summary.num_objects:
        console.print(f"{summary.num_objects} byte objects of the model (extra states).")
    if summary.num_training_tensors or summary.num_training_objects:
        console.print(
            f"Training state, which a merge leaves out: {summary.num_training_tensors} tensors "
            f"({_size(summary.training_bytes)}), {summary.num_training_objects} byte objects."
        )
    if summary.has_optimizer_state:
        found = summary.num_second_moments or "none"
        console.print(f"Second moments by a weight's name, which merge.method=fisher uses: {found}.", highlight=False)
    console.print(_pairs("Files", ((name, _size(size)) for name, size in sorted(summary.files.items()))))
    if summary.merge is not None:
        console.print(_pairs("Merged from (merge.json)", summary.merge.items()))
    console.print(
        f"{summary.num_parameters:,} parameters in {len(summary.tensors)} tensors, {_size(summary.model_bytes)}; "
        f"{_size(summary.total_bytes)} on disk, {'with' if summary.has_optimizer_state else 'without'} optimizer state."
    )


def _summary(name: str, entry: TensorEntry) -> TensorSummary:
    return TensorSummary(
        name=name,
        shape=entry.shape,
        dtype=str(entry.dtype_name),
        grid=tuple(len({chunk.offsets[axis] for chunk in entry.chunks}) for axis in range(len(entry.shape))),
        num_bytes=math.prod(entry.shape) * entry.dtype_name.itemsize,
    )


def _files(layout: Layout) -> dict[str, int]:
    """Return the files of this checkpoint alone: other iterations of the same run stand beside it."""
    found = {layout.weights_relative / path: size for path, size in sizes_below(layout.weights).items()}
    found |= {path: (layout.root / path).stat().st_size for path in layout.companions if path not in found}
    return {str(path): found[path] for path in sorted(found)}


def _merge_record(layout: Layout) -> dict[str, Any] | None:
    for folder in (layout.root, layout.weights):
        if (folder / "merge.json").is_file():
            found = parse_json(read_file(folder, folder / "merge.json"), folder / "merge.json")
            return found if isinstance(found, dict) else {"found": found}
    return None


def _tensor_table(summary: CheckpointSummary) -> Table:
    table = Table(title="Tensors", title_justify="left")
    for heading in ("tensor", "shape", "dtype", "chunks", "size"):
        table.add_column(heading, justify="left" if heading in ("tensor", "dtype") else "right", overflow="fold")
    for tensor in summary.tensors:
        shape, grid = (" x ".join(map(str, axes)) or "scalar" for axes in (tensor.shape, tensor.grid))
        table.add_row(escape(tensor.name), shape, tensor.dtype, grid, _size(tensor.num_bytes))
    return table


def _pairs(title: str, pairs: Iterable[tuple[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in pairs:
        table.add_row(escape(name.replace("_", " ") if title == "Architecture" else name), escape(str(value)))
    return table


def _size(num_bytes: int) -> str:
    """Return bytes in the largest binary unit that leaves at least 1."""
    value, units = float(num_bytes), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:,.0f} B" if units[0] == "B" else f"{value:,.1f} {units[0]}"
