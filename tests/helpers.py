"""Running the product as a user does, and looking at what it leaves."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nemo_demix.merging.cohort import Cohort
from nemo_demix.merging.methods import build_method
from nemo_demix.merging.plan import make_plan
from nemo_demix.merging.run import MergeOptions, MergeReport, merge
from nemo_demix.merging.sources import open_sources

REPOSITORY = Path(__file__).parents[1]


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_COMPILE_DISABLE": "1", "HF_HUB_OFFLINE": "1", **more}


def run_cli(*arguments: str, timeout: float = 500, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `nemo-demix ARGUMENTS` and check its exit code."""
    command = [sys.executable, "-m", "nemo_demix", *arguments]
    result = subprocess.run(
        command, cwd=REPOSITORY, env=_environment(), capture_output=True, text=True, timeout=timeout, check=False
    )
    assert result.returncode == expect, (
        f"exit code {result.returncode}, expected {expect}\n{result.stdout}{result.stderr}"
    )
    return result


def run_program(name: str, *arguments: str, ranks: int = 1, timeout: float = 300) -> dict[str, Any]:
    """Run tests/programs/NAME.py on real ranks; its last line on rank 0's stdout is JSON."""
    script = str(REPOSITORY / "tests" / "programs" / f"{name}.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", script]
    result = subprocess.run(
        [*command, *arguments],
        cwd=REPOSITORY, env=_environment(PYTHONPATH=str(REPOSITORY)), capture_output=True, text=True,
        timeout=timeout, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-6000:]
    return json.loads(result.stdout.strip().splitlines()[-1])


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
    sources, base_source = open_sources(components, base if built.uses_base else None, objects_from)
    plan = make_plan(sources, base_source, built, mixtures, objects_from=objects_from, **more)
    output.mkdir(parents=True, exist_ok=True)
    return merge(plan, output, options or MergeOptions(1, 2.0), Cohort(), lambda phase, count: None)


def stop_when(
    arguments: list[str], condition: Callable[[], bool], stop: signal.Signals = signal.SIGKILL, timeout: float = 200
) -> tuple[int, str]:
    """Start `nemo-demix ARGUMENTS`, signal it as soon as the condition holds, and see its ranks end with it.

    Returns its exit code and what it printed.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "nemo_demix", *arguments],
        cwd=REPOSITORY, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    wait_until(condition, process, timeout)
    ranks = worker_ranks(process.pid).values()
    assert ranks, "no ranks were running"
    process.send_signal(stop)
    output = process.communicate(timeout=60)[0]
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() for pid in ranks):
            return process.returncode, output
        time.sleep(0.1)
    raise AssertionError(f"ranks outlived their launcher: {ranks}")


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[str]", timeout: float = 200) -> None:
    """Until the condition holds; the process must not end before."""
    deadline = time.monotonic() + timeout
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            out, error = process.communicate()
            raise AssertionError(f"ended too early (exit code {process.returncode})\n{out or ''}{error or ''}")
        time.sleep(0.02)


def worker_ranks(parent: int) -> dict[int, int]:
    """The ranks that a process has started: process ids, by rank."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            command = (stat.parent / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(fields[1]) == parent and b"nemo_demix.launch.worker" in command:
            found[int(command[command.index(b"nemo_demix.launch.worker") + 3])] = int(stat.parent.name)
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
