"""What rank 0 says, for the person at the command: it writes lines of JSON, and the command's process shows them.

One process then holds the terminal, so that a bar stays whole. Everything else that ranks print stays in their logs;
with -v the command shows rank 0's too.
"""

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import IO

from nemo_demix.progress import ATTRIBUTE, Progress, progress_of
from nemo_demix.terminal import is_verbose

NAME = "said.jsonl"
_LOGGER = "nemo_demix.rank_0"


class Said(logging.FileHandler):
    """Rank 0's records, a line each."""

    def __init__(self, logs: Path) -> None:
        super().__init__(logs / NAME, encoding="utf-8")

    def format(self, record: logging.LogRecord) -> str:
        """Turn the record into a line of JSON."""
        progress = progress_of(record)
        told = {"level": record.levelno, "text": record.getMessage()}
        return json.dumps(told if progress is None else told | {"progress": asdict(progress)})


class Relay:
    """The command's end: shows what has been written since it last looked."""

    def __init__(self, logs: Path) -> None:
        self._said = _Growing(logs / NAME)
        self._log = _Growing(logs / "rank_0.log") if is_verbose() else None

    def relay(self) -> None:
        """Show what is new."""
        logger = logging.getLogger(_LOGGER)
        for line in self._said.lines():
            told = json.loads(line)
            progress = Progress(**told["progress"]) if "progress" in told else None
            if self._log is None or (progress is not None and not progress.is_line):
                logger.log(told["level"], "%s", told["text"], extra={ATTRIBUTE: progress})
        if self._log is not None:
            for line in self._log.lines():
                print(line, file=sys.stderr)

    def close(self) -> None:
        """Show the rest, and let the files go."""
        self.relay()
        for one in filter(None, (self._said, self._log)):
            one.close()


class _Growing:
    """The whole lines of a file that another process appends to."""

    def __init__(self, path: Path) -> None:
        self._path, self._rest = path, b""
        self._start = path.stat().st_size if path.exists() else 0  # of an earlier launch
        self._file: IO[bytes] | None = None

    def lines(self) -> list[str]:
        if self._file is None:
            try:
                self._file = open(self._path, "rb")  # noqa: SIM115  # kept open, closed in `close`
            except FileNotFoundError:
                return []
            self._file.seek(self._start)
        *whole, self._rest = (self._rest + self._file.read()).split(b"\n")
        return [line.decode("utf-8", "replace") for line in whole]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
