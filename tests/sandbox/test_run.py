import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from nemo_demix.errors import ScoreError
from nemo_demix.sandbox import Limits, available_isolation, run_programs
from nemo_demix.sandbox.contract import FAILED, KILLED, OUT_OF_MEMORY, PASSED, TIMED_OUT, Outcome
from tests.sandbox.solutions import humaneval, mbpp

REPOSITORY = Path(__file__).parents[2]
QUICK = Limits(wall_s=2, memory_mib=256)


def run(program: str, limits: Limits = QUICK) -> Outcome:
    return run_programs([textwrap.dedent(program)], limits, 1)[0]


def test_outcomes_come_in_the_order_of_the_programs() -> None:
    programs = [
        f"import time\ntime.sleep({0.3 if number % 5 == 0 else 0})\nassert {number} % 3" for number in range(20)
    ]
    outcomes = run_programs(programs, QUICK, 3)
    assert [outcome.passed for outcome in outcomes] == [number % 3 != 0 for number in range(20)]
    assert all(outcome.wall_s >= 0.3 for outcome in outcomes[::5])
    assert run_programs([], QUICK, 3) == []


@pytest.mark.parametrize(
    ("program", "status", "detail"),
    [
        ("assert sum(range(4)) == 6", PASSED, ""),
        ("assert 1 == 2, 'not equal'", FAILED, "AssertionError: not equal"),
        ("def f(:", FAILED, "SyntaxError: invalid syntax (<program>, line 1)"),
        ("x = '\0'", FAILED, "source code string cannot contain null bytes"),
        ("x = '\ud800'", FAILED, "UnicodeEncodeError"),
        ("raise ValueError('two\\nlines')", FAILED, "ValueError: two lines"),
        ("input()", FAILED, "EOFError: EOF when reading a line"),
        ("raise SystemExit", FAILED, "SystemExit"),
        ("import os; os._exit(0)", FAILED, "ended with code 0 before its end"),
        ("while True: pass", TIMED_OUT, "ran for 2 s"),
        ("x = bytearray(1 << 30)", OUT_OF_MEMORY, "MemoryError"),
        ("import ctypes; ctypes.string_at(0)", KILLED, "SIGSEGV"),
        ("class E(Exception):\n    def __str__(self): raise self\nraise E", FAILED, "ended with code 1 before its end"),
    ],
)
def test_statuses(program: str, status: str, detail: str) -> None:
    outcome = run(program)
    assert outcome.status == status
    assert detail in outcome.detail
    assert bool(outcome.detail) == bool(detail)


def test_a_trace_of_the_programs_raises_in_the_harness() -> None:
    program = "import sys\ndef trace(*_): raise ValueError\nsys._getframe(1).f_trace = trace\nsys.settrace(trace)"
    quirky, next_one = run_programs([program, "pass"], QUICK, 1)
    assert (quirky.status, quirky.detail) == (FAILED, "ended with code 1 before its end")
    assert next_one.passed


def test_processor_time_of_all_threads_is_limited() -> None:
    if not available_isolation().threads or (os.cpu_count() or 1) < 2:
        pytest.skip("needs two processors, and threads for programs")
    outcome = run(
        """
        import hashlib, threading
        for _ in range(4):
            threading.Thread(target=hashlib.pbkdf2_hmac, args=('sha256', b'', b'', 10**9), daemon=True).start()
        threading.Event().wait()
        """
    )
    assert outcome.status == TIMED_OUT


def test_threads_up_to_the_limit() -> None:
    if not available_isolation().threads:
        pytest.skip("programs get no threads on this machine")
    program = "import threading, time\nfor _ in range({}): threading.Thread(target=time.sleep, args=(1,)).start()"
    few, many = run_programs([program.format(15), program.format(16)], Limits(threads=16), 1)
    assert few.status == PASSED
    assert (many.status, many.detail) == (FAILED, "RuntimeError: can't start new thread")


def test_what_a_program_finds() -> None:
    outcome = run(
        """
        import asyncio, doctest, os, sys, tempfile, unittest, zoneinfo
        assert not os.environ and sys.argv == ['program'] and __name__ == 'builtins'
        assert sys.getfilesystemencoding() == 'utf-8' and not sys.stdin.read()
        async def main():
            await asyncio.sleep(0)
        asyncio.run(main())
        print('\\N{SNOWMAN}', open('/dev/null').read())
        open_files = []
        for number in range(1024):
            try:
                os.fstat(number)
                open_files.append(number)
            except OSError:
                pass
        assert open_files == [0, 1, 2, 3], open_files
        """
    )
    assert (outcome.status, outcome.detail) == (PASSED, "")


def test_the_scratch_folder_is_each_programs_own() -> None:
    if "mount" not in available_isolation().namespaces:
        pytest.skip("programs can write no file on this machine")
    program = (
        "import os\nassert os.listdir() == []\nopen('file', 'w').write('x')\nos.mkdir('d')\nos.rename('file', 'd/f')"
    )
    assert all(outcome.passed for outcome in run_programs([program] * 4, QUICK, 1))


def test_the_same_program_ends_the_same_way_in_every_worker() -> None:
    program = "import random\nraise ValueError(random.random(), list({'a', 'b', 'c', 'd'}), hash('x'))"
    assert (
        len({outcome.detail for outcome in run_programs([program] * 6, QUICK, 3) + run_programs([program], QUICK, 1)})
        == 1
    )


def test_only_the_packages_that_are_asked_for() -> None:
    programs = [
        "import numpy as np\nassert np.linalg.inv(np.eye(3) * 2)[0, 0] == 0.5",
        "import scipy",
        "import nemo_demix",
    ]
    assert [outcome.passed for outcome in run_programs(programs, Limits(), 1)] == [False, False, False]
    assert [outcome.passed for outcome in run_programs(programs, Limits(), 1, ["numpy"])] == [True, False, False]
    with pytest.raises(ScoreError, match="package 'no_such_package' is not installed"):
        run_programs(programs, Limits(), 1, ["no_such_package"])


def test_every_solution_of_humaneval_and_mbpp_passes_and_no_empty_one() -> None:
    outcomes = run_programs([*humaneval(), *mbpp()], Limits(wall_s=60), 2)
    assert [outcome for outcome in outcomes if not outcome.passed] == []
    assert len(outcomes) == 164 + 500
    assert not any(outcome.passed for outcome in run_programs(humaneval("    return None\n"), Limits(), 2))


def workers_of(caller: int) -> list[int]:
    """Processes that that caller's workers are, or came from them."""
    mark = f"main({caller}, ".encode()
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark in file.read_bytes():
                found.append(int(file.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def start_endless(number: int) -> subprocess.Popen[bytes]:
    """A caller with so many programs that do not end."""
    source = "import json, sys; from nemo_demix.sandbox import Limits, run_programs\n"
    source += f"print(run_programs(['while True: pass'] * {number}, Limits(wall_s=60), {number}))"
    caller = subprocess.Popen(
        [sys.executable, "-c", source], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 30
    each = 3 if "pid" in available_isolation().namespaces else 2
    while len(workers_of(caller.pid)) < each * number:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)  # past the trials, which are short
    return caller


def all_gone(caller: int) -> bool:
    deadline = time.monotonic() + 10
    while workers_of(caller) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not workers_of(caller)


def test_programs_end_with_their_caller() -> None:
    caller = start_endless(2)
    assert workers_of(caller.pid)
    caller.kill()
    caller.communicate()
    assert all_gone(caller.pid)


def test_a_worker_that_is_killed_is_an_error_and_not_an_outcome() -> None:
    caller = start_endless(1)
    (worker,) = Path(f"/proc/{caller.pid}/task/{caller.pid}/children").read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    _, errors = caller.communicate(timeout=60)
    assert caller.returncode == 1
    assert b"ScoreError: sandbox: the worker ended with code" in errors
    assert all_gone(caller.pid)


def test_a_long_program_and_many_of_them() -> None:
    long = "x = 0\n" + "x += 1\n" * 50_000 + "assert x == 50_000"
    outcomes = run_programs([long, *["pass"] * 100, long], Limits(), 2)
    assert [outcome.status for outcome in outcomes] == [PASSED] * 102
    assert json.dumps([outcome.wall_s for outcome in outcomes])
