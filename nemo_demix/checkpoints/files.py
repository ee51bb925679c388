"""Files of a checkpoint, opened so that nothing outside of it is read, and nothing that is no file; bytes by place.

On this machine or in an object store (`store`): what reads a checkpoint is given a `File`, and does not ask which.
"""

import os
import stat
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Protocol, TypeVar

from nemo_demix.checkpoints.store import State, StorePath
from nemo_demix.errors import CheckpointError

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO would be waited for otherwise
_MOST_BYTES = 1 << 30  # of a small file: it is read into memory
_AT_ONCE = 16  # requests to a store, which mostly wait

T = TypeVar("T")
R = TypeVar("R")


class File(Protocol):
    """A file that is open for reading."""

    @property
    def size(self) -> int:
        """Its bytes."""

    @property
    def state(self) -> State:
        """Size, and what changes when it is written again."""

    @property
    def piece(self) -> int:
        """How many bytes to read at a time, where all are wanted."""

    def read_some(self, buffer: memoryview, offset: int, until: int = 0) -> int:
        """Fill a buffer, or the beginning of it, from an offset; returns how much, 0 at the end.

        Args:
            until: Up to where the reader will go on.
        """

    def close(self) -> None:
        """Close it."""


class LocalFile:
    """A file of this machine, by its descriptor."""

    piece = 1 << 20

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @property
    def size(self) -> int:
        """Its bytes, now."""
        return os.fstat(self.descriptor).st_size

    @property
    def state(self) -> State:
        """Size, modification time (ns), inode."""
        found = os.fstat(self.descriptor)
        return found.st_size, found.st_mtime_ns, found.st_ino

    def read_some(self, buffer: memoryview, offset: int, until: int = 0) -> int:
        """Fill a buffer as `File.read_some` does; reading ahead is the kernel's affair."""
        return os.preadv(self.descriptor, [buffer], offset)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)


def check_name(name: object, where: str) -> str:
    """Return the name of a file in a folder, if it is one and leads nowhere else.

    Args:
        where: What gives the name, for the error.
    Raises:
        CheckpointError: if it is no text, empty, too long, a path, or not to be opened.
    """
    is_plain = isinstance(name, str) and name.isprintable() and name not in ("", ".", "..") and "/" not in name
    if isinstance(name, str) and is_plain and len(name.encode()) <= 255:
        return name
    shown = ascii(name)
    raise CheckpointError(
        f"{where}: points outside its folder: names the file {shown if len(shown) <= 80 else shown[:77] + '...'}, "
        "expected a plain name; refused"
    )


def open_file(root: Path, path: Path) -> File:
    """Return a file of a checkpoint, open for reading.

    A link is followed where it ends within the checkpoint; the checkpoint's own folder may be a link.

    Args:
        root: The checkpoint's folder.
        path: The file, below it.
    Raises:
        CheckpointError: if it lies elsewhere by a link, or is no file but a folder, a pipe, a device.
        FileNotFoundError: if there is none.
    """
    if "\0" in str(path):
        raise CheckpointError(f"{root}: names the file {path.name!a:.80}, expected a plain name; refused")
    if isinstance(path, StorePath):
        if not path.is_relative_to(root) or ".." in path.parts:
            raise CheckpointError(f"{path}: is outside of the checkpoint; refused")
        return path.open_object()
    home = Path(os.path.realpath(root))
    real = Path(os.path.realpath(path))
    if real == home or not real.is_relative_to(home):
        raise CheckpointError(
            f"{path}: leads to {real}, outside of the checkpoint; it is not followed. Copy the file there if it "
            "belongs to it"
        )
    folder = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # From here on no link at all: what is looked at is what is opened, whoever changes the folder meanwhile.
        *parents, name = real.relative_to(home).parts
        for parent in parents:
            below = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = below
        descriptor = os.open(name, _FLAGS | os.O_NOFOLLOW, dir_fd=folder)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: not found") from None
    except OSError as error:  # a link to itself, a socket, a name that is too long, no permission
        raise CheckpointError(f"{path}: {error.strerror}, expected a file; copy the checkpoint again") from None
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CheckpointError(f"{path}: is no file but {_kind(real)}; refused. Copy the checkpoint again")
    return LocalFile(descriptor)


def _kind(path: Path) -> str:
    mode = path.lstat().st_mode
    kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISCHR: "a device", stat.S_ISBLK: "a device"}
    return next((name for test, name in kinds.items() if test(mode)), "something else")


def read_file(root: Path, path: Path) -> bytes:
    """Return the content of a small file of a checkpoint.

    Raises:
        CheckpointError: as `open_file`; or if it is larger than 1 GiB, or cannot be read.
        FileNotFoundError: if there is none.
    """
    with closing(open_file(root, path)) as file:
        size = file.size
        if size > _MOST_BYTES:
            raise CheckpointError(f"{path}: {size / 2**30:.1f} GiB, expected a small file, of less than 1 GiB; refused")
        try:
            return read_at(file, size, 0)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror}); copy the checkpoint again") from None


def read_at(file: File, size: int, offset: int, until: int = 0) -> bytes:
    """Read so many bytes from a place in a file; fewer where it ends before. `until` as in `File.read_some`."""
    data = bytearray(size)
    view, position = memoryview(data), 0
    while position < size and (count := file.read_some(view[position:], offset + position, until)):
        position += count
    view.release()
    del data[position:]
    return bytes(data)


def read_into(file: File, buffer: memoryview, offset: int, until: int = 0) -> None:
    """Fill a buffer from a place in a file; `until` as in `File.read_some`.

    Raises:
        CheckpointError: if the file ends before it.
    """
    position = 0
    while position < len(buffer):
        count = file.read_some(buffer[position:], offset + position, until)
        if count == 0:
            raise CheckpointError(
                f"a file ends at {offset + position}, {len(buffer) - position} bytes too early: it was cut short since "
                "its size was looked at"
            )
        position += count


def sizes_below(folder: Path) -> dict[Path, int]:
    """Return the files anywhere below a folder, by path relative to it, and their bytes."""
    if isinstance(folder, StorePath):
        return {path: state[0] for path, state in folder.states().items()}
    return {path.relative_to(folder): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def side_by_side(call: Callable[[T], R], items: Iterable[T], where: Path) -> list[R]:
    """Return the results of a call for each item, in order: several at a time where they wait for a store."""
    if not isinstance(where, StorePath):
        return [call(item) for item in items]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(call, items))
