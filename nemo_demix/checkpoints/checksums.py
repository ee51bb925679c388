"""Checksums of what no CRC of a checkpoint's own protects whole: its small files, and its byte objects.

Shards carry the CRC of every tensor in their archives. `.metadata`, `common.pt`, `metadata.json` and `context/` carry
none, and the archive of a byte object, which a merge copies as it is, none of its headers. Our training writes
`checksums.json` beside them when a checkpoint is complete; a merge lists all files in its `merge.json`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isal.isal_zlib import crc32

from nemo_demix.artifacts import parse_json, write_json
from nemo_demix.checkpoints.files import read_file, side_by_side
from nemo_demix.checkpoints.layouts import Layout, locate
from nemo_demix.checkpoints.metadata import ObjectEntry, is_training_state, read_metadata
from nemo_demix.checkpoints.objects import read_object
from nemo_demix.errors import CheckpointError, DemixError

CHECKSUMS = "checksums.json"
_MERGE_RECORD = "merge.json"
_SHARD = ".distcp"


def file_entry(num_bytes: int, crc: int) -> dict[str, Any]:
    """Return a file as records list it."""
    return {"bytes": num_bytes, "crc32": f"{crc:08x}"}


def write_checksums(root: Path) -> None:
    """Write `checksums.json` into a complete checkpoint: every file but the shards, and every byte object in these.

    Raises:
        CheckpointError: if there is no checkpoint, or it is damaged.
    """
    files = {}
    for path in sorted(root.rglob("*")):
        ours = path.parent == root and CHECKSUMS in path.name  # a temporary name of a run that was killed, too
        if path.is_file() and path.suffix != _SHARD and not ours:
            data = read_file(root, path)
            files[str(path.relative_to(root))] = file_entry(len(data), crc32(data))
    weights = locate(root).weights
    objects = {name: item for name, item in read_metadata(weights).objects.items() if not is_training_state(name)}
    entries = {name: file_entry(item.num_bytes, crc32(read_object(weights, item))) for name, item in objects.items()}
    write_json(root / CHECKSUMS, {"files": files, "objects": entries})


def check_small_files(layout: Layout) -> None:
    """Compare the small files with the record of each, where there is one.

    Raises:
        CheckpointError: naming the first file that is missing or differs, or the record if that is damaged.
    """
    for record in (_record(layout), layout.root / _MERGE_RECORD):
        if not record.is_file():
            continue
        root = record.parent
        for file, expected in _entries(record, "files").items():
            path = root / file
            if path.suffix != _SHARD:
                _compare(str(path), _small_file(root, path, record), expected, record)


def _record(layout: Layout) -> Path:
    """Return where a checkpoint's `checksums.json` is: in the root, or in the one iteration of a training run
    it is of.
    """
    inner = layout.weights / CHECKSUMS
    return inner if inner.is_file() else layout.root / CHECKSUMS


def check_objects(layout: Layout, objects: Mapping[str, ObjectEntry]) -> None:
    """Compare byte objects with the record of the checkpoint; nothing where there is none.

    Raises:
        CheckpointError: naming the first that differs.
    """
    record = _record(layout)
    if record.is_file():
        expected, weights = _entries(record, "objects"), layout.weights

        def compare(name: str) -> None:
            item = objects[name]
            _compare(f"{weights / item.file}: {name}", read_object(weights, item), expected[name], record)

        side_by_side(compare, [name for name in objects if name in expected], weights)


def _entries(record: Path, key: str) -> dict[str, tuple[int, str]]:
    try:
        found = parse_json(read_file(record.parent, record), record)[key]
        return {name: (int(item["bytes"]), str(item["crc32"])) for name, item in found.items()}
    except (DemixError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{record}: damaged ({type(error).__name__}), expected a list of {key}; copy the checkpoint again"
        ) from None


def _small_file(root: Path, path: Path, record: Path) -> bytes:
    try:
        return read_file(root, path)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: No such file or directory, but {record} lists it; copy the checkpoint again"
        ) from None


def _compare(what: str, data: bytes, expected: tuple[int, str], record: Path) -> None:
    found = f"{crc32(data):08x}"
    if (len(data), found) != expected:
        raise CheckpointError(
            f"{what}: {len(data)} bytes with CRC-32 {found}, expected {expected[0]} with {expected[1]}; copy the "
            f"checkpoint again, or remove {record} if you changed it yourself"
        )
