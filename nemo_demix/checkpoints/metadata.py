"""The `.metadata` file of a torch_dist checkpoint, read without trusting it.

The file is a pickle, and checkpoints come from other people, so only the classes below may be named in it. Classes of
the save planner (present when Megatron caches its plans) carry nothing a reader needs: they become inert placeholders,
so that reading imports neither Megatron nor the planner.

Source: torch.distributed.checkpoint.metadata; megatron.core.dist_checkpointing.strategies.torch (MCoreMetadata).
"""

import io
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import metadata as dcp
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.serialization import _get_layout

from nemo_demix.errors import CheckpointError


class _Inert:
    """Stands for a class whose content is not read; building it runs nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


_DTYPES = {
    name: getattr(torch, name)
    for name in (
        "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 int64 int32 int16 int8 uint8 bool "
        "complex64 complex128"
    ).split()
}
_ALLOWED: dict[tuple[str, str], Any] = {
    **{
        ("torch.distributed.checkpoint.metadata", name): getattr(dcp, name)
        for name in (
            "Metadata TensorStorageMetadata BytesStorageMetadata ChunkStorageMetadata MetadataIndex StorageMeta "
            "TensorProperties _MEM_FORMAT_ENCODING"
        ).split()
    },
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): _StorageInfo,
    ("torch.serialization", "_get_layout"): _get_layout,
    ("torch", "Size"): torch.Size,
    ("collections", "OrderedDict"): OrderedDict,
    **{("torch", name): dtype for name, dtype in _DTYPES.items()},
    ("megatron.core.dist_checkpointing.strategies.torch", "MCoreMetadata"): dcp.Metadata,
    ("megatron.core.dist_checkpointing.strategies.torch", "MCoreSavePlan"): _Inert,
    **{
        ("torch.distributed.checkpoint.planner", name): _Inert
        for name in ("WriteItem", "WriteItemType", "TensorWriteData", "BytesIOWriteData", "SavePlan")
    },
}


class _MetadataUnpickler(pickle.Unpickler):
    def __init__(self, path: Path, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise CheckpointError(
                f"{self._path}: names {module}.{name}, which no checkpoint metadata needs; nothing of it was run. "
                "Do not use this checkpoint unless you know who wrote it"
            ) from None


@dataclass(frozen=True)
class Chunk:
    """One stored piece of a tensor: where it lies in the tensor, and where in which file."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    file_offset: int
    num_bytes: int


@dataclass(frozen=True)
class TensorEntry:
    """A whole tensor as stored: its global shape, its dtype and its chunks."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    chunks: tuple[Chunk, ...]


def read_metadata(folder: Path) -> dict[str, TensorEntry]:
    """The tensors of a torch_dist folder by name; byte objects (`_extra_state`) are left out.

    Raises:
        CheckpointError: if the file is absent, damaged, or names anything but checkpoint metadata.
    """
    path = folder / ".metadata"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not found; expected a finished torch_dist checkpoint in {folder}") from None
    try:
        found = _MetadataUnpickler(path, data).load()
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{path}: damaged ({type(error).__name__}: {error}); copy the checkpoint again") from None
    if not isinstance(found, dcp.Metadata):
        raise CheckpointError(f"{path}: expected checkpoint metadata, found {type(found).__name__}")
    storage = {
        (index.fqn, tuple(index.offset)): info for index, info in found.storage_data.items() if index.offset is not None
    }
    return {
        name: _tensor_entry(path, name, entry, storage)
        for name, entry in found.state_dict_metadata.items()
        if isinstance(entry, dcp.TensorStorageMetadata)
    }


def _tensor_entry(path: Path, name: str, entry: Any, storage: dict[tuple[str, tuple[int, ...]], Any]) -> TensorEntry:
    chunks = []
    for chunk in entry.chunks:
        offsets = tuple(chunk.offsets)
        info = storage.get((name, offsets))
        if info is None:
            raise CheckpointError(
                f"{path}: no file holds the chunk of {name} at {offsets}; the checkpoint is incomplete"
            )
        if Path(info.relative_path).name != info.relative_path:
            raise CheckpointError(f"{path}: {name} points outside its folder ({info.relative_path}); refused")
        chunks.append(Chunk(offsets, tuple(chunk.sizes), info.relative_path, info.offset, info.length))
    return TensorEntry(tuple(entry.size), entry.properties.dtype, tuple(chunks))
