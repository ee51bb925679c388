"""`scores.jsonl`: one row a proxy, append-only, so that a search killed at any moment has lost at most one proxy."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_demix.artifacts import canonical_json
from nemo_demix.errors import DemixError

Row = dict[str, Any]


class ScoreLog:
    """Rows by merge weights, of one set of components and one suite (`fingerprint`); others' rows stay and are ignored.

    Raises:
        DemixError: if a line other than the last is not a row.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self._rows: dict[str, Row] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole != len(data):  # a row that was being written when the process was killed
            os.truncate(self.path, whole)
        for number, line in enumerate(data[:whole].splitlines(), start=1):
            try:
                row = json.loads(line)
                key, owner = canonical_json(row["merge_weights"]), row["fingerprint"]
            except (ValueError, KeyError, TypeError) as error:
                raise DemixError(
                    f"{self.path}:{number}: expected a row of scores, found {type(error).__name__}: {error}; "
                    "move the file away to score everything again"
                ) from None
            if owner == self.fingerprint:
                self._rows[key] = row

    def find(self, merge_weights: Mapping[str, float]) -> Row | None:
        """The row of exactly these merge weights."""
        return self._rows.get(canonical_json(dict(merge_weights)))

    def rows(self) -> list[Row]:
        """All rows, in the order they were scored."""
        return list(self._rows.values())

    def append(self, row: Row) -> Row:
        """Add a row and make sure that it is on the disk; returns it as a later reader will find it."""
        line = canonical_json({**row, "fingerprint": self.fingerprint})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        stored: Row = json.loads(line)
        self._rows[canonical_json(stored["merge_weights"])] = stored
        return stored
