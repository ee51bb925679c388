"""A worker's process, as its caller sees it."""

import contextlib
import dataclasses
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from nemo_demix.errors import ScoreError
from nemo_demix.sandbox.contract import Isolation, Limits, Outcome

_HOME = str(Path(__file__).resolve().parents[2])
_COMMAND = "import sys; sys.path.append({0!r}); from nemo_demix.sandbox.worker import main; main({1}, {0!r})"
_START_S = 60.0
_GRACE_S = 30.0  # beyond a program's own limit, which the worker keeps
_END_S = 1.0  # that a process may take to be gone after its pipe is closed
_LINKER = "LD_LIBRARY_PATH"  # some sites' Python does not start without it


class Interpreter:
    """Starts at once; the kernel ends it with the thread that made it.

    Args:
        limits: Limits of every program.
        packages: Packages that programs may import, with their folders and files.
    """

    def __init__(self, limits: Limits, packages: Mapping[str, Sequence[str]]) -> None:
        # Not -I: it ignores the seed, without which a program that reads a set in order may pass now and fail then.
        command = [sys.executable, "-s", "-P", "-S", "-B", "-X", "utf8", "-c", _COMMAND.format(_HOME, os.getpid())]
        environment = {"PYTHONHASHSEED": "0", **{name: os.environ[name] for name in (_LINKER,) if name in os.environ}}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._incoming, self._outgoing = self._process.stdout, self._process.stdin
        self._limits = limits
        self.deadline = time.monotonic() + _START_S
        self._say({"limits": dataclasses.asdict(limits), "packages": dict(packages)})

    def fileno(self) -> int:
        """Return what to wait for, until it has something to say."""
        return self._incoming.fileno()

    @property
    def is_due(self) -> bool:
        """Whether it has something to say, or should have by now."""
        return bool(wait([self.fileno()], 0)) or time.monotonic() > self.deadline

    def isolation(self) -> Isolation:
        """Return what it has prepared: the first thing it says."""
        message = self._hear()
        return Isolation(**{**message, "namespaces": tuple(message["namespaces"]), "unprotected": ()})

    def start(self, program: str) -> None:
        """Let it run a program."""
        self.deadline = time.monotonic() + self._limits.wall_s + _GRACE_S
        self._say({"program": program})

    def outcome(self) -> Outcome:
        """Wait for the outcome of the program it was last given."""
        return Outcome(**self._hear())

    def end(self) -> None:
        """End it; if it is busy, the kernel ends what it started with it."""
        with contextlib.suppress(BrokenPipeError):
            self._outgoing.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._incoming.close()

    def _say(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # that it has ended is seen when it is listened to
            self._outgoing.write(json.dumps(message).encode() + b"\n")
            self._outgoing.flush()

    def _hear(self) -> dict[str, Any]:
        """Return one message; a worker writes each in one piece, which a pipe keeps whole."""
        ready = wait([self.fileno()], max(0.0, self.deadline - time.monotonic()))
        line = os.read(self.fileno(), select.PIPE_BUF) if ready else b""
        if not line.endswith(b"\n"):
            raise ScoreError(
                f"sandbox: the worker {self._fate()}; expected {sys.executable} to run with -s -P -S -B in an empty "
                "environment: see above for what it said, give the machine more memory, or take fewer workers"
            )
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            raise ScoreError(
                f"sandbox: {message['error']}; expected the one or the other, and room for a process: use another "
                "container, or set suite.allow_code_execution=false"
            )
        return message

    def _fate(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return f"ended with code {self._process.wait(_END_S)}"
        return "does not answer"
