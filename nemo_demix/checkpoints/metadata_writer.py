"""Writes `.metadata` as torch.distributed.checkpoint does, without importing it: that takes longer than a small merge.

The pickle names torch's classes and fills their fields; the same values give the same bytes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nemo_demix.checkpoints.metadata import WHOLE_SHAPE, ObjectEntry, TensorEntry
from nemo_demix.checkpoints.pickled import Dtype

_METADATA = "torch.distributed.checkpoint.metadata"
_FILESYSTEM = "torch.distributed.checkpoint.filesystem"


@dataclass(frozen=True)
class _Global:
    module: str
    name: str


@dataclass(frozen=True)
class _Call:
    """A global called with arguments."""

    target: _Global
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class _Record:
    """An instance of a global, made without calling it, and its state."""

    target: _Global
    state: Any


def metadata_bytes(
    tensors: Mapping[str, TensorEntry],
    objects: Mapping[str, ObjectEntry],
    planner_data: Any,
    save_id: str,
    whole_shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> bytes:
    """Return the content of `.metadata` for what a torch_dist folder holds.

    Args:
        planner_data: What `read_metadata` gave: None, or plain values.
        save_id: Names this save; loaders do not compare it.
        whole_shapes: Shapes as `Stored` has them: Megatron's loaders ask for them where it stores flattened tensors.
    """
    state: dict[str, Any] = {}
    storage = []
    for name, entry in tensors.items():
        chunks = [_record("ChunkStorageMetadata", offsets=_size(c.offsets), sizes=_size(c.sizes)) for c in entry.chunks]
        state[name] = _record(
            "TensorStorageMetadata", properties=_properties(entry.dtype_name), size=_size(entry.shape), chunks=chunks
        )
        storage += [
            (_record("MetadataIndex", fqn=name, offset=_size(c.offsets), index=None), _place(c)) for c in entry.chunks
        ]
    for name, item in objects.items():
        state[name] = _record("BytesStorageMetadata")
        storage.append((_record("MetadataIndex", fqn=name, offset=None, index=None), _place(item)))
    meta = _record("StorageMeta", checkpoint_id=None, save_id=save_id, load_id=None, modules=[])
    root = _record(
        "Metadata",
        state_dict_metadata=state,
        planner_data=planner_data,
        storage_data=_Pairs(storage),
        storage_meta=meta,
        version=None,
        **(
            {"mcore_data": {name: {WHOLE_SHAPE: shape} for name, shape in whole_shapes.items()}} if whole_shapes else {}
        ),
    )
    out = bytearray(b"\x80\x02")  # protocol 2
    _emit(root, out)
    return bytes(out) + b"."


class _Pairs(list[tuple[Any, Any]]):
    """A dict whose keys cannot be hashed here."""


def _record(name: str, **fields: Any) -> _Record:
    return _Record(_Global(_METADATA, name), fields or None)


def _place(item: Any) -> _Record:
    fields = {"relative_path": item.file, "offset": item.file_offset, "length": item.num_bytes}
    return _Record(_Global(_FILESYSTEM, "_StorageInfo"), fields)


def _size(sizes: Iterable[int]) -> _Call:
    return _Call(_Global("torch", "Size"), (tuple(sizes),))


def _properties(dtype: Dtype) -> _Record:
    layout = _Call(_Global("torch.serialization", "_get_layout"), ("torch.strided",))
    contiguous = _Call(_Global(_METADATA, "_MEM_FORMAT_ENCODING"), (0,))
    return _Record(_Global(_METADATA, "TensorProperties"), (dtype, layout, False, contiguous, False))


def _emit(value: Any, out: bytearray) -> None:
    """Append the opcodes that build a value."""
    match value:
        case None:
            out += b"N"
        case bool():
            out += b"\x88" if value else b"\x89"
        case int():
            data = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
            out += b"\x8a" + bytes([len(data)]) + data
        case Dtype():
            _emit(_Global("torch", str(value)), out)
        case str():
            text = value.encode()
            out += b"X" + len(text).to_bytes(4, "little") + text
        case _Global(module, name):
            out += f"c{module}\n{name}\n".encode()
        case _Call(target, arguments):
            _emit(target, out)
            _emit(arguments, out)
            out += b"R"
        case _Record(target, state):
            _emit(target, out)
            out += b")\x81"
            if state is not None:
                _emit(state, out)
                out += b"b"
        case tuple():
            out += b"("
            for item in value:
                _emit(item, out)
            out += b"t"
        case dict() | _Pairs():
            out += b"}("
            for key, item in value.items() if isinstance(value, dict) else value:
                _emit(key, out)
                _emit(item, out)
            out += b"u"
        case list():
            out += b"]("
            for item in value:
                _emit(item, out)
            out += b"e"
        case _:
            raise TypeError(f"{type(value).__name__} has no place in a checkpoint's metadata")
