"""What `merge --dry-run` prints: the plan of a merge, with what it will cost."""

import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nemo_demix.artifacts import sync
from nemo_demix.checkpoints.store import StorePath
from nemo_demix.merging.kernel import Coefficients
from nemo_demix.merging.merge import MergeOptions, affordable_workers, planned_memory_gib, sort_out
from nemo_demix.merging.passes import matrices_of
from nemo_demix.merging.plan import MergePlan
from nemo_demix.merging.stream import SourceBlocks

_SAMPLE_ELEMENTS = 8 << 20
_SAMPLE_BYTES = 64 << 20


def print_plan(plan: MergePlan, output: Path, staging: Path, options: MergeOptions) -> None:
    """Print what would be read, written and held, and an estimate of the time from a sample on this machine."""
    here = staging if isinstance(output, StorePath) else output
    console = Console(width=118)
    console.print(_sources(plan))
    done, todo = sort_out(plan, output, options.force)
    workers = affordable_workers(plan, options)
    passes = 1 + (len(matrices_of(plan, 0, 1)) > 0 and plan.method.needs_statistics)
    shapes = f"{len(plan.tensors)} tensors, {plan.num_elements:,} parameters, {len(plan.object_offsets)} byte objects"
    seconds = _estimate(plan, here, len(todo), workers)
    gib = plan.source_bytes / 2**30
    rows = {
        "method": f"{plan.method.name} {_parameters(plan)}",
        "each": shapes,
        "mixtures": f"{len(plan.mixtures)}: {len(done)} done, {len(todo)} to merge into {output}",
        "grid, objects and context from": plan.template.name,
        "to read": f"{len(plan.sources)} x {gib:.3f} GiB of weights"
        + (f" and {len(plan.moments)} x {plan.moment_bytes / 2**30:.3f} GiB of second moments" if plan.moments else "")
        + ", once"
        + (", after a pass for statistics" if passes > 1 else ""),
        "to write": f"{len(todo)} x {plan.output_bytes / 2**30:.3f} GiB, {', '.join(_dtypes(plan))}",
        "memory": f"{planned_memory_gib(plan, workers):.2f} GiB for {workers} workers (promised: {options.memory_gib})",
        "time": f"about {seconds:.1f} s, from a sample of reading, summing and writing here",
    }
    table = Table(title="The merge", title_justify="left", show_header=False)
    for name, text in rows.items():
        table.add_row(name, escape(text))
    console.print(table)


def _sources(plan: MergePlan) -> Table:
    table = Table(title="Sources", title_justify="left")
    for heading in ("name", "layout", "chunks", "left out", "path"):
        table.add_column(heading, overflow="fold")
    for source, chunks in zip(plan.sources, plan.chunk_counts, strict=False):
        left = f"{len(source.left_out)} of training state" if source.left_out else ""
        table.add_row(escape(source.name), source.layout.kind, str(chunks), left, escape(str(source.path)))
    return table


def _parameters(plan: MergePlan) -> str:
    return ", ".join(f"{name}={value}" for name, value in plan.method.parameters.items())


def _dtypes(plan: MergePlan) -> list[str]:
    return sorted({str(tensor.out_dtype).removeprefix("torch.") for tensor in plan.tensors})


def _estimate(plan: MergePlan, output: Path, num_mixtures: int, workers: int) -> float:
    """Return seconds, from reading some blocks here and writing a scratch file beside the output."""
    blocks = SourceBlocks(plan, keep_crcs=False)
    started = time.monotonic()
    elements = 0
    coefficients = Coefficients(np.ones((num_mixtures, len(plan.inputs))))
    for unit in plan.units:
        for part in unit.ranges:
            for span in plan.blocks(part):
                if elements < _SAMPLE_ELEMENTS and plan.tensors[part.tensor].is_averaged:
                    values_TN = blocks.values(part, span)
                    elements += values_TN.shape[1]
                    coefficients.apply(values_TN)
    blocks.close()
    compute_s = (time.monotonic() - started) / max(elements, 1) * plan.num_elements / workers
    folder = next(path for path in (output, *output.resolve().parents) if path.is_dir())
    started = time.monotonic()
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        file.write(bytes(_SAMPLE_BYTES))
        file.flush()
        sync(Path(file.name))
        write_s = (time.monotonic() - started) / _SAMPLE_BYTES * plan.output_bytes * num_mixtures
    return max(compute_s, write_s) + min(compute_s, write_s) / 2
