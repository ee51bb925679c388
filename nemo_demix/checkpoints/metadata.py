"""The `.metadata` file of a torch_dist checkpoint, read without trusting it.

The file is a pickle, and checkpoints come from other people, so only the classes below may be named in it. Classes of
the save planner (present when Megatron caches its plans) carry nothing a reader needs: they become inert placeholders,
so that reading imports neither Megatron nor the planner.

Source: torch.distributed.checkpoint.metadata; megatron.core.dist_checkpointing.strategies.torch (MCoreMetadata).
"""

import io
import itertools
import math
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.serialization import _get_layout

from nemo_demix.errors import CheckpointError


class _Inert:
    """Stands for a class whose content is not read; building it runs nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Fields:
    """Stands for one of torch's records; importing torch's own would cost a second, and reading needs only fields."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)
        else:
            self.state = state


class _Metadata(_Fields):
    planner_data = None


class _TensorStorage(_Fields):
    pass


class _StorageInfo(_Fields):
    transform_descriptors = None


_DTYPES = {
    name: getattr(torch, name)
    for name in (
        "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 int64 int32 int16 int8 uint8 bool "
        "complex64 complex128"
    ).split()
}
_ALLOWED: dict[tuple[str, str], Any] = {
    ("torch.distributed.checkpoint.metadata", "Metadata"): _Metadata,
    ("torch.distributed.checkpoint.metadata", "TensorStorageMetadata"): _TensorStorage,
    **{
        ("torch.distributed.checkpoint.metadata", name): _Fields
        for name in "ChunkStorageMetadata MetadataIndex TensorProperties".split()
    },
    **{
        ("torch.distributed.checkpoint.metadata", name): _Inert
        for name in "BytesStorageMetadata StorageMeta _MEM_FORMAT_ENCODING".split()
    },
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): _StorageInfo,
    # The folder it was saved to, where that was given as a path.
    **{(module, "PosixPath"): _Inert for module in ("pathlib", "pathlib._local")},
    ("torch.serialization", "_get_layout"): _get_layout,
    ("torch", "Size"): torch.Size,
    ("collections", "OrderedDict"): OrderedDict,
    ("pathlib", "PosixPath"): _Inert,  # torch's own writer notes where it wrote
    ("pathlib._local", "PosixPath"): _Inert,  # Python 3.13's name for it
    **{("torch", name): dtype for name, dtype in _DTYPES.items()},
    ("megatron.core.dist_checkpointing.strategies.torch", "MCoreMetadata"): _Metadata,
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


# What training keeps beside the weights: Megatron's names, NeMo's, and torch DCP's customary ones.
_TRAINING_STATE = (
    "optimizer.",
    "optim.",
    "chained_",
    "opt_param_scheduler",
    "lr_scheduler",
    "rng_state",
    "rerun_state_machine",
)


def is_training_state(name: str) -> bool:
    """Whether a stored name is optimizer, scheduler or random state: not a part of the model."""
    return name.startswith(_TRAINING_STATE)


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


@dataclass(frozen=True)
class ObjectEntry:
    """A byte object (`_extra_state` and its like): where it lies in which file."""

    file: str
    file_offset: int
    num_bytes: int


@dataclass(frozen=True)
class Stored:
    """What a torch_dist folder holds, by name."""

    tensors: dict[str, TensorEntry]
    objects: dict[str, ObjectEntry]
    planner_data: Any  # torch's own record of how names came from a nested state; None in Megatron's checkpoints


def read_metadata(folder: Path) -> Stored:
    """What a torch_dist folder holds.

    Raises:
        CheckpointError: if `.metadata` is absent, damaged, contradicts itself, or names anything but checkpoint
            metadata.
    """
    path = folder / ".metadata"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not found; expected a finished torch_dist checkpoint in {folder}") from None
    try:
        found = _MetadataUnpickler(path, data).load()
        if not isinstance(found, _Metadata):
            raise CheckpointError(f"{path}: expected checkpoint metadata, found {type(found).__name__}")
        stored = _stored(path, found)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{path}: damaged ({type(error).__name__}: {error}); copy the checkpoint again") from None
    _check_overlap(path, stored)
    return stored


def _stored(path: Path, found: Any) -> Stored:
    storage = {}
    for index, info in found.storage_data.items():
        offset = getattr(index, "offset", None)
        if Path(info.relative_path).name != info.relative_path:
            raise CheckpointError(f"{path}: {index.fqn} points outside its folder ({info.relative_path}); refused")
        if not (type(info.offset) is type(info.length) is int and info.offset >= 0 and info.length > 0):
            raise CheckpointError(f"{path}: {index.fqn} has an impossible place ({info.offset}, {info.length})")
        if info.transform_descriptors:
            raise CheckpointError(f"{path}: {index.fqn} is compressed ({info.transform_descriptors}); save it plain")
        storage[index.fqn, None if offset is None else tuple(offset)] = info
    tensors, objects = {}, {}
    for name, entry in found.state_dict_metadata.items():
        if isinstance(entry, _TensorStorage):
            tensors[name] = _tensor_entry(path, name, entry, storage)
        elif isinstance(entry, _Inert):
            info = storage.get((name, None))
            if info is None:
                raise CheckpointError(f"{path}: no file holds {name}; the checkpoint is incomplete")
            objects[name] = ObjectEntry(info.relative_path, info.offset, info.length)
        else:
            raise CheckpointError(f"{path}: {name} is neither a tensor nor a byte object")
    num_places = len(objects) + sum(len(entry.chunks) for entry in tensors.values())
    if num_places != len(storage):
        raise CheckpointError(f"{path}: damaged: {len(storage)} places are given for {num_places} chunks and objects")
    return Stored(tensors, objects, found.planner_data)


def _tensor_entry(path: Path, name: str, entry: Any, storage: dict[tuple[str, Any], Any]) -> TensorEntry:
    shape = tuple(entry.size)
    chunks = []
    for chunk in entry.chunks:
        offsets, sizes = tuple(chunk.offsets), tuple(chunk.sizes)
        info = storage.get((name, offsets))
        if info is None:
            raise CheckpointError(
                f"{path}: no file holds the chunk of {name} at {offsets}; the checkpoint is incomplete"
            )
        chunks.append(Chunk(offsets, sizes, info.relative_path, info.offset, info.length))
    _check_tiling(path, name, shape, chunks)
    dtype = entry.properties.state[0]  # then layout, requires_grad, memory format, pinned: all outdated
    if not isinstance(dtype, torch.dtype):
        raise CheckpointError(f"{path}: {name} has no dtype")
    return TensorEntry(shape, dtype, tuple(chunks))


def _check_tiling(path: Path, name: str, shape: tuple[int, ...], chunks: list[Chunk]) -> None:
    """Refuse chunks that leave a part of the tensor out, cover one twice, or lie outside of it."""
    lows = np.array([chunk.offsets for chunk in chunks], dtype=np.int64).reshape(len(chunks), len(shape))
    sizes = np.array([chunk.sizes for chunk in chunks], dtype=np.int64).reshape(len(chunks), len(shape))
    highs = lows + sizes
    inside = (lows >= 0).all() and (sizes > 0).all() and (highs <= np.array(shape, dtype=np.int64)).all()
    volume = sum(math.prod(chunk.sizes) for chunk in chunks)
    disjoint = all(
        not ((lows[i] < highs[i + 1 :]) & (lows[i + 1 :] < highs[i])).all(axis=1).any() for i in range(len(chunks) - 1)
    )
    if not (inside and disjoint and volume == math.prod(shape)):
        raise CheckpointError(
            f"{path}: the chunks of {name} do not tile its shape {shape} ({volume} of {math.prod(shape)} elements, "
            f"{'disjoint' if disjoint else 'overlapping'}); the checkpoint is damaged or incomplete"
        )


def _check_overlap(path: Path, stored: Stored) -> None:
    """Refuse two names that share bytes of a file."""
    places = [(o.file, o.file_offset, o.num_bytes, name) for name, o in stored.objects.items()]
    places += [(c.file, c.file_offset, c.num_bytes, name) for name, e in stored.tensors.items() for c in e.chunks]
    places.sort()
    for (file, offset, length, name), (next_file, next_offset, _, next_name) in itertools.pairwise(places):
        if file == next_file and offset + length > next_offset:
            raise CheckpointError(f"{path}: damaged: {name} and {next_name} share bytes of {file}")
