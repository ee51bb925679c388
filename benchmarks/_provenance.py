"""Where a figure comes from: written beside every result."""

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from nemo_demix.artifacts import write_json

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
_PACKAGES = ("nemo_toolkit", "megatron-core", "torch", "lightgbm", "numpy", "tokenizers")
_ELSEWHERE = ("megatron-bridge", "transformer-engine", "nemo_run")  # named where they are


def finish(name: str, quick: bool, seeds: list[int], rows: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Write `results/<name>[_quick].json` and print the summary as the last line."""
    write(name, quick, seeds, rows, summary)
    print(json.dumps(summary))


def commit() -> str:
    """What is checked out, marked where it was changed; results are no part of what is measured."""
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
    return _git("rev-parse", "HEAD") + ("-dirty" if changed else "")


def write(
    name: str,
    quick: bool,
    seeds: list[int],
    rows: list[dict[str, Any]],
    summary: dict[str, Any],
    folder: Path = RESULTS,
) -> None:
    """Write `results/<name>[_quick].json`."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    result = {
        "command": _command(),
        "commit": commit(),
        "versions": _versions(),
        "python": platform.python_version(),
        "machine": {
            "cpu": cpu.partition(":")[2].strip(),
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            **_gpus(),
        },
        "seeds": seeds,
        "rows": rows,
        "summary": summary,
    }
    write_json(folder / f"{name}{'_quick' if quick else ''}.json", result)


def _versions() -> dict[str, str]:
    """What is installed; a container may have one back end and not the other."""
    found = {}
    for package in (*_PACKAGES, *_ELSEWHERE):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _gpus() -> dict[str, list[str]]:
    """The GPUs of the machine, if it has any."""
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    return {"gpus": listed} if listed else {}


def recompute(name: str, rows: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Put figures worked out again into `results/<name>.json`, and print the summary as the last line.

    Command, commit, versions and machine stay those of the measurement; `recomputed` has the command and the commit
    that the figures and the summary are of.
    """
    path = RESULTS / f"{name}.json"
    result = json.loads(path.read_text())
    recomputed = {"command": _command(), "commit": commit(), "of": ["summary", "rows of kind figures"]}
    write_json(path, {**result, "recomputed": recomputed, "rows": rows, "summary": summary})
    print(json.dumps(summary))


def _command() -> str:
    """This command; where this machine keeps its runs says nothing to anyone else."""
    return " ".join(["python", *(Path(word).name if Path(word).is_absolute() else word for word in sys.argv)])


def _git(*arguments: str) -> str:
    if shutil.which("git") is None:  # not in every container
        return ""
    result = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return result.stdout.strip()
