"""The names that `.metadata` may use, and what stands for each of them here; `opcodes` reads the file.

Checkpoints come from other people, so only the names in `ALLOWED` may occur. None of them is imported: torch's records
become plain fields, its sizes tuples of integers, its dtypes their names, and what carries nothing a reader needs
(classes of the save planner, present when Megatron caches its plans) inert placeholders.

Source: torch.distributed.checkpoint.metadata; megatron.core.dist_checkpointing.strategies.torch (MCoreMetadata).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nemo_demix.checkpoints.opcodes import Instance, Made, Named, decode
from nemo_demix.errors import CheckpointError


class Inert(Instance):
    """Stands for a class whose content is not read."""

    @classmethod
    def made_with(cls, arguments: tuple[Any, ...]) -> "Inert":
        """Make one, whatever the arguments are."""
        return cls()

    def take(self, state: Any) -> None:
        """Keep nothing of the state."""


class Fields(Instance):
    """Stands for one of torch's records; importing torch's own would cost seconds, and reading needs only fields."""

    def take(self, state: Any) -> None:
        """Keep a record's fields, or its state where it has one of another kind."""
        if isinstance(state, dict) and all(type(name) is str for name in state):
            self.__dict__.update(state)
        else:
            self.state = state


class Metadata(Fields):
    """The whole of the file."""

    planner_data = None


class TensorStorage(Fields):
    """Stands for a tensor's record: its shape, its dtype and its chunks."""


class StorageInfo(Fields):
    """The place of a chunk or an object."""

    transform_descriptors = None


class Dtype(str):
    """A dtype, by torch's name for it."""

    __slots__ = ()

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return _ITEM_BYTES[self]


_INTEGERS = frozenset({int})


class Size(tuple[int, ...], Made):
    """Stands for `torch.Size`: integers and nothing else."""

    __slots__ = ()

    def __new__(cls, sizes: Iterable[int] = ()) -> "Size":
        """Make a size; what is no integer is refused, as torch's own does."""
        values = tuple(sizes)
        if not _INTEGERS.issuperset(map(type, values)):
            raise TypeError("a size of other things than integers")
        return super().__new__(cls, values)

    @classmethod
    def made_with(cls, arguments: tuple[Any, ...]) -> "Size":
        """Make a size of one tuple."""
        (sizes,) = arguments
        if not isinstance(sizes, tuple | list):
            raise TypeError("a size of no tuple")
        return cls(sizes)


class Layout(str, Made):
    """Stands for torch's look-up of a memory layout, which is of use to nobody here."""

    __slots__ = ()

    def __new__(cls, name: str) -> "Layout":
        """Make a layout; a name that torch does not know is refused, as torch's own does."""
        if name not in _LAYOUTS:
            raise ValueError(f"unknown layout {name[:80]!r}")
        return super().__new__(cls, name)

    @classmethod
    def made_with(cls, arguments: tuple[Any, ...]) -> "Layout":
        """Make a layout of its name."""
        (name,) = arguments
        if type(name) is not str:
            raise TypeError("a layout that is no name")
        return cls(name)


class OrderedDict(Made):
    """Stands for the one of `collections`, as torch pickles it: empty, to be filled by the items that follow."""

    @classmethod
    def made_with(cls, arguments: tuple[Any, ...]) -> dict[Any, Any]:
        """Make an empty dict."""
        if arguments:
            raise TypeError("an OrderedDict with arguments")
        return {}


_LAYOUTS = frozenset(
    f"torch.{name}" for name in "strided sparse_coo sparse_csr sparse_csc sparse_bsr sparse_bsc _mkldnn jagged".split()
)
_ITEM_BYTES = {
    **dict.fromkeys(("float64", "int64", "complex64"), 8),
    **dict.fromkeys(("float32", "int32"), 4),
    **dict.fromkeys(("float16", "bfloat16", "int16"), 2),
    **dict.fromkeys(("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"), 1),
    **dict.fromkeys(("float4_e2m1fn_x2", "int8", "uint8", "bool"), 1),
    "complex128": 16,
}
ALLOWED: dict[tuple[str, str], Named] = {
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
    """Return what the pickle holds, in the classes above.

    Args:
        path: Path of the file, for the error.
    Raises:
        CheckpointError: if it names anything but checkpoint metadata.
        Exception: of any kind, if it is damaged; nothing of it was run.
    Memory: a bounded multiple of `data`.
    """

    def find(module: str, name: str) -> Named:
        try:
            return ALLOWED[module, name]
        except KeyError:
            shown = ascii(f"{module}.{name}")[1:-1]
            raise CheckpointError(
                f"{path}: names {shown if len(shown) <= 120 else shown[:117] + '...'}, which no checkpoint metadata "
                "needs; nothing of it was run. Do not use this checkpoint unless you know who wrote it"
            ) from None

    return decode(data, find)
