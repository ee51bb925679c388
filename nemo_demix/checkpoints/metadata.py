"""What a torch_dist checkpoint holds and where, from its `.metadata` file; neither torch nor a tensor is read."""

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_demix.checkpoints import pickled
from nemo_demix.errors import CheckpointError

if TYPE_CHECKING:
    import torch

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
    dtype_name: pickled.Dtype
    chunks: tuple[Chunk, ...]

    @property
    def dtype(self) -> "torch.dtype":
        """The dtype itself; imports torch."""
        import torch

        found: torch.dtype = getattr(torch, self.dtype_name)
        return found


def dtype_name(dtype: "torch.dtype") -> pickled.Dtype:
    """A dtype as `TensorEntry` has it."""
    return pickled.Dtype(str(dtype).removeprefix("torch."))


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
        found = pickled.load(path, data)
        if not isinstance(found, pickled.Metadata):
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
        if isinstance(entry, pickled.TensorStorage):
            tensors[name] = _tensor_entry(path, name, entry, storage)
        elif isinstance(entry, pickled.Inert):
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
    if not isinstance(dtype, pickled.Dtype):
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
