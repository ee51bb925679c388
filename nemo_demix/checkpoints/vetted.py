"""A checkpoint made safe for loaders that unpickle: Megatron's and NeMo's, which train from it.

These loaders run what a checkpoint names: `.metadata` and byte objects go through Python's own unpickler, `context/`
through fiddle's, `modelopt_state/` through torch's without restriction. So they are never shown a checkpoint itself,
whoever made it, but a folder beside it in the run:

    weights/.metadata        written anew from what the restricted reader found
    weights/objects.distcp   byte objects, read as plain values and saved anew
    weights/common.pt        the same
    weights/metadata.json    what Megatron writes
    weights/*                links to the shards, of which loaders read tensors alone, with torch's restricted unpickler

What was checked is what is loaded: no byte that is unpickled freely is read from the checkpoint again.
"""

import io
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nemo_demix.artifacts import write_bytes, write_json
from nemo_demix.checkpoints.common_state import load_common, load_plain
from nemo_demix.checkpoints.files import open_file
from nemo_demix.checkpoints.layouts import locate
from nemo_demix.checkpoints.metadata import ObjectEntry, Stored, is_common_state, is_training_state, read_metadata
from nemo_demix.checkpoints.metadata_writer import metadata_bytes
from nemo_demix.checkpoints.objects import read_common_state, read_object
from nemo_demix.checkpoints.store import StorePath
from nemo_demix.errors import CheckpointError

logger = logging.getLogger(__name__)

_OBJECTS = "objects.distcp"
_EXTRA_STATE = "._extra_state"
_HARMLESS = (str, bytes, int, float, bool, type(None), torch.Tensor, torch.Size, torch.dtype)


def vetted(checkpoint: Path, folder: Path, prefix: str | None = None) -> Path:
    """Make the folder that stands for a checkpoint; what was there is removed.

    Args:
        checkpoint: The checkpoint, in any layout that is read.
        folder: A folder on a file system that all ranks share.
        prefix: What the loader's names of weights begin with: NeMo's with `module.`. None: they stay as they are.
    Returns:
        The folder: a NeMo 2 checkpoint without `context/`.
    Raises:
        CheckpointError: if the checkpoint is damaged, or names something that would be run.
    Collective: none; one process calls.
    Memory: the checkpoint's byte objects, a few MiB; no tensor is read.
    """
    source = locate(checkpoint).weights
    if isinstance(source, StorePath):
        raise CheckpointError(
            f"{checkpoint}: is in an object store, and models are trained from a folder of this machine; copy it here"
        )
    stored = _named(read_metadata(source), prefix)
    if folder.exists():
        shutil.rmtree(folder)
    weights = folder / "weights"
    weights.mkdir(parents=True)
    for file in {chunk.file for entry in stored.tensors.values() for chunk in entry.chunks}:
        try:
            open_file(source, source / file).close()
        except FileNotFoundError:
            raise CheckpointError(f"{source / file}: missing; it holds weights: copy the checkpoint again") from None
        if file == _OBJECTS or not file.endswith(".distcp"):
            raise CheckpointError(f"{source / file}: holds tensors; expected a file *.distcp of torch's own naming")
        (weights / file).symlink_to(os.path.realpath(source / file))
    objects, data = _objects(source, {name: x for name, x in stored.objects.items() if not is_common_state(name)})
    if data:
        write_bytes(weights / _OBJECTS, data)
    write_bytes(weights / "common.pt", _common(source))
    save_id = "vetted"
    content = metadata_bytes(stored.tensors, objects, stored.planner_data, save_id, stored.whole_shapes)
    write_bytes(weights / ".metadata", content)
    kind = {"sharded_backend": "torch_dist", "sharded_backend_version": 1}
    write_json(weights / "metadata.json", {**kind, "common_backend": "torch", "common_backend_version": 1})
    return folder


def _named(stored: Stored, prefix: str | None) -> Stored:
    """Return what is stored, with names of weights as a loader has them; the shards themselves hold no names."""
    if prefix is None:
        return stored

    def name(found: str) -> str:
        return found if is_training_state(found) or is_common_state(found) else prefix + found.removeprefix("module.")

    planner_data = stored.planner_data
    return Stored(
        {name(key): value for key, value in stored.tensors.items()},
        {name(key): value for key, value in stored.objects.items()},
        None if planner_data is None else {name(key): value for key, value in planner_data.items()},
        {name(key): value for key, value in stored.whole_shapes.items()},
    )


def _objects(weights: Path, found: Mapping[str, ObjectEntry]) -> tuple[dict[str, ObjectEntry], bytes]:
    """Return the byte objects as plain values, saved anew: where each lies, and all of them."""
    entries, parts, position, left_out = {}, [], 0, []
    for name, item in found.items():
        try:
            raw = read_object(weights, item)
        except FileNotFoundError:
            raise CheckpointError(f"{weights / item.file}: missing; it holds {name}: copy it again") from None
        is_extra = _EXTRA_STATE in name
        try:
            value = load_plain(raw, weights / item.file, (io.BytesIO,) if is_extra else ())
            _check_plain(value)
        except Exception as error:  # the restricted unpickler raises many kinds; nothing has been run
            if not is_extra:
                raise _refused(weights / item.file, name, error) from None
            value = _Kept
        if is_extra and not _is_empty(value):
            left_out.append(name)
            value = [None]  # Megatron saves each in a list
        data = _saved(value)
        entries[name] = ObjectEntry(_OBJECTS, position, len(data))
        parts.append(data)
        position += len(data)
    if left_out:
        logger.warning(
            "%s: the extra state of %d layers (%s, ...) is left out: Transformer Engine would unpickle it freely. It "
            "scales FP8, and is found anew",
            weights,
            len(left_out),
            left_out[0],
        )
    return entries, b"".join(parts)


class _Kept:
    """An extra state that cannot be read."""


def _is_empty(value: Any) -> bool:
    """Return whether an extra state says nothing: there is none, or a stream or a tensor of bytes without any."""
    if isinstance(value, list):
        return all(map(_is_empty, value))
    if isinstance(value, torch.Tensor):
        return value.numel() == 0
    if isinstance(value, io.BytesIO):
        return not value.getvalue()
    return value is None


def _check_plain(value: Any) -> None:
    """Refuse what is more than values: a loader would call it, or ask it for its state."""
    waiting = [value]
    seen = 0
    while waiting:
        item = waiting.pop()
        seen += 1
        if seen > 10_000_000:
            raise ValueError("values that hold themselves")
        if isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set) and not isinstance(item, torch.Size):
            waiting += item
        elif not isinstance(item, _HARMLESS) and type(item) is not io.BytesIO:
            raise ValueError(f"a {type(item).__name__}")


def _common(weights: Path) -> bytes:
    """Give the common state as a file `common.pt` would hold it, in whichever form it is stored."""
    common = read_common_state(weights)
    if common is None:  # torch alone writes none
        return _saved({})
    try:
        return _saved(load_common(common, megatrons=True))
    except CheckpointError:
        raise
    except Exception as error:  # the restricted unpickler raises many kinds; nothing has been run
        raise _refused(Path(common.where), "what it keeps for all ranks", error) from None


def _refused(path: Path, what: str, error: Exception) -> CheckpointError:
    named = str(error).partition("GLOBAL ")[2].split()
    reason = f"names {named[0][:120]}" if named else " ".join(str(error).split())[:200] or type(error).__name__
    return CheckpointError(
        f"{path}: {what} {reason}, expected plain values; nothing of it was run. Do not train from this checkpoint "
        "unless you know who wrote it; `nemo-demix merge` of it alone takes over the weights without training state"
    )


def _saved(value: Any) -> bytes:
    target = io.BytesIO()
    torch.save(value, target)
    return target.getvalue()
