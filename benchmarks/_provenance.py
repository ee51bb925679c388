"""Where a figure comes from: written beside every result."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from nemo_demix.artifacts import write_json

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
_PACKAGES = ("nemo_toolkit", "megatron-core", "torch", "lightgbm", "numpy", "tokenizers")


def finish(name: str, quick: bool, seeds: list[int], rows: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Write `results/<name>[_quick].json` and print the summary as the last line."""
    write(name, quick, seeds, rows, summary)
    print(json.dumps(summary))


def commit() -> str:
    """What is checked out, marked where it was changed; results are no part of what is measured."""
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
    return _git("rev-parse", "HEAD") + ("-dirty" if changed else "")


def write(name: str, quick: bool, seeds: list[int], rows: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Write `results/<name>[_quick].json`."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    result = {
        "command": _command(),
        "commit": commit(),
        "versions": {package: importlib.metadata.version(package) for package in _PACKAGES},
        "python": platform.python_version(),
        "machine": {
            "cpu": cpu.partition(":")[2].strip(),
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        },
        "seeds": seeds,
        "rows": rows,
        "summary": summary,
    }
    write_json(RESULTS / f"{name}{'_quick' if quick else ''}.json", result)


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
    result = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return result.stdout.strip()
