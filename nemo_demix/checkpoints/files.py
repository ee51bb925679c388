"""Files of a checkpoint, opened so that nothing outside of it is read, and nothing that is no file; bytes by place."""

import os
import stat
from pathlib import Path

from nemo_demix.errors import CheckpointError

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO would be waited for otherwise
_MOST_BYTES = 1 << 30  # of a small file: it is read into memory


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


def open_file(root: Path, path: Path) -> int:
    """Return a descriptor of a file of a checkpoint, for reading.

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
    return descriptor


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
    descriptor = open_file(root, path)
    with open(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        if size > _MOST_BYTES:
            raise CheckpointError(f"{path}: {size / 2**30:.1f} GiB, expected a small file, of less than 1 GiB; refused")
        try:
            return file.read(_MOST_BYTES)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror}); copy the checkpoint again") from None


def read_into(descriptor: int, buffer: memoryview, offset: int) -> None:
    """Fill a buffer from a place in a file.

    Raises:
        CheckpointError: if the file ends before it.
    """
    position = 0
    while position < len(buffer):
        count = os.preadv(descriptor, [buffer[position:]], offset + position)
        if count == 0:
            raise CheckpointError(
                f"a file ends at {offset + position}, {len(buffer) - position} bytes too early: it was cut short since "
                "its size was looked at"
            )
        position += count
