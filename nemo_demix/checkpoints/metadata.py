"""What a torch_dist checkpoint holds and where, from its `.metadata` file; neither torch nor a tensor is read."""

import itertools
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_demix.checkpoints import pickled
from nemo_demix.checkpoints.files import check_name, read_file
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
# Several optimizers, as for experts, are chained.
_SECOND_MOMENTS = re.compile(r"(chained_\d+\.)?optimizer\.state\.exp_avg_sq\.(?P<weight>.+)")
WHOLE_SHAPE = "nd_reformulated_orig_global_shape"  # Megatron's word for it
_LARGEST = 1 << 62
_LONGEST_NAME = 4096
_MOST_DIVIDED = 8  # axes of a tensor that is stored in chunks


def is_training_state(name: str) -> bool:
    """Return whether a stored name is optimizer, scheduler or random state: not a part of the model."""
    return name.startswith(_TRAINING_STATE)


def weight_of_moments(name: str) -> str | None:
    """Return the weight whose second moments are stored under this name, as Adam kept them of its gradients; else None.

    Source: megatron.core.optimizer.optimizer (`optim_state_to_sharding_state`), distrib_optimizer
    (`sharded_param_state_fully_reshardable`).
    """
    found = _SECOND_MOMENTS.fullmatch(name)
    return found and found["weight"]


def is_common_state(name: str) -> bool:
    """Return whether a byte object is what checkpoints before megatron-core 0.19 keep in `common.pt`."""
    return name.startswith("common_state/")


@dataclass(frozen=True, slots=True)  # there may be a million of them
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
    """Return a dtype as `TensorEntry` has it."""
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
    planner_data: dict[str, tuple[str | int, ...]] | None  # torch's own, of how names came from a nested state
    whole_shapes: dict[str, tuple[int, ...]]  # of the tensors that Megatron stores in pieces of a flattened one


def read_metadata(folder: Path) -> Stored:
    """Return what a torch_dist folder holds.

    Raises:
        CheckpointError: if `.metadata` is absent, damaged, contradicts itself, or names anything but checkpoint
            metadata.
    """
    path = folder / ".metadata"
    try:
        data = read_file(folder, path)
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
        _check_tensor_name(path, index.fqn)
        check_name(info.relative_path, f"{path}: {index.fqn}")
        if not (_is_count(info.offset) and _is_count(info.length) and info.length > 0):
            raise CheckpointError(f"{path}: {index.fqn} has an impossible place ({info.offset!r}, {info.length!r})")
        if info.transform_descriptors:
            raise CheckpointError(f"{path}: {index.fqn} is compressed ({info.transform_descriptors}); save it plain")
        storage[index.fqn, None if offset is None else _counts(path, index.fqn, offset)] = info
    tensors, objects = {}, {}
    for name, entry in found.state_dict_metadata.items():
        _check_tensor_name(path, name)
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
    return Stored(tensors, objects, _planner_data(found.planner_data), _whole_shapes(path, found))


def _check_tensor_name(path: Path, name: Any) -> None:
    """Refuse what is no name: it would be printed, compared and written again."""
    if not (isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME and name.isprintable()):
        shown = ascii(name)[:80]
        raise CheckpointError(f"{path}: a tensor is called {shown}, expected a name of printable text; refused")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


def _counts(path: Path, name: str, values: Any) -> tuple[int, ...]:
    """Return a shape, an offset or a size, if it is one."""
    if not isinstance(values, tuple) or not all(map(_is_count, values)):
        raise CheckpointError(f"{path}: {name} has {ascii(values)[:80]} for a shape or a place; expected whole numbers")
    return tuple(values)


def _planner_data(found: Any) -> dict[str, tuple[str | int, ...]] | None:
    """Return torch's paths of names in a nested state, and nothing else that a planner may have left there."""
    if not isinstance(found, dict):
        return None
    paths = {name: tuple(way) for name, way in found.items() if isinstance(way, list | tuple)}
    plain = all(isinstance(name, str) and all(type(step) in (str, int) for step in way) for name, way in paths.items())
    return paths if plain and len(paths) == len(found) else None


def _whole_shapes(path: Path, found: Any) -> dict[str, tuple[int, ...]]:
    shapes = {}
    data = getattr(found, "mcore_data", None)
    for name, facts in data.items() if isinstance(data, dict) else ():
        if isinstance(facts, dict) and facts.get(WHOLE_SHAPE) is not None:
            _check_tensor_name(path, name)
            shapes[name] = _counts(path, name, facts[WHOLE_SHAPE])
    return shapes


def _tensor_entry(path: Path, name: str, entry: Any, storage: dict[tuple[str, Any], Any]) -> TensorEntry:
    shape = _counts(path, name, entry.size)
    dtype = entry.properties.state[0]  # then layout, requires_grad, memory format, pinned: all outdated
    if not isinstance(dtype, pickled.Dtype):
        raise CheckpointError(f"{path}: {name} has no dtype")
    chunks = []
    for chunk in entry.chunks:
        offsets, sizes = _counts(path, name, chunk.offsets), _counts(path, name, chunk.sizes)
        info = storage.get((name, offsets))
        if info is None:
            raise CheckpointError(
                f"{path}: no file holds the chunk of {name} at {offsets}; the checkpoint is incomplete"
            )
        if math.prod(sizes) * dtype.itemsize > info.length:
            raise CheckpointError(
                f"{path}: the chunk of {name} at {offsets} has {math.prod(sizes)} elements in {info.length} bytes; the "
                "checkpoint is damaged"
            )
        chunks.append(Chunk(offsets, sizes, info.relative_path, info.offset, info.length))
    _check_tiling(path, name, shape, chunks)
    return TensorEntry(shape, dtype, tuple(chunks))


def _check_tiling(path: Path, name: str, shape: tuple[int, ...], chunks: list[Chunk]) -> None:
    """Refuse chunks that leave a part of the tensor out, cover one twice, or lie outside of it."""
    if any(len(chunk.offsets) != len(shape) or len(chunk.sizes) != len(shape) for chunk in chunks):
        raise CheckpointError(f"{path}: {name} has {len(shape)} axes, and chunks with others; it is damaged")
    if _is_row(shape, chunks):
        return
    lows = np.array([chunk.offsets for chunk in chunks], dtype=np.int64).reshape(len(chunks), len(shape))
    sizes = np.array([chunk.sizes for chunk in chunks], dtype=np.int64).reshape(len(chunks), len(shape))
    whole = np.array(shape, dtype=np.int64)
    inside = bool((sizes >= 0).all() and (lows <= whole - sizes).all())
    # A rank that holds no rows of a tensor writes a chunk of none; an empty tensor has no others.
    solid = (sizes > 0).all(axis=1)
    lows, sizes = lows[solid], sizes[solid]
    if not (inside and (_tiles(lows, lows + sizes, whole) if math.prod(shape) else not len(lows))):
        volume = sum(math.prod(chunk.sizes) for chunk in chunks)
        raise CheckpointError(
            f"{path}: the chunks of {name} do not tile its shape {shape} ({volume} of {math.prod(shape)} elements"
            f"{', overlapping' if inside and volume >= math.prod(shape) else ''}); the checkpoint is damaged or "
            "incomplete"
        )


def _is_row(shape: tuple[int, ...], chunks: list[Chunk]) -> bool:
    """Return whether chunks follow each other along one axis and are whole along the others: nearly every tensor is so,
    and numpy would take most of the time of reading many.
    """
    if not all(shape):
        return False
    origin = (0,) * len(shape)
    divided = {
        axis
        for chunk in chunks
        if chunk.sizes != shape or chunk.offsets != origin
        for axis in range(len(shape))
        if chunk.sizes[axis] != shape[axis] or chunk.offsets[axis]
    }
    if len(divided) != 1:
        return len(chunks) == 1 and not divided
    (axis,) = divided
    end = 0
    for start, size in sorted((chunk.offsets[axis], chunk.sizes[axis]) for chunk in chunks):
        if start != end or size == 0:
            return False
        end += size
    return end == shape[axis]


def _tiles(lows: np.ndarray, highs: np.ndarray, whole: np.ndarray) -> bool:
    """Return whether boxes, (boxes, axes), cover every place of the whole once: O(n log n) for n boxes of few axes.

    How often a place is covered is a sum of step functions at the boxes' corners, with signs. It is 1 everywhere just
    if these are the steps of the whole: corners of several boxes cancel, save for those of the whole.
    """
    divided = ((lows > 0) | (highs < whole)).any(axis=0)  # along the others every box is as long as the whole
    lows, highs, whole = lows[:, divided], highs[:, divided], whole[divided]
    if not divided.any():
        return len(lows) == 1
    if lows.shape[1] > _MOST_DIVIDED:
        return False
    corners, signs = [], []
    for sides in itertools.product((False, True), repeat=lows.shape[1]):
        corners += [np.where(sides, highs, lows), np.where(sides, whole, 0)[None]]
        sign = 1 if sum(sides) % 2 == 0 else -1
        signs += [np.full(len(lows), sign), np.array([-sign])]
    _, places = np.unique(np.concatenate(corners), axis=0, return_inverse=True)
    return not np.bincount(places.ravel(), weights=np.concatenate(signs)).any()


def _check_overlap(path: Path, stored: Stored) -> None:
    """Refuse two names that share bytes of a file."""
    places = [(o.file, o.file_offset, o.num_bytes, name) for name, o in stored.objects.items()]
    places += [(c.file, c.file_offset, c.num_bytes, name) for name, e in stored.tensors.items() for c in e.chunks]
    places.sort()
    for (file, offset, length, name), (next_file, next_offset, _, next_name) in itertools.pairwise(places):
        if file == next_file and offset + length > next_offset:
            raise CheckpointError(f"{path}: damaged: {name} and {next_name} share bytes of {file}")
