"""A run's input files, by what is in them: one that was only touched or copied back is the file it was.

`prepare` reads its inputs anyway, so it keeps their checksums in `<run>/datasets/inputs.json`. Everyone else looks at
size, time and inode, and reads a file again only where its time is another and its size is not.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_demix.artifacts import file_sha256, read_json, write_json
from nemo_demix.errors import DatasetError, DemixError

logger = logging.getLogger(__name__)
Identity = list[Any]  # absolute path, size in bytes, modification time in nanoseconds when it was first read


class Inputs:
    """What a run knows of its input files.

    Args:
        run_dir: Of the run; nothing is written but by `keep`.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir.absolute() / "datasets" / "inputs.json"
        self._known: dict[str, dict[str, Any]] = {}
        self._changed = False
        try:
            found = read_json(self._path) if self._path.exists() else {}
        except DemixError as error:  # identities are then of sizes and times
            logger.warning("%s", error)
            found = {}
        if isinstance(found, dict):
            self._known = {path: entry for path, entry in found.items() if _is_entry(entry)}

    def identity(self, path: Path) -> Identity:
        """What stands for a file in fingerprints; the same as long as its bytes are.

        Raises:
            DatasetError: if it is missing.
        """
        status = _stat(path)
        now: Identity = [str(path.absolute()), status.st_size, status.st_mtime_ns]
        known = self._known.get(now[0])
        if known is None:
            return now
        if known["seen"] != _seen(status):
            if known["identity"][1] != status.st_size or file_sha256(path) != known["sha256"]:
                return now
            known["seen"] = _seen(status)
            self._changed = True
        return list(known["identity"])

    def keep(self, before: Mapping[Path, Identity]) -> None:
        """Write down the checksums of the files that `prepare` has read.

        Args:
            before: What stood for each when it began; one that was written to since is left out.
        """
        for path, identity in before.items():
            name = str(path.absolute())
            known = self._known.get(name)
            if known is not None and known["identity"] == identity:
                continue
            seen = _seen(_stat(path))
            if stat_identity(path) != identity:
                continue
            entry = {"identity": identity, "seen": seen, "sha256": file_sha256(path)}
            if _seen(_stat(path)) == seen:
                self._known[name] = entry
                self._changed = True
        if self._changed:
            write_json(self._path, self._known)
            self._changed = False


def stat_identity(path: Path) -> Identity:
    """A file's absolute path, size in bytes and modification time in nanoseconds.

    Raises:
        DatasetError: if it is missing.
    """
    status = _stat(path)
    return [str(path.absolute()), status.st_size, status.st_mtime_ns]


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise DatasetError(f"{path}: expected a file, found: {error.strerror}; correct the path") from None


def _seen(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and {"identity", "seen", "sha256"} == set(entry) and len(entry["identity"]) == 3
