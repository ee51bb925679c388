"""The blobs that torch_dist files are made of: each is a whole `torch.save` archive (a zip, stored) of one tensor.

Reading needs the place of the payload and its CRC; writing needs the bytes before and after a payload. torch.load does
not compare CRCs, so whoever reads payloads through this module does.

Source: the zip format (APPNOTE.TXT 6.3); caffe2/serialize/inline_container.cc for what torch writes.
"""

import io
import os
import struct
import tempfile
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from isal.isal_zlib import crc32
from torch.serialization import skip_data

from nemo_demix.checkpoints.files import File, read_at
from nemo_demix.checkpoints.metadata import Chunk
from nemo_demix.errors import CheckpointError

_PAYLOAD = "data/0"
_ID = ".data/serialization_id"  # two numbers of 20 digits: a hash of the records' names, one of their CRCs
_MASK64 = (1 << 64) - 1


@dataclass(frozen=True)
class Payload:
    """Where the elements of a chunk lie in its file, row-major, and their CRC-32 as stored."""

    offset: int
    num_bytes: int
    crc: int


class _Window(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, file: File, offset: int, length: int) -> None:
        self._file, self._offset, self._length, self._position = file, offset, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size = max(0, min(len(buffer), self._length - self._position))
        count = self._file.read_some(memoryview(buffer)[:size], self._offset + self._position) if size else 0
        self._position += count
        return count


def damaged(path: Path, name: str, chunk: Chunk, found: int | None, expected: int) -> CheckpointError:
    """Return what to raise where a payload's CRC does not hold."""
    crc = "the file ends early" if found is None else f"its CRC is {found:08x}"
    return CheckpointError(
        f"{path}: the chunk of {name} at {chunk.offsets} is damaged: {crc}, the archive says {expected:08x}; copy the "
        "checkpoint again"
    )


@dataclass(frozen=True)
class Frame:
    """The bytes that torch.save writes around the payload of a contiguous tensor."""

    head: bytes
    num_bytes: int  # of the payload
    _tail: bytes
    _crc_places: tuple[int, ...]  # in the tail, of the payload's CRC
    _id_place: int
    _id_crc_places: tuple[int, ...]
    _record_crcs: tuple[int | None, ...]  # of the records before the id; None: the payload's
    _name_hash: bytes  # the first half of the id

    def tail(self, crc: int) -> bytes:
        """Return what follows a payload with this CRC."""
        tail = bytearray(self._tail)
        combined = 0
        for record in self._record_crcs:
            value = (crc if record is None else record) + 0x9E3779B9 + ((combined << 6) & _MASK64) + (combined >> 2)
            combined ^= value & _MASK64
        digits = self._name_hash + b"%020d" % combined
        tail[self._id_place : self._id_place + len(digits)] = digits
        for places, value in ((self._crc_places, crc), (self._id_crc_places, crc32(digits))):
            for place in places:
                struct.pack_into("<I", tail, place, value)
        return bytes(tail)

    @property
    def length(self) -> int:
        """Bytes of the whole archive."""
        return len(self.head) + self.num_bytes + len(self._tail)


@lru_cache(maxsize=4096)
def frame(sizes: tuple[int, ...], dtype: torch.dtype) -> Frame:
    """Return what torch.save writes around a tensor of this shape and dtype; the payload itself is never made."""
    with tempfile.TemporaryDirectory() as folder, skip_data():
        path = Path(folder) / "archive"  # torch names the records after the file; "archive" is its name for streams
        torch.save(torch.empty(sizes, dtype=dtype), path)
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            payload = archive.getinfo(f"archive/{_PAYLOAD}")
            start = _data_offset(file, payload)
            end = start + payload.file_size
            identity = archive.read(f"archive/{_ID}")
            file.seek(0)
            head = file.read(start)
            file.seek(end)
            tail = file.read()
            id_place = _data_offset(file, archive.getinfo(f"archive/{_ID}")) - end
    central = _central_crc_places(tail)
    assert records[-1].filename == f"archive/{_ID}", "torch writes the id last"
    return Frame(
        head=head,
        num_bytes=payload.file_size,
        _tail=tail,
        _crc_places=(_DESCRIPTOR_CRC, central[f"archive/{_PAYLOAD}"]),
        _id_place=id_place,
        _id_crc_places=(id_place + len(identity) + _DESCRIPTOR_CRC, central[f"archive/{_ID}"]),
        _record_crcs=tuple(None if r is payload else r.CRC for r in records[:-1]),
        _name_hash=identity[:20],
    )


_DESCRIPTOR_CRC = 4  # a data descriptor: signature, then the CRC


def _data_offset(file: io.BufferedReader | _Window, record: zipfile.ZipInfo) -> int:
    """Return where a record's data begin: behind its local header, whose extra field the directory does not know."""
    file.seek(record.header_offset + 26)
    name_length, extra_length = struct.unpack("<HH", file.read(4))
    return int(record.header_offset + 30 + name_length + extra_length)


def _central_crc_places(tail: bytes) -> dict[str, int]:
    """Return where in the bytes after a payload the central directory keeps each record's CRC."""
    places = {}
    position = tail.find(b"PK\x01\x02")
    while position >= 0 and tail[position : position + 4] == b"PK\x01\x02":
        name_length, extra_length, comment_length = struct.unpack_from("<HHH", tail, position + 28)
        name = tail[position + 46 : position + 46 + name_length].decode()
        places[name] = position + 16
        position += 46 + name_length + extra_length + comment_length
    return places


def find_payload(file: File, path: Path, name: str, chunk: Chunk, dtype: torch.dtype) -> Payload:
    """Return the payload of a chunk, in its file.

    An archive as this torch writes it is recognised by its bytes; any other is parsed.

    Raises:
        CheckpointError: if the file is too short, the archive is damaged, or it holds anything but a contiguous
            tensor of the chunk's shape and dtype.
    """
    where = f"{path}: the chunk of {name} at {chunk.offsets}"
    size = file.size
    if size < chunk.file_offset + chunk.num_bytes:
        raise CheckpointError(
            f"{path}: truncated: {name} needs {chunk.num_bytes} bytes at {chunk.file_offset}, the file ends at {size}; "
            "copy the checkpoint again"
        )
    expected = frame(chunk.sizes, dtype)
    if expected.length == chunk.num_bytes:
        end, until = len(expected.head) + expected.num_bytes, chunk.file_offset + chunk.num_bytes
        # The head first: what is fetched ahead with it is the payload.
        head = read_at(file, len(expected.head), chunk.file_offset, until)
        found = read_at(file, chunk.num_bytes - end, chunk.file_offset + end, until)
        if len(found) == chunk.num_bytes - end:
            (crc,) = struct.unpack_from("<I", found, _DESCRIPTOR_CRC)
            if head == expected.head and found == expected.tail(crc):
                return Payload(chunk.file_offset + len(head), expected.num_bytes, crc)
    try:
        start, crc = _parse(_Window(file, chunk.file_offset, chunk.num_bytes), chunk, dtype)
    except Exception as error:  # zipfile and the unpickler raise many kinds on damaged bytes
        # torch would have the user load what it refuses; of that only the name is passed on
        foreign = str(error).partition("GLOBAL ")[2].split()
        reason = f"it names {foreign[0]}; nothing of it was run" if foreign else str(error).partition("\n")[0]
        raise CheckpointError(
            f"{where} is damaged, or is not the plain archive of a tensor ({reason}); copy the checkpoint again"
        ) from None
    return Payload(chunk.file_offset + start, torch.Size(chunk.sizes).numel() * dtype.itemsize, crc)


def _parse(window: _Window, chunk: Chunk, dtype: torch.dtype) -> tuple[int, int]:
    """Return the offset of the payload in the blob, and its CRC; ValueError where the blob is not what the metadata
    says.
    """
    with zipfile.ZipFile(window) as archive:
        records = {record.filename.partition("/")[2]: record for record in archive.infolist()}
        if [name for name in records if name.startswith("data/")] != [_PAYLOAD]:
            raise ValueError("expected one storage")
        for name, record in records.items():
            if record.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{name} is compressed")
            if name != _PAYLOAD:
                content = archive.read(record)  # compares the CRC
                if name == "byteorder" and content != b"little":
                    raise ValueError(f"byte order {content!r}, expected little")
        payload = records[_PAYLOAD]
        archive.open(payload).close()  # compares the local header with the directory
        start = _data_offset(window, payload)
    num_bytes = torch.Size(chunk.sizes).numel() * dtype.itemsize
    if payload.file_size != num_bytes or start + num_bytes > chunk.num_bytes:
        raise ValueError(f"a payload of {payload.file_size} bytes, expected {num_bytes}")
    window.seek(0)
    with skip_data():
        tensor = torch.load(window, map_location="cpu", weights_only=True)  # type: ignore[arg-type]
    if not isinstance(tensor, torch.Tensor) or tuple(tensor.shape) != chunk.sizes or tensor.dtype != dtype:
        raise ValueError(f"expected a {dtype} tensor of shape {chunk.sizes}")
    if not tensor.is_contiguous() or tensor.storage_offset():
        raise ValueError("the tensor is stored with strides; save it contiguous")
    return start, payload.CRC
