"""The byte objects of a torch_dist folder: what is no tensor, in archives of `torch.save` among the shards.

One of them is no part of the model: `common_state`, in which megatron-core keeps from 0.19 on what `common.pt` held
before, once for all ranks.

Source: megatron.core.dist_checkpointing.serialization (load_common_state_dict).
"""

import io
import zipfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from nemo_demix.checkpoints.files import open_file, read_file, read_into
from nemo_demix.checkpoints.metadata import ObjectEntry, is_common_state, read_metadata
from nemo_demix.errors import CheckpointError

COMMON = "common.pt"


@dataclass(frozen=True)
class CommonState:
    """What a checkpoint keeps once for all ranks, as it is stored."""

    where: str  # for messages
    data: bytes


def read_object(weights: Path, entry: ObjectEntry) -> bytes:
    """Return the archive of a byte object.

    Raises:
        CheckpointError: if its file leads out of the folder, is no file, or ends before it.
        FileNotFoundError: if there is none.
    """
    data = bytearray(entry.num_bytes)
    with closing(open_file(weights, weights / entry.file)) as file:
        read_into(file, memoryview(data), entry.file_offset)
    return bytes(data)


def read_common_state(weights: Path) -> CommonState | None:
    """Return the common state of a torch_dist folder, in either form; None where there is none.

    Raises:
        CheckpointError: as `read_object`, and as `read_metadata`.
    """
    path = weights / COMMON
    if path.is_file():
        return CommonState(str(path), read_file(weights, path))
    return next(iter(common_objects(weights, read_metadata(weights).objects).values()), None)


def common_objects(weights: Path, objects: Mapping[str, ObjectEntry]) -> dict[str, CommonState]:
    """Return the common state among byte objects, by its name there; empty where there is none. Raises as
    `read_object`.
    """
    return {
        name: CommonState(f"{weights / entry.file}: {name}", read_object(weights, entry))
        for name, entry in objects.items()
        if is_common_state(name)
    }


def check_archive(data: bytes, what: str) -> None:
    """Refuse a torch.save archive whose CRCs do not hold; nothing of it is unpickled.

    Raises:
        CheckpointError: naming what is damaged.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            bad = archive.testzip()
    except Exception as error:  # zipfile raises many kinds on damaged bytes
        raise CheckpointError(f"{what} is damaged: {error}; copy the checkpoint again") from None
    if bad is not None:
        raise CheckpointError(f"{what} is damaged: the CRC of {bad} does not hold; copy the checkpoint again")
