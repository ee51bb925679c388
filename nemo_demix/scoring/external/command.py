"""External commands: started under a guard, timed, tried again, and ended with the process that asked for them."""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from nemo_demix.artifacts import json_value
from nemo_demix.errors import ScoreError
from nemo_demix.scoring.external import guard

logger = logging.getLogger(__name__)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_TAIL_LINES = 5


@dataclass(frozen=True)
class Command:
    """A command, ready to run.

    Attributes:
        what: Names it in messages: the suite's key and the model.
        output: Where it writes its JSON; None: to standard output, as the last line.
        log: Gets all that it prints.
        retries: How often a command that fails is tried again.
    """

    what: str
    words: list[str]
    environment: Mapping[str, str]
    output: Path | None
    log: Path
    timeout_s: float
    retries: int


class Commands:
    """Runs commands; safe to use from several threads. None is left when `stop` returns, or this process ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End what runs, and start nothing more."""
        with self._lock:
            self._stopped.set()
            running = list(self._running)
        for process in running:
            _end(process)

    def run(self, command: Command) -> dict[str, Any]:
        """Return the JSON object that a command answers with.

        Raises:
            ScoreError: if it fails, takes too long or answers otherwise, every time.
        """
        pause_s = _FIRST_PAUSE_S
        for left in range(command.retries, -1, -1):
            try:
                return self._run(command)
            except ScoreError as error:
                if not left or self._stopped.is_set():
                    raise
                logger.warning("%s; another try in %.0f s, %d left", error, pause_s, left)
                self._stopped.wait(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        raise AssertionError("unreachable")

    def _run(self, command: Command) -> dict[str, Any]:
        command.log.parent.mkdir(parents=True, exist_ok=True)
        if command.output is not None:
            command.output.unlink(missing_ok=True)
        with open(command.log, "ab") as log, open(command.log.with_suffix(".out"), "w+b") as printed:
            start = log.tell()
            try:
                self._wait(command, printed, log)
                found = _last_json(printed) if command.output is None else _read(command)
            except ScoreError as error:
                raise ScoreError(f"{command.what}: {error}; {_tail(command.log, start)}") from None
            finally:
                printed.seek(0)
                log.write(printed.read())
                command.log.with_suffix(".out").unlink(missing_ok=True)
        return found

    def _wait(self, command: Command, printed: IO[bytes], log: IO[bytes]) -> None:
        with self._lock:
            if self._stopped.is_set():
                raise ScoreError("it was not started: this run is being stopped")
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__, *command.words],
                stdin=subprocess.PIPE,
                stdout=printed,
                stderr=log,
                env={**os.environ, **command.environment},
                start_new_session=True,
            )
            self._running.add(process)
        started = time.monotonic()
        try:
            code = process.wait(command.timeout_s)
        except subprocess.TimeoutExpired:
            raise ScoreError(f"not done after timeout_s={command.timeout_s:g}, and killed") from None
        finally:
            _end(process)
            with self._lock:
                self._running.discard(process)
        if self._stopped.is_set():
            raise ScoreError("it was ended: this run is being stopped")
        if code:
            raise ScoreError(f"exit code {code} after {time.monotonic() - started:.0f} s")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Let the guard kill the command, and wait for both."""
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


def _read(command: Command) -> dict[str, Any]:
    assert command.output is not None
    try:
        found = json_value(command.output.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ScoreError("it ended well, but did not write {output}") from None
    except ValueError as error:
        raise ScoreError(f"expected JSON in {{output}}, found: {error}") from None
    if not isinstance(found, dict):
        raise ScoreError(f"expected a JSON object in {{output}}, found {type(found).__name__}")
    return found


def _last_json(printed: IO[bytes]) -> dict[str, Any]:
    """Return the last line that is a JSON object: libraries print before it, and some after."""
    printed.seek(0)
    for line in reversed(printed.read().decode(errors="replace").splitlines()):
        if line.lstrip().startswith("{"):
            try:
                found = json_value(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                return found
    raise ScoreError("expected a line of JSON on standard output, found none")


def _tail(log: Path, start: int) -> str:
    with open(log, "rb") as file:
        file.seek(start)
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    said = " | ".join(line.strip() for line in lines[-_TAIL_LINES:])
    return f"the end of {log}: {said}" if said else f"{log} says nothing"
