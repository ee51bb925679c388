"""Files of text where they are: on this machine or behind an address that fsspec knows, packed or not.

A place is a string: an absolute path, or an address as `s3://bucket/key`.
"""

import bz2
import glob
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from nemo_demix.errors import DatasetError

PACKED = (".gz", ".zst", ".bz2", ".xz")
LARGEST_RECORD = 1 << 24  # bytes of one document or line: a tokenizer needs a hundred times as much memory
_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)


def is_address(place: str) -> bool:
    """Return whether fsspec has to open it."""
    return "://" in place


def absolute(place: str) -> str:
    """Return a path from the root; an address as it is."""
    return place if is_address(place) else str(Path(place).absolute())


def files_at(place: str) -> list[str]:
    """Return the file of that name, or else all that match it as a pattern, sorted; none: empty.

    Raises:
        DatasetError: if the address cannot be asked.
    """
    if is_address(place):
        with _answering(place):
            import fsspec

            system, path = fsspec.core.url_to_fs(place)
            found = [path] if system.isfile(path) else sorted(one for one in system.glob(path) if system.isfile(one))
            return [system.unstrip_protocol(one) for one in found]
    if os.path.exists(place):
        return [place]
    return sorted(one for one in glob.glob(place, recursive=True) if os.path.isfile(one))


def identity(place: str) -> list[Any]:
    """Return what a file's content is known by without reading it: its place, size in bytes, and time of modification.

    Of a path the time is in nanoseconds; of an address it is what the store has (a time, an ETag or a checksum).

    Raises:
        DatasetError: if it is missing.
    """
    if is_address(place):
        with _answering(place):
            import fsspec

            system, path = fsspec.core.url_to_fs(place)
            return [place, system.size(path), str(system.ukey(path))]
    try:
        status = os.stat(place)
    except OSError as error:
        raise DatasetError(f"{place}: expected a file, found: {error.strerror}; correct the path") from None
    return [place, status.st_size, status.st_mtime_ns]


def size_of(place: str) -> int:
    """Return bytes of a file, as stored."""
    return int(identity(place)[1])


@contextmanager
def opened(place: str, unpacked: bool = True) -> Iterator[IO[bytes]]:
    """Open a file's bytes, unpacked by the end of its name unless that is not wanted.

    Raises:
        DatasetError: if it cannot be read, or is not packed as its name says.
    """
    ending = Path(place).suffix.lower() if unpacked else ""
    with _answering(place), _raw(place) as raw:
        try:
            with _unpacked(raw, ending) as file:
                yield file
        except _DAMAGED as error:
            raise _damaged(place, ending, error) from None
        except OSError as error:
            if ending not in (".bz2", ".zst") or error.errno is not None:
                raise
            raise _damaged(place, ending, error) from None


def lines(file: IO[bytes], where: Callable[[int], object]) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file from where it stands, with their numbers, from 1.

    Args:
        where: What a line is called in an error, by its number.
    Raises:
        DatasetError: if one is longer than LARGEST_RECORD.
    """
    number = 0
    while line := file.readline(LARGEST_RECORD + 1):
        number += 1
        if len(line) > LARGEST_RECORD:
            raise too_large(where(number))
        yield number, line


def too_large(place: object) -> DatasetError:
    """Make the error that tells of a record beyond LARGEST_RECORD."""
    return DatasetError(
        f"{place}: expected a document of at most {LARGEST_RECORD >> 20} MiB, found a longer one; split it into "
        "documents, or take it out of the sources"
    )


def _raw(place: str) -> IO[bytes]:
    if not is_address(place):
        return open(place, "rb")
    import fsspec

    return cast(IO[bytes], fsspec.open(place, "rb").open())


def _unpacked(raw: IO[bytes], ending: str) -> IO[bytes]:
    if ending == ".gz":
        return cast(IO[bytes], gzip.open(raw, "rb"))
    if ending == ".bz2":
        return bz2.open(raw, "rb")
    if ending == ".xz":
        return lzma.open(raw, "rb")
    if ending == ".zst":
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(raw, "zstd"), 1 << 20)
    return raw


def _damaged(place: str, ending: str, error: Exception) -> DatasetError:
    kind = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}[ending]
    return DatasetError(f"{place}: expected a whole {kind} file, found: {error}; write it again")


@contextmanager
def _answering(place: str) -> Iterator[None]:
    """Say what is wrong with a place as a mistake in the sources."""
    try:
        yield
    except ImportError as error:
        raise DatasetError(f"{place}: fsspec needs another package for this kind of address: {error}") from None
    except DatasetError:
        raise
    except OSError as error:
        raise DatasetError(
            f"{place}: expected a readable file, found: {error.strerror or error}; correct the path or its permissions"
        ) from None
    except ValueError as error:
        if not is_address(place):
            raise
        raise DatasetError(f"{place}: expected an address that fsspec knows, found: {error}; correct it") from None
