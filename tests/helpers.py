"""Running the product as a user does, and looking at what it leaves."""

import contextlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil

from nemo_demix.checkpoints.saved import is_complete
from nemo_demix.merging.merge import MergeOptions, MergeReport, merge
from nemo_demix.merging.methods import build_method
from nemo_demix.merging.peers import Peers
from nemo_demix.merging.plan import make_plan
from nemo_demix.merging.sources import open_sources
from tests import forked

REPOSITORY = Path(__file__).parents[1]


VARIABLES = {"OMP_NUM_THREADS": "1", "TORCH_COMPILE_DISABLE": "1", "HF_HUB_OFFLINE": "1"}  # of every command


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, **VARIABLES, **more}


def run_cli(
    *arguments: str, timeout: float = 500, expect: int = 0, cwd: Path = REPOSITORY
) -> subprocess.CompletedProcess[str]:
    """Run `nemo-demix ARGUMENTS` and check its exit code."""
    process = forked.start_cli(arguments, _environment(), cwd)
    try:
        output, errors = process.communicate(timeout)
    finally:
        process.kill()
    code = process.returncode
    assert code == expect, f"exit code {code}, expected {expect}\n{output}{errors}"
    return subprocess.CompletedProcess(["nemo-demix", *arguments], code, output, errors)


def run_fresh(
    *arguments: str, timeout: float = 500, expect: int = 0, python: Path | str = sys.executable, **variables: str
) -> subprocess.CompletedProcess[str]:
    """As `run_cli`, in a Python that has imported nothing yet, as a user's shell starts it."""
    result = subprocess.run(
        [python, "-m", "nemo_demix", *arguments],
        cwd=REPOSITORY, env=_environment(**variables), capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    assert result.returncode == expect, f"exit code {result.returncode}\n{result.stdout}{result.stderr}"
    return result


def start_cli(*arguments: str, **variables: str) -> forked.Started:
    """`nemo-demix ARGUMENTS`, started."""
    return forked.start_cli(arguments, _environment(**variables), REPOSITORY)


def run_program(name: str, *arguments: str, ranks: int = 1, timeout: float = 300) -> dict[str, Any]:
    """Run tests/programs/NAME.py on real ranks; its last line on rank 0's stdout is JSON."""
    script = REPOSITORY / "tests" / "programs" / f"{name}.py"
    output = forked.run_ranks(script, arguments, _environment(), REPOSITORY, ranks, timeout)
    return json.loads(output.strip().splitlines()[-1])  # type: ignore[no-any-return]


def other(path: Path) -> Path:
    """The component saved in the same layout as one of the fixture `layouts`."""
    return path.with_name(path.name + "_other")


def merge_checkpoints(
    components: Mapping[str, Path],
    output: Path,
    mixtures: Mapping[str, Mapping[str, float]],
    method: str = "linear",
    parameters: Mapping[str, Any] | None = None,
    base: Path | None = None,
    seed: int = 0,
    options: MergeOptions | None = None,
    objects_from: str | None = None,
    **more: Any,
) -> MergeReport:
    """A merge on disk in this process, as the command does it; `more` goes to `make_plan`."""
    built = build_method(method, parameters or {}, seed, len(components), base is not None)
    sources, base_source = open_sources(components, base if built.uses_base else None, objects_from, built.uses_moments)
    plan = make_plan(sources, base_source, built, mixtures, objects_from=objects_from, **more)
    output.mkdir(parents=True, exist_ok=True)
    return merge(plan, output, options or MergeOptions(1, 2.0), Peers(), lambda phase, count: None)


def stop_when(
    arguments: list[str], condition: Callable[[], bool], stop: signal.Signals = signal.SIGKILL, timeout: float = 200
) -> tuple[int, str]:
    """Start `nemo-demix ARGUMENTS`, signal it as soon as the condition holds, and see its ranks end with it.

    Returns its exit code and what it printed.
    """
    process = start_cli(*arguments)
    wait_until(condition, process, timeout)
    ranks = worker_ranks(process.pid).values()
    assert ranks, "no ranks were running"
    process.send_signal(stop)
    output = "".join(process.communicate(timeout=60))
    wait_for_the_end(ranks)
    return process.wait(), output


def is_half_trained(model: Path) -> bool:
    """Whether a model of the smoke run, of 16 steps, has a checkpoint on the way that training can go on from."""
    return any(is_complete(path) for path in (model / "checkpoints").glob("step_0000000[4-9]"))


def wait_for_the_end(pids: Iterable[int]) -> None:
    """Until none of these processes lives."""
    living = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            living.append(psutil.Process(pid))
    alive = psutil.wait_procs(living, timeout=30)[1]
    assert not alive, f"they outlived who started them: {alive}"


def wait_until(condition: Callable[[], bool], process: forked.Started, timeout: float = 200) -> None:
    """Until the condition holds; the process must not end before."""
    deadline = time.monotonic() + timeout
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            out, error = process.communicate()
            raise AssertionError(f"ended too early (exit code {process.returncode})\n{out or ''}{error or ''}")
        time.sleep(0.02)


def worker_ranks(launcher: int) -> dict[int, int]:
    """The ranks of a process's launch: process ids, by rank."""
    found = {}
    for process in psutil.Process(launcher).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            name = process.name()
            if name.startswith("demix-rank-"):
                found[int(name.removeprefix("demix-rank-"))] = process.pid
    return found


def fork_run(run: Path, folder: Path, *without: str) -> Path:
    """A copy of a finished run to change freely, without some of its parts; returns the new `runs_dir`."""
    shutil.copytree(run, folder / run.name)
    for part in without:
        path = folder / run.name / part
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


def losses(model: Path) -> dict[int, float]:
    """A model's loss by step."""
    rows = [json.loads(line) for line in (model / "losses.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows}


def on_terminal(program: str, *arguments: str, columns: int) -> tuple["subprocess.Popen[bytes]", int]:
    """Start a program of Python on a terminal of its own; the process, and the descriptor of what it shows."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=REPOSITORY, env={**os.environ, "TERM": "xterm", "COLUMNS": str(columns)}, stdin=follower, stdout=follower,
        stderr=follower,
    )  # fmt: skip
    os.close(follower)
    return process, leader
