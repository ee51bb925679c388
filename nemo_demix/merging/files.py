"""Files of a merge, kept open while they are used; writing that the disk begins at once."""

import ctypes
import errno
import os
import threading
from collections import OrderedDict
from pathlib import Path
from queue import SimpleQueue

from nemo_demix.checkpoints.files import File, LocalFile, open_file
from nemo_demix.checkpoints.store import StoreFile, checkpoint_path
from nemo_demix.errors import CheckpointError

_MAX_OPEN = 384  # of the sources, and as many of the outputs: a process may often have 1024
_SYNC_FILE_RANGE_WRITE = 2
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


def as_mistake(error: Exception, output: Path) -> Exception:
    """Return what the user can mend, as such: a full disk, files that may not be read or written. Anything else as it
    is.
    """
    if isinstance(error, OSError) and error.errno in _FULL:
        return CheckpointError(
            f"{output}: the disk is full ({error.strerror}); free space there, and the same command goes on from here"
        )
    if isinstance(error, OSError) and error.errno in _FORBIDDEN:
        return CheckpointError(f"{error.filename or output}: {error.strerror}; change that, and run the same command")
    return error


class OpenFiles:
    """Files by path, open; the one used longest ago is closed when there are too many. Threads may share it to read.

    Args:
        write: Whether files of our own are opened, to be written; others are read, and no link out of their folder is
            followed.
        ahead: Bytes to fetch at a time from an object store where a reader goes on.
        most: How many files are open at a time.
    """

    def __init__(self, write: bool = False, ahead: int = 0, most: int = _MAX_OPEN) -> None:
        self._write, self._ahead, self._most = write, ahead, most
        self._open: OrderedDict[str, File] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, path: str) -> File:
        """Return a file, opened where it is not.

        Raises:
            CheckpointError: if there is no such file.
        """
        with self._lock:
            if path in self._open:
                self._open.move_to_end(path)
                return self._open[path]
        try:
            file = self._opened(path)
        except FileNotFoundError:
            raise CheckpointError(f"{path}: missing") from None
        with self._lock:
            if path in self._open:
                file.close()  # another thread was faster
                return self._open[path]
            if len(self._open) >= self._most:
                self._open.popitem(last=False)[1].close()
            self._open[path] = file
        return file

    def _opened(self, path: str) -> File:
        if self._write:
            return LocalFile(os.open(path, os.O_RDWR))
        where = checkpoint_path(path)
        file = open_file(where.parent, where)
        if isinstance(file, StoreFile):
            file.ahead = self._ahead
        return file

    def write(self, path: str, data: memoryview, offset: int) -> None:
        """Write into a file of our own."""
        file = self[path]
        assert isinstance(file, LocalFile), path
        while data:
            count = os.pwrite(file.descriptor, data, offset)
            data, offset = data[count:], offset + count

    def close(self) -> None:
        """Close all."""
        while self._open:
            self._open.popitem()[1].close()


class EarlyWriteback:
    """Asks the kernel, on a thread of its own, to start writing what was written, so that the final fsync is short.

    Args:
        num_bytes: Bytes that will be written in all. Where these are much of this machine's memory, what is on the
            disk already is let go: outputs would push the sources out of the page cache, and each other.
    """

    def __init__(self, num_bytes: int) -> None:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self._let_go = num_bytes > memory / 4
        self._start = getattr(ctypes.CDLL(None), "sync_file_range", None)  # Linux has it
        self._queue: SimpleQueue[str | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        if self._start is not None:
            self._start.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
            self._thread.start()

    def begin(self, path: str) -> None:
        """Start writing a file's dirty pages to the disk."""
        if self._start is not None:
            self._queue.put(path)

    def _work(self) -> None:
        while (path := self._queue.get()) is not None:
            descriptor = os.open(path, os.O_RDONLY)
            self._start(descriptor, 0, 0, _SYNC_FILE_RANGE_WRITE)  # type: ignore[misc]
            if self._let_go:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)

    def close(self) -> None:
        """Wait for what was asked."""
        if self._start is not None:
            self._queue.put(None)
            self._thread.join()
