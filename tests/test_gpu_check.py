"""benchmarks/gpu_check.py, as far as it goes without a GPU."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY

SCRIPT = REPOSITORY / "benchmarks/gpu_check.py"


@pytest.mark.slow
def test_each_check_ends_well_or_says_why_not(smoke_run: Path, tmp_path: Path) -> None:
    """Of a run that is there. Searches do what `scoring` does, and are tested; so are merges, for `live_merge`."""
    checks = ["doctor", "train", "hf", "bf16", "transformer_engine", "collectives"]
    command = [sys.executable, str(SCRIPT), "--cpu", "--run", str(smoke_run), "--results", str(tmp_path)]
    command += ["--checks", *checks]
    done = subprocess.run(command, capture_output=True, text=True, timeout=360, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "gpu_check_quick.json").read_text())
    ended = {row["check"]: row["outcome"] for row in result["rows"]}
    assert {name for name, outcome in ended.items() if outcome == "ok"} == {
        "doctor", "collectives"
    }  # fmt: skip
    reasons = {row["check"]: row["why"] for row in result["rows"] if row["outcome"] == "not run"}
    assert reasons == {
        "train": "--run names a run that is trained already",
        "hf": "--run names a run of another recipe; what train makes is exported",
        "bf16": "train.precision=bf16-mixed needs a GPU",
        "transformer_engine": "Transformer Engine needs a GPU",
    }
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary == result["summary"]
    assert (summary["checks_ok"], summary["checks_failed"], summary["checks_not_run"]) == (2, 0, 4)


def test_a_check_that_fails_is_told_and_the_others_go_on(smoke_run: Path, tmp_path: Path) -> None:
    """Of a run whose models are gone."""
    broken = tmp_path / "run"
    broken.mkdir()
    shutil.copy(smoke_run / "config.yaml", broken)
    command = [sys.executable, str(SCRIPT), "--cpu", "--run", str(broken), "--results", str(tmp_path)]
    done = subprocess.run([*command, "--checks", "scoring", "bf16"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stdout + done.stderr
    rows = json.loads((tmp_path / "gpu_check_quick.json").read_text())["rows"]
    assert [(row["check"], row["outcome"]) for row in rows] == [("scoring", "failed"), ("bf16", "not run")]
    assert "exit code 1" in rows[0]["why"]
