"""Answers to mathematics problems, compared by math-verify in processes that may be ended at any time.

An expression such as 9^{9^{9^9}} keeps sympy busy for ever, partly in C code that no alarm interrupts.
"""

import json
import logging
import selectors
import subprocess
import sys
import weakref
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nemo_demix.errors import ScoreError

log = logging.getLogger(__name__)

_WORKER = Path(__file__).with_name("math_worker.py")
_TIMEOUT_S = 60.0  # by the clock; the process itself gives up after 20 s of processor time
_START_TIMEOUT_S = 120.0


class MathAnswers:
    """Whether responses have the answers of solutions, as the harness's `minerva_math_*` sees it.

    The processes are kept for the next model: a solution's expression is read once in each.
    """

    def __init__(self, workers: int, timeout_s: float = _TIMEOUT_S) -> None:
        """Take how many processes run at once; a comparison that takes longer than the time-out is no match."""
        self._workers = [_Worker(timeout_s) for _ in range(workers)]

    def check(self, questions: Sequence[tuple[str, str]]) -> list[bool]:
        """Compare (solution, response) pairs; in order.

        Raises:
            ScoreError: if math-verify cannot be started.
        """
        shares: list[list[int]] = [[] for _ in self._workers]
        for place, (solution, _) in enumerate(questions):
            shares[zlib.crc32(solution.encode()) % len(shares)].append(place)  # the same process for every model
        answers = [False] * len(questions)

        def work(worker: "_Worker", places: list[int]) -> None:
            for place in places:
                answers[place] = worker.same(*questions[place])

        with ThreadPoolExecutor(len(shares)) as pool:
            for done in [pool.submit(work, *pair) for pair in zip(self._workers, shares, strict=True)]:
                done.result()
        return answers


class _Worker:
    """One process of `math_worker`, started when it is first needed, and again where a question ended it."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None

    def same(self, solution: str, response: str) -> bool:
        if self._process is None:
            self._start()
        answer = self._ask(solution, response, self._timeout_s)
        if answer is None:
            log.warning("math: no answer in time or in memory, counted as wrong: %.80r", response)
            self._stop()
        return bool(answer)

    def _start(self) -> None:
        command = [sys.executable, "-I", str(_WORKER)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        weakref.finalize(self, _end, self._process)
        if self._ask(r"$\boxed{1}$", r"$\boxed{1}$", _START_TIMEOUT_S) is not True:
            self._stop()
            raise ScoreError(
                f"math-verify does not start: run `{' '.join(command)}` to see why; it is installed by: "
                'pip install "math-verify[antlr4_9_3]"'
            )

    def _ask(self, solution: str, response: str, timeout_s: float) -> bool | None:
        """Return the answer; None: there came none in time, or the process ended."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps([solution, response]).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            return None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(timeout_s):
                return None
        line = process.stdout.readline()
        return bool(json.loads(line)) if line else None

    def _stop(self) -> None:
        if self._process is not None:
            _end(self._process)
            self._process = None


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the process, whatever it does."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:
                continue  # what it had not read is lost with it
