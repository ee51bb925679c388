"""The pickle that `.metadata` is, read without trusting it and without importing torch.

Checkpoints come from other people, so only the names in `_ALLOWED` may occur. None of them is imported: torch's records
become plain fields, its sizes tuples of integers, its dtypes their names, and what carries nothing a reader needs
(classes of the save planner, present when Megatron caches its plans) inert placeholders.

Source: torch.distributed.checkpoint.metadata; megatron.core.dist_checkpointing.strategies.torch (MCoreMetadata).
"""

import io
import pickle
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nemo_demix.errors import CheckpointError


class Inert:
    """Stands for a class whose content is not read; building it runs nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class Fields:
    """Stands for one of torch's records; importing torch's own would cost seconds, and reading needs only fields."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)
        else:
            self.state = state


class Metadata(Fields):
    """The whole of the file."""

    planner_data = None


class TensorStorage(Fields):
    """Of one tensor: its shape, its dtype and its chunks."""


class StorageInfo(Fields):
    """The place of a chunk or an object."""

    transform_descriptors = None


def _refuse_state(self: Any, state: Any) -> None:
    """For classes that other reads share: pickle's BUILD, on one of them or on the class itself, ends here."""
    raise TypeError(f"{type(self).__name__} has no state to set")


class Dtype(str):
    """A dtype, by torch's name for it."""

    __slots__ = ()
    __setstate__ = _refuse_state

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return _ITEM_BYTES[self]


class Size(tuple[int, ...]):
    """Stands for `torch.Size`: integers and nothing else."""

    __slots__ = ()
    __setstate__ = _refuse_state

    def __new__(cls, sizes: Iterable[int] = ()) -> "Size":
        """As torch's own, refuses what is no integer."""
        values = tuple(sizes)
        if any(type(value) is not int for value in values):
            raise TypeError(f"a size of {values!r}, expected integers")
        return super().__new__(cls, values)


class Layout(str):
    """Stands for torch's look-up of a memory layout, which is of use to nobody here."""

    __slots__ = ()
    __setstate__ = _refuse_state

    def __new__(cls, name: str) -> "Layout":
        """As torch's own, refuses a name that is none."""
        if name not in _LAYOUTS:
            raise ValueError(f"unknown layout {name!r}")
        return super().__new__(cls, name)


_LAYOUTS = frozenset(
    f"torch.{name}" for name in "strided sparse_coo sparse_csr sparse_csc sparse_bsr sparse_bsc _mkldnn jagged".split()
)
_ITEM_BYTES = {
    **dict.fromkeys(("float64", "int64", "complex64"), 8),
    **dict.fromkeys(("float32", "int32"), 4),
    **dict.fromkeys(("float16", "bfloat16", "int16"), 2),
    **dict.fromkeys(("float8_e4m3fn", "float8_e5m2", "int8", "uint8", "bool"), 1),
    "complex128": 16,
}
_ALLOWED: dict[tuple[str, str], Any] = {
    ("torch.distributed.checkpoint.metadata", "Metadata"): Metadata,
    ("torch.distributed.checkpoint.metadata", "TensorStorageMetadata"): TensorStorage,
    **{
        ("torch.distributed.checkpoint.metadata", name): Fields
        for name in "ChunkStorageMetadata MetadataIndex TensorProperties".split()
    },
    **{
        ("torch.distributed.checkpoint.metadata", name): Inert
        for name in "BytesStorageMetadata StorageMeta _MEM_FORMAT_ENCODING".split()
    },
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): StorageInfo,
    # The folder it was saved to, where that was given as a path; the second is Python 3.13's name for it.
    **{(module, "PosixPath"): Inert for module in ("pathlib", "pathlib._local")},
    ("torch.serialization", "_get_layout"): Layout,
    ("torch", "Size"): Size,
    ("collections", "OrderedDict"): OrderedDict,
    **{("torch", name): Dtype(name) for name in _ITEM_BYTES},
    ("megatron.core.dist_checkpointing.strategies.torch", "MCoreMetadata"): Metadata,
    ("megatron.core.dist_checkpointing.strategies.torch", "MCoreSavePlan"): Inert,
    **{
        ("torch.distributed.checkpoint.planner", name): Inert
        for name in ("WriteItem", "WriteItemType", "TensorWriteData", "BytesIOWriteData", "SavePlan")
    },
}


def load(path: Path, data: bytes) -> Any:
    """What the pickle holds, in the classes above.

    Args:
        path: Of the file, for the error.
    Raises:
        CheckpointError: if it names anything but checkpoint metadata.
        Exception: of any kind, if it is damaged; nothing of it was run.
    """
    return _Unpickler(path, data).load()


class _Unpickler(pickle.Unpickler):
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
