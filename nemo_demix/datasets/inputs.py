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
from nemo_demix.datasets.files import identity, is_address
from nemo_demix.errors import DemixError

logger = logging.getLogger(__name__)
Identity = list[Any]  # place, size in bytes, and its time of modification when it was first read


class Inputs:
    """What a run knows of its input files.

    Args:
        run_dir: The run's folder; only `keep` writes to it.
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

    def identity(self, place: str) -> Identity:
        """Return what stands for a file in fingerprints; the same as long as its bytes are.

        Raises:
            DatasetError: if it is missing.
        """
        now = identity(place)
        known = self._known.get(place)
        if known is None or is_address(place):
            return now
        seen = _seen(place)
        if known["seen"] != seen:
            if known["identity"][1] != now[1] or file_sha256(Path(place)) != known["sha256"]:
                return now
            known["seen"] = seen
            self._changed = True
        return list(known["identity"])

    def keep(self, before: Mapping[str, Identity]) -> None:
        """Write down the checksums of the files that `prepare` has read; what lies behind an address has its own.

        Args:
            before: What stood for each when it began; one that was written to since is left out.
        """
        for place, found in before.items():
            known = self._known.get(place)
            if is_address(place) or (known is not None and known["identity"] == found):
                continue
            seen = _seen(place)
            if identity(place) != found:
                continue
            entry = {"identity": found, "seen": seen, "sha256": file_sha256(Path(place))}
            if _seen(place) == seen:
                self._known[place] = entry
                self._changed = True
        if self._changed:
            write_json(self._path, self._known)
            self._changed = False


def identity_of(place: str, inputs: Inputs | None) -> Identity:
    """Return what stands for a file in fingerprints: as the run knows it; None: as it lies there."""
    return identity(place) if inputs is None else inputs.identity(place)


def _seen(place: str) -> list[int]:
    status = os.stat(place)
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and {"identity", "seen", "sha256"} == set(entry) and len(entry["identity"]) == 3
