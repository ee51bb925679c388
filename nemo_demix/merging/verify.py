"""Is a merged checkpoint what its record says? Checksums of every file, and a sample of rows merged again."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nemo_demix.checkpoints.files import open_file
from nemo_demix.checkpoints.reader import CheckpointReader
from nemo_demix.checkpoints.store import checkpoint_path
from nemo_demix.errors import CheckpointError, DemixError
from nemo_demix.merging.methods import BlockMethod, LinearMethod, build_method
from nemo_demix.merging.methods.base import Statistics
from nemo_demix.merging.output import RECORD, load_output_record
from nemo_demix.merging.passes import matrix_blocks, num_elements
from nemo_demix.merging.plan import MergePlan, Range, make_plan
from nemo_demix.merging.sources import Source, compare, open_each
from nemo_demix.merging.statistics import collect
from nemo_demix.merging.stream import SourceBlocks, crc_of


@dataclass(frozen=True)
class Verification:
    """What was looked at, and found to be as recorded."""

    num_files: int
    num_bytes: int
    num_tensors: int  # of which rows were merged again
    num_elements: int
    not_compared: str | None  # why no rows were merged again


def verify(folder: Path, sample_tensors: int = 16, seed: int = 0) -> Verification:
    """Recompute the checksums of all files, and merge a sample of rows again from the sources.

    Raises:
        CheckpointError: naming the first file, or element, that is not as recorded.
    """
    record = load_output_record(folder)
    if record is None:
        raise CheckpointError(
            f"{folder}: has no whole {RECORD} of a merge; merge again. `nemo-demix merge inspect` shows any checkpoint"
        )
    check_files(folder, record)
    num_bytes = sum(entry["bytes"] for entry in record["files"].values())
    try:
        plan = _plan_again(folder, record)
    except DemixError as error:
        return Verification(len(record["files"]), num_bytes, 0, 0, str(error))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / RECORD}: damaged ({type(error).__name__}: {error}); merge again") from None
    tensors, elements = _compare_rows(plan, folder, sample_tensors, np.random.default_rng(seed))
    return Verification(len(record["files"]), num_bytes, tensors, elements, None)


def check_files(folder: Path, record: Mapping[str, Any]) -> None:
    """Compare every file with the record's sizes and checksums.

    Raises:
        CheckpointError: naming the first that differs, is missing, or lies outside of the folder.
    """
    for name, entry in record["files"].items():
        path = folder / name
        try:
            opened = open_file(folder, path)
        except FileNotFoundError:
            raise CheckpointError(f"{path}: missing; merge again") from None
        with closing(opened) as file:
            size = file.size
            if size != entry["bytes"]:
                raise CheckpointError(f"{path}: {size} bytes, expected {entry['bytes']}; merge again")
            crc = crc_of(file, 0, size) if size else 0
        if f"{crc:08x}" != entry["crc32"]:
            raise CheckpointError(
                f"{path}: its CRC-32 is {crc:08x}, expected {entry['crc32']}; it is damaged: merge again"
            )


def _plan_again(folder: Path, record: Mapping[str, Any]) -> MergePlan:
    paths = [(name, checkpoint_path(where["path"])) for name, where in record["sources"].items()]
    parameters = dict(record["parameters"])
    seed = parameters.pop("seed", 0)
    has_base = record["base"] is not None
    method = build_method(record["method"], parameters, seed, len(paths) - has_base, has_base)
    sources = {source.name: source for source in open_each(paths, method.uses_moments)}
    for name, source in sources.items():
        if source.fingerprint != record["sources"][name]["fingerprint"]:
            raise CheckpointError(f"{source.path}: was written again since the merge, so rows cannot be compared")
    base: Source | None = sources.pop(record["base"]) if has_base else None
    components = list(sources.values())
    compare(components, base, record["template"])
    dtypes = [getattr(torch, name) for name in record["dtypes"] if getattr(torch, name).is_floating_point]
    return make_plan(
        components,
        base,
        method,
        {folder.name: record["weights"]},
        dtype=dtypes[0] if len(dtypes) == 1 else None,
        objects_from=record["template"],
        allow_nonfinite=True,
    )


def _compare_rows(plan: MergePlan, folder: Path, sample: int, rng: np.random.Generator) -> tuple[int, int]:
    """Merge one block of each of some tensors again, through float64 where the method is linear."""
    reader = CheckpointReader(folder)
    blocks = SourceBlocks(plan, keep_crcs=False)
    averaged = [number for number, tensor in enumerate(plan.tensors) if tensor.is_averaged]
    chosen = rng.choice(averaged, size=min(sample, len(averaged)), replace=False)
    elements = 0
    for number in chosen.tolist():
        tensor = plan.tensors[number]
        matrix = int(rng.integers(len(tensor.matrices)))
        first, end = tensor.matrices[matrix].runs[int(rng.integers(len(tensor.matrices[matrix].runs)))]
        spans = list(plan.blocks(Range(number, matrix, first, end)))
        span = spans[int(rng.integers(len(spans)))]
        part = Range(number, matrix, span.first_row, span.end_row)
        key = (number, matrix)
        statistics = None
        if plan.method.needs_statistics:
            size = num_elements(plan, number, tensor.matrices[matrix])
            statistics = collect(plan.method, lambda key=key: matrix_blocks(plan, blocks, key), size)  # type: ignore[misc]
        block = blocks.block(part, span)
        expected_RC = _merge_block(plan, block.sources_TRC, block, statistics).to(tensor.out_dtype)
        shape_2d = (tensor.rows.num_rows, tensor.rows.width)
        found = reader.read_tensor(tensor.name).reshape(shape_2d)
        found_RC = found[span.first_row : span.end_row, span.first_column : span.end_column]
        # Sums in another precision or order may round the other way: one unit in the last place is not a difference.
        off = (found_RC.double() - expected_RC.double()).abs()
        scale = block.sources_TRC[: len(plan.sources)].abs().amax(0).double()
        allowed = scale * float(torch.finfo(tensor.out_dtype).eps) * 4
        bad = ~((off <= allowed) | (found_RC.isnan() & expected_RC.isnan()) | (found_RC == expected_RC))
        if bool(bad.any()):
            row, column = (int(index) for index in bad.nonzero()[0])
            raise CheckpointError(
                f"{folder}: {tensor.name}, row {span.first_row + row}, column {span.first_column + column}: found "
                f"{float(found_RC[row, column])}, the sources give {float(expected_RC[row, column])}; merge again"
            )
        elements += found_RC.numel()
    blocks.close()
    return len(chosen), elements


def _merge_block(plan: MergePlan, sources_TRC: torch.Tensor, block: Any, statistics: Statistics | None) -> torch.Tensor:
    """Return one mixture's rows, fp32 or float64, shape (R, C)."""
    method = plan.method
    if isinstance(method, LinearMethod):
        (coefficients_T,) = torch.from_numpy(method.coefficients(plan.weights_MK, statistics))
        active = coefficients_T != 0
        return torch.einsum("t,trc->rc", coefficients_T[active], sources_TRC[active].double())
    assert isinstance(method, BlockMethod)
    (merged_RC,) = method.mix(method.prepare(block, statistics), plan.weights_MK, statistics)
    return merged_RC
