"""The folders a merge writes: prepared under a temporary name, finished, published by a rename, the record last."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from isal.isal_zlib import crc32, crc32_combine

from nemo_demix import __version__
from nemo_demix.artifacts import parse_json, sync, write_json
from nemo_demix.checkpoints.blob import Payload, damaged, find_payload, frame
from nemo_demix.checkpoints.checksums import file_entry
from nemo_demix.checkpoints.common_state import without_training_state
from nemo_demix.checkpoints.files import read_file, side_by_side
from nemo_demix.checkpoints.metadata import ObjectEntry, TensorEntry, dtype_name
from nemo_demix.checkpoints.metadata_writer import metadata_bytes
from nemo_demix.checkpoints.objects import COMMON, CommonState, check_archive, read_object
from nemo_demix.errors import CheckpointError, DemixError
from nemo_demix.merging.files import OpenFiles
from nemo_demix.merging.journal import Key, UnitRecord, whole_chunks
from nemo_demix.merging.plan import MergePlan, output_weights
from nemo_demix.merging.precision import objects_differ
from nemo_demix.merging.sources import Source
from nemo_demix.merging.stream import OUTPUT

RECORD = "merge.json"


@dataclass(frozen=True)
class MergeRecord:
    """`merge.json`: what a merged checkpoint was made of, and its files' checksums."""

    mixture: str  # its folder's name when it was merged
    method: str
    parameters: dict[str, Any]
    weights: dict[str, float]  # as given, by component
    sources: dict[str, dict[str, str]]  # path and fingerprint, by component, and the base where the method uses one
    base: str | None  # its name among the sources
    template: str  # the component whose grid, context and objects the checkpoint has
    dtypes: list[str]
    files: dict[str, dict[str, Any]]  # bytes and crc32 (hexadecimal), by path relative to this record
    nonfinite: dict[str, int]  # values let through, by component, or `-> mixture` where they overflowed, and tensor
    versions: dict[str, str]
    fingerprint: str


def make_record(
    plan: MergePlan, mixture: str, files: dict[str, dict[str, Any]], nonfinite: dict[str, int]
) -> MergeRecord:
    """Return the record of one finished output."""
    return MergeRecord(
        mixture=mixture,
        method=plan.method.name,
        parameters=plan.method.parameters,
        weights=dict(plan.mixtures[mixture]),
        sources={
            source.name: {"path": str(source.path.resolve()), "fingerprint": source.fingerprint}
            for source in plan.sources
        },
        base=plan.base.name if plan.base is not None else None,
        template=plan.template.name,
        dtypes=sorted({str(tensor.out_dtype).removeprefix("torch.") for tensor in plan.tensors}),
        files=files,
        nonfinite=nonfinite,
        versions={"nemo_demix": __version__, "torch": torch.__version__},
        fingerprint=plan.mixture_fingerprint(mixture),
    )


def prepare(plan: MergePlan, folder: Path) -> None:
    """Make an output's folder and its shard files, at their full size.

    Whatever else an interrupted publication left there is removed, its record first.
    """
    weights = output_weights(plan, folder)
    weights.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).unlink(missing_ok=True)
    shards = {weights / file.name for file in plan.files}
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if path != weights and not any(path.iterdir()):
                path.rmdir()
        elif path not in shards or path.is_symlink():
            path.unlink()
    for file in plan.files:
        descriptor = os.open(weights / file.name, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            os.ftruncate(descriptor, file.num_bytes)
        finally:
            os.close(descriptor)


def bad_units(plan: MergePlan, records: Mapping[int, UnitRecord]) -> dict[int, str]:
    """Return units that read something else than what a source's archives were saved with: number -> what was found.

    Raises:
        AssertionError: if a unit is missing.
    """
    assert set(records) == {unit.index for unit in plan.units}, "a unit was not done"
    found: dict[int, str] = {}
    for index, source in enumerate(plan.inputs):
        itemsizes = [tensor.dtypes[index].itemsize for tensor in plan.tensors]
        runs = [run for record in records.values() for run in record.read[source.name]]
        files = OpenFiles()
        chunks = list(whole_chunks(runs, itemsizes))

        def saved(key: Key, index: int = index, files: OpenFiles = files) -> Payload:
            tensor = plan.tensors[key[0]]
            chunk = tensor.chunks[index][key[1]]
            path = plan.inputs[index].layout.weights / chunk.file
            return find_payload(files[str(path)], path, tensor.name, chunk, tensor.dtypes[index])

        payloads = side_by_side(saved, [key for key, _, _ in chunks], source.layout.weights)
        for ((t, c), count, crc), payload in zip(chunks, payloads, strict=True):
            tensor = plan.tensors[t]
            chunk = tensor.chunks[index][c]
            path = source.layout.weights / chunk.file
            if count * itemsizes[t] != payload.num_bytes or crc != payload.crc:
                message = str(damaged(path, tensor.name, chunk, crc, payload.crc))
                found |= {
                    number: message
                    for number, record in records.items()
                    if any((run.tensor, run.chunk) == (t, c) for run in record.read[source.name])
                }
        files.close()
    return found


def read_objects(plan: MergePlan) -> dict[str, bytes]:
    """Return the byte objects of the outputs. Those of the model must agree in all components, unless one was named to
    take them from.

    Raises:
        CheckpointError: if they differ, or an archive among them is damaged.
    """
    template = plan.template
    asked = [template] if plan.objects_from is not None else list(plan.components)
    by_source = {source.name: _objects_of(source) for source in asked}
    for source in asked:
        for name, data in by_source[source.name].items():
            if data != by_source[template.name][name]:
                raise objects_differ(name, template.name, source.name)
    return {**by_source[template.name], **template.common}


def _objects_of(source: Source) -> dict[str, bytes]:
    weights = source.layout.weights
    names = [name for name in source.stored.objects if name not in source.common]

    def read(name: str) -> bytes:
        entry = source.stored.objects[name]
        try:
            data = read_object(weights, entry)
        except FileNotFoundError as error:
            raise CheckpointError(f"{error}; it holds {name}: copy the checkpoint again") from None
        check_archive(data, f"{weights / entry.file}: {name}")
        return data

    return dict(zip(names, side_by_side(read, names, weights), strict=True))


def finish(
    plan: MergePlan, mixture: str, folder: Path, records: Mapping[int, UnitRecord], objects: Mapping[str, bytes],
) -> None:  # fmt: skip
    """Write all that is not weights, make everything durable, and the record last."""
    weights = output_weights(plan, folder)
    runs = [run for record in records.values() for run in record.written[mixture]]
    itemsizes = [tensor.out_dtype.itemsize for tensor in plan.tensors]
    written = {key: (count, crc) for key, count, crc in whole_chunks(runs, itemsizes)}
    numbers = {tensor.name: number for number, tensor in enumerate(plan.tensors)}
    files: dict[str, dict[str, Any]] = {}
    for file in plan.files:
        path = weights / file.name
        total = 0
        with open(path, "r+b") as target:
            for name, index in file.items:
                if index is None:
                    total = crc32(objects[name], total)
                    target.write(objects[name])
                    continue
                tensor = plan.tensors[numbers[name]]
                around = frame(tensor.chunks[-1][index].sizes, tensor.out_dtype)
                count, crc = written[numbers[name], index] if around.num_bytes else (0, 0)
                assert count * tensor.out_dtype.itemsize == around.num_bytes, "every chunk was written whole"
                tail = around.tail(crc)
                target.write(around.head)
                target.seek(around.num_bytes, os.SEEK_CUR)
                target.write(tail)
                total = crc32(tail, crc32_combine(crc32(around.head, total), crc, around.num_bytes))
        sync(path)
        files[str(path.relative_to(folder))] = file_entry(file.num_bytes, total)
    late = _small_files(plan)
    # metadata.json last: it is Megatron's own mark of a finished save.
    for relative in sorted(late, key=lambda path: path.name == "metadata.json"):
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(late[relative])
        sync(path)
        files[str(relative)] = file_entry(len(late[relative]), crc32(late[relative]))
    nonfinite: dict[str, int] = {}
    for record in records.values():
        for key, count in record.nonfinite.items():
            if key.startswith(OUTPUT) and not key.startswith(f"{OUTPUT}{mixture}: "):
                continue  # of another mixture
            nonfinite[key] = nonfinite.get(key, 0) + count
    for path in sorted({folder, weights, *(folder / relative.parent for relative in late)}):
        sync(path)
    write_json(folder / RECORD, make_record(plan, mixture, files, nonfinite))


def _small_files(plan: MergePlan) -> dict[Path, bytes]:
    """Return everything but the shards, relative to an output's folder."""
    template = plan.template
    layout = template.layout
    found = {}
    for relative in layout.companions:
        data = layout.read(relative)
        if relative.name == COMMON:
            check_archive(data, str(layout.root / relative))
            data = without_training_state(CommonState(str(layout.root / relative), data))
        elif relative.suffix == ".pt":
            check_archive(data, str(layout.root / relative))
        found[relative] = data
    found |= layout.own_files
    found[layout.weights_relative / ".metadata"] = _metadata(plan)
    return found


def _metadata(plan: MergePlan) -> bytes:
    """Return torch's own `.metadata`, with nothing of Megatron's planner in it; the same bytes for the same merge."""
    stored = plan.template.stored
    by_name = {tensor.name: tensor for tensor in plan.tensors}
    tensors = {
        name: TensorEntry(entry.shape, dtype_name(by_name[name].out_dtype), by_name[name].chunks[-1])
        for name, entry in stored.tensors.items()
    }
    objects = {
        name: ObjectEntry(file, offset, plan.template.object_bytes(name))
        for name, (file, offset) in plan.object_offsets.items()
    }
    planner_data = stored.planner_data
    if isinstance(planner_data, dict):
        planner_data = {name: value for name, value in planner_data.items() if name in tensors or name in objects}
    return metadata_bytes(tensors, objects, planner_data, plan.source_fingerprint)


def load_output_record(folder: Path) -> dict[str, Any] | None:
    """Return the record of a folder that a merge made; None for any other."""
    path = folder / RECORD
    if folder.is_symlink() or not path.is_file():
        return None
    value = parse_json(read_file(folder, path), path, is_ours=True)
    return value if _is_record(value) else None


def _is_record(value: Any) -> bool:
    """Return whether what a `merge.json` holds has the parts of a record that are built on."""
    built_on = {"method", "parameters", "weights", "sources", "base", "template", "dtypes", "files", "fingerprint"}
    if not isinstance(value, dict) or not built_on <= set(value):
        return False
    lists = (("files", {"bytes", "crc32"}), ("sources", {"path", "fingerprint"}))
    return all(
        isinstance(value[key], dict)
        and all(isinstance(item, dict) and keys <= set(item) for item in value[key].values())
        for key, keys in lists
    )


def publish(folder: Path, target: Path, aside: Path | None) -> None:
    """Give a finished output its name.

    Args:
        aside: Where an earlier merge of that name goes, if it is to be replaced.

    Raises:
        CheckpointError: if something else of that name has come meanwhile.
    """
    if os.path.lexists(target):
        if aside is None or load_output_record(target) is None:
            raise _came_meanwhile(target)
        if aside.exists():
            discard(aside)  # of a replacement that was interrupted
        aside.parent.mkdir(exist_ok=True)
        os.rename(target, aside)
        try:
            os.rename(folder, target)
        except OSError as error:
            if os.path.lexists(target):
                raise _came_meanwhile(target) from error
            os.rename(aside, target)  # what was to be replaced stays
            raise
    else:
        os.rename(folder, target)
    sync(target.parent)


def _came_meanwhile(target: Path) -> CheckpointError:
    return CheckpointError(
        f"{target}: exists; it came while the merge ran. Move it away, and the same command goes on from here"
    )


def what_stands(plan: MergePlan, output: Path) -> str:
    """Say which of several mixtures are published, as the end of an error; looked up where they are, not remembered."""
    if len(plan.mixtures) < 2:
        return ""
    found: dict[str, list[str]] = {"published": [], "still an earlier merge's": [], "not published": []}
    for name in plan.mixtures:
        try:
            record = load_output_record(output / name)
        except DemixError:  # what stands there says nothing that can be read: it is none of ours
            record = None
        ours = record is not None and record["fingerprint"] == plan.mixture_fingerprint(name)
        found["published" if ours else "still an earlier merge's" if record is not None else "not published"].append(
            name
        )
    return "".join(f"; {kind}: {', '.join(names)}" for kind, names in found.items() if names)


def discard(folder: Path) -> None:
    """Remove a folder of ours."""
    shutil.rmtree(folder)
