"""What the studies over one set of trained models share: the product's stages, and runs that start from its models."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from _provenance import REPOSITORY

RECIPE = "fidelity"


def nemo_demix(
    runs: Path, stage: str, *overrides: str, name: str = RECIPE, recipe: str = RECIPE, python: str = sys.executable
) -> None:
    """One stage, as a user runs it, by the environment of `python`."""
    command = [python, "-m", "nemo_demix", stage, "--config-name", recipe, f"runs_dir={runs}", f"name={name}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([*command, *overrides], cwd=REPOSITORY, env=environment, check=True)


def branch(runs: Path, name: str, *parts: str, source: str = RECIPE, with_base: bool = True) -> Path:
    """Another run that starts from parts of a study's own: its data, its base, perhaps its components."""
    for part in ("datasets", *(("models/base",) if with_base else ()), *parts):
        target = runs / name / part
        if not target.exists():
            partial = target.with_name(f".{target.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(runs / source / part, partial)
            partial.rename(target)
    return runs / name


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def values(scores: dict[str, Any]) -> dict[str, float]:
    """Scores by name as plain numbers; every one is in bits per byte, lower is better."""
    assert all(score["unit"] == "bits/byte" and not score["higher_is_better"] for score in scores.values())
    return {name: round(score["score"], 6) for name, score in scores.items()}
