"""Checkpoints in an object store: addresses that are used as paths are, and objects read by ranges of bytes.

    s3://BUCKET/KEY        any S3, found and entered as the AWS tools do
    msc://PROFILE/KEY      a profile of multi-storage-client's configuration: other stores, end points, retries

Both are served by NVIDIA's multi-storage-client, which Megatron itself reads and writes checkpoints with. Credentials
are its own affair: nothing of them passes through here, and no message of its is shown but for what is known of it.
"""

import os
import re
import stat
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from fnmatch import fnmatchcase
from pathlib import Path, PosixPath
from typing import Any, TypeVar

from nemo_demix.checkpoints.store_errors import asking, names_of
from nemo_demix.errors import CheckpointError, ConfigError, StackError

# Size, time of writing (ns), and what tells one writing from another: an inode, or a store's tag.
State = tuple[int, int, int | str]

T = TypeVar("T")
_ADDRESS = re.compile(r"(s3|msc):/{1,2}([^/].*)", re.DOTALL)  # pathlib takes two slashes for one
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://")
_PIECE = 16 << 20  # asked for at a time, where a reader wants much
# What was answered so far in one look at a checkpoint, by what was asked.
_answers: ContextVar[dict[Any, Any] | None] = ContextVar("answers", default=None)


@contextmanager
def one_look() -> Iterator[None]:
    """Ask a store nothing twice, while inside: what stands there is looked at once, as of one moment."""
    token = _answers.set({})
    try:
        yield
    finally:
        _answers.reset(token)


def _once(question: Any, ask: Callable[[], T]) -> T:
    answers = _answers.get()
    if answers is None:
        return ask()
    if question not in answers:
        answers[question] = ask()
    found: T = answers[question]
    return found


class StorePath(PosixPath):
    """A folder or an object of a store, for code that looks at paths and reads them.

    Folders are made of the keys below them. What would touch this machine's file system raises: an address is never
    taken for a local path.
    """

    _listed: str | None = None  # what a listing said that it is: file | directory

    def __str__(self) -> str:
        scheme, *rest = self.parts or ("",)
        return f"{scheme}//{'/'.join(rest)}"

    def __repr__(self) -> str:
        return f"StorePath({str(self)!r})"

    def __fspath__(self) -> str:
        raise CheckpointError(
            f"{self}: is in an object store, and what is asked for needs a folder of this machine; copy it here first"
        )

    def relative_to(self, *other: Any) -> Path:  # type: ignore[override]
        """Return the rest of the address, which is no address of its own."""
        return Path(*super().relative_to(*other).parts)

    def resolve(self, strict: bool = False) -> "StorePath":
        """Return the same: stores have no links."""
        return self

    def absolute(self) -> "StorePath":
        """Return the same."""
        return self

    def is_symlink(self) -> bool:
        """Say no: stores have no links."""
        return False

    def is_file(self) -> bool:
        """Tell whether there is an object of this key."""
        if self._listed is not None:
            return self._listed == "file"
        return self._key != "" and self._info() is not None

    def is_dir(self) -> bool:
        """Tell whether there is a key below this one."""
        if self._listed is not None:
            return self._listed == "directory"
        return _once(("is_dir", self), self._is_dir)

    def exists(self) -> bool:
        """Tell whether there is one or the other, in a bucket: a bucket beside another is nobody's business."""
        return self._key != "" and (self.is_file() or self.is_dir())

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return size and time of an object.

        Raises:
            FileNotFoundError: if there is none.
        """
        found = self._info()
        if found is None:
            raise FileNotFoundError(f"{self}: not found")
        size, time_ns, _ = _state(found)
        return os.stat_result((stat.S_IFREG | 0o444, 0, 0, 1, 0, 0, size, *[time_ns // 10**9] * 3))

    def iterdir(self) -> Generator["StorePath", None, None]:
        """Yield what stands in a folder. Keys that are no paths (`..`, or nothing between slashes) are left out."""
        for relative, entry in self._list(include_directories=True):
            if len(relative.parts) == 1:
                yield self._child(relative, entry.type)

    def rglob(self, pattern: str) -> Generator["StorePath", None, None]:
        """Yield the objects anywhere below whose names match."""
        for relative, entry in self._list():
            if fnmatchcase(relative.name, pattern):
                yield self._child(relative, entry.type)

    def glob(self, pattern: str) -> Generator["StorePath", None, None]:
        """Yield what matches a pattern, of which each part but the last stands for a folder."""
        first, _, rest = pattern.partition("/")
        plain = not any(sign in first for sign in "*?[")
        for path in [self / first] if plain else (path for path in self.iterdir() if fnmatchcase(path.name, first)):
            if rest:
                yield from path.glob(rest)
            elif not plain or path.exists():
                yield path

    def states(self) -> dict[Path, State]:
        """Return what is below a folder, by path relative to it, from one listing."""
        return {relative: _state(entry) for relative, entry in self._list()}

    def write_bytes(self, data: bytes) -> int:  # type: ignore[override]
        """Write an object: whole, or not at all."""
        client, key = self._client()
        with asking(self):
            client.write(key, data)
        return len(data)

    def send(self, file: Path) -> None:
        """Write an object from a file of this machine, a large one in parts: it is there when all of them are."""
        client, key = self._client()
        with asking(self):
            client.upload_file(key, str(file))

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove an object."""
        client, key = self._client()
        with asking(self):
            try:
                client.delete(key)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def open_object(self) -> "StoreFile":
        """Open the object itself, for reading.

        Raises:
            CheckpointError: if it is what multi-storage-client takes for a link: where that leads is not looked at.
            FileNotFoundError: if there is none.
        """
        found = self._info()
        if found is None:
            raise FileNotFoundError(f"{self}: not found")
        if getattr(found, "symlink_target", None):
            raise CheckpointError(
                f"{self}: is a link, which is not followed. Copy the object there if it belongs to it"
            )
        return StoreFile(self, *self._client(), found)

    @property
    def _key(self) -> str:
        return "/".join(self.parts[2:])

    def _client(self) -> tuple[Any, str]:
        """Return what talks to the store, and this key as it knows it; a forked process gets one of its own."""
        with asking(self):
            return client_of(str(self))

    def _info(self) -> Any:
        return _once(("info", self), self._ask_info)

    def _ask_info(self) -> Any:
        client, key = self._client()
        with asking(self):
            try:
                return client.info(key, strict=False)
            except FileNotFoundError:
                return None

    def _is_dir(self) -> bool:
        client, key = self._client()
        with asking(self):
            try:
                client.info(f"{key}/")
            except FileNotFoundError as error:
                if "NoSuchBucket" in names_of(error):
                    raise
                return False
        return True

    def _list(self, include_directories: bool = False) -> list[tuple[Path, Any]]:
        """Return what is below: its path from here, and what the store says of it."""
        return _once(("list", self, include_directories), lambda: self._ask_list(include_directories))

    def _ask_list(self, include_directories: bool) -> list[tuple[Path, Any]]:
        client, key = self._client()
        prefix = f"{key}/" if key else ""
        found = []
        with asking(self):
            for entry in client.list(prefix, include_directories=include_directories):
                below = entry.key.removeprefix(prefix)
                if entry.key.startswith(prefix) and not {"", ".", ".."} & set(below.split("/")):
                    found.append((Path(below), entry))
        return found

    def _child(self, relative: Path, kind: str) -> "StorePath":
        child = self / relative
        child._listed = kind
        return child


class StoreFile:
    """An object, read by ranges. What was found of it when it was opened is what is read, or reading fails.

    Attributes:
        size: Its bytes.
        piece: How many to ask for at a time, where all are wanted.
        ahead: Bytes to fetch at a time where a reader says that it goes on; 0: what is asked for, no more.
    """

    piece = _PIECE

    def __init__(self, path: StorePath, client: Any, key: str, found: Any) -> None:
        self._path, self._client, self._key = path, client, key
        self.state = _state(found)
        self.size = self.state[0]
        self.ahead = 0
        self._start, self._window = 0, memoryview(b"")

    def read_some(self, buffer: memoryview, offset: int, until: int = 0) -> int:
        """Fill a buffer, or the beginning of it, from an offset; returns how much, 0 at the end.

        Args:
            until: Up to where a reader will go on; what is fetched ahead ends there.
        """
        size = min(len(buffer), self.size - offset, _PIECE)
        if size <= 0:
            return 0
        place = offset - self._start
        if not 0 <= place < len(self._window):
            end = min(max(offset + size, min(until, offset + self.ahead)), self.size)
            data = self._get(offset, end - offset)
            if end == offset + size:  # what was fetched ahead before may be wanted yet
                buffer[:size] = data
                return size
            self._start, self._window, place = offset, data, 0
        part = self._window[place : place + size]
        buffer[: len(part)] = part
        return len(part)

    def _get(self, offset: int, size: int) -> memoryview:
        from multistorageclient.types import Range

        try:
            with asking(self._path):
                data = memoryview(self._client.read(self._key, byte_range=Range(offset=offset, size=size)))
        except FileNotFoundError:
            raise CheckpointError(f"{self._path}: is gone since it was opened; copy the checkpoint again") from None
        if len(data) != size:
            raise CheckpointError(
                f"{self._path}: the store gave {len(data)} of {size} bytes at {offset}; it was changed, or cut short, "
                "since it was looked at"
            )
        return data

    def close(self) -> None:
        """Let go of what was fetched ahead."""
        self._window = memoryview(b"")


def checkpoint_path(path: str | Path) -> Path:
    """Find where a checkpoint is: on this machine, or in an object store.

    Raises:
        ConfigError: if it is an address that is not read, or names no folder in its bucket.
    """
    if isinstance(path, StorePath):
        return path
    text = str(path)
    found = _ADDRESS.fullmatch(text)
    if found is None:
        if _SCHEME.match(text):
            raise ConfigError(
                f"{text}: expected a folder, s3://BUCKET/FOLDER, or msc://PROFILE/FOLDER, which reaches any store that "
                "multi-storage-client knows"
            )
        return Path(path)
    parts = found[2].rstrip("/").split("/")
    if len(parts) < 2 or not text.isprintable() or {"", ".", ".."} & set(parts):
        raise ConfigError(f"{text!a}: expected {found[1]}://NAME/FOLDER, with a plain path for a folder")
    address = StorePath(f"{found[1]}:", *parts)
    return (_local(address) if found[1] == "msc" else None) or address


def _local(address: StorePath) -> Path | None:
    """Return the folder of this machine that a profile stands for, if it does: the rules for links are those here."""
    client, key = address._client()
    found = client.get_posix_path(key)
    return None if found is None else Path(found)


def client_of(address: str) -> tuple[Any, str]:
    """Return multi-storage-client for an address, and the key there; imported late: few commands need it."""
    try:
        from multistorageclient import resolve_storage_client
    except ModuleNotFoundError as error:
        raise StackError(f"{address}: {error}; pip install 'nemo-demix[store]'") from None
    return resolve_storage_client(address)


def _state(found: Any) -> State:
    # Listings give fractions of a second, single answers do not.
    return found.content_length, int(found.last_modified.timestamp()) * 10**9, found.etag or ""
