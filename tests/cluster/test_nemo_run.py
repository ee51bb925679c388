"""`launch.through=nemo_run` and `local`, and a Slurm with accounting, which NeMo-Run needs."""

import subprocess
import sys
from pathlib import Path

import pytest

from nemo_demix.artifacts import read_json
from nemo_demix.cluster.slurm import job_states
from nemo_demix.errors import ClusterError
from nemo_demix.stages.launch import launch_stage
from tests.cluster.lab import Lab
from tests.cluster.test_launch import configuration
from tests.cluster.test_sbatch import calls
from tests.helpers import REPOSITORY

STAGES = ["prepare", "base", "components", "search", "final"]


def launch(tmp_path: Path, environment: dict[str, str], *overrides: str, expect: int = 0) -> str:
    """`nemo-demix launch` of the smoke recipe, NeMo-Run's own files in the test's folder; returns what it printed."""
    given = ["--config-name", "smoke", f"runs_dir={tmp_path}/runs", "parallel.nodes=2", *overrides]
    result = subprocess.run(
        [sys.executable, "-m", "nemo_demix", "launch", *given], cwd=REPOSITORY, capture_output=True, text=True,
        env=environment | {"NEMORUN_HOME": str(tmp_path / "home")}, timeout=120,
    )  # fmt: skip
    assert result.returncode == expect, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.mark.slow
def test_an_experiment_with_slurm_executors(
    slurm_with_accounting: Lab, stand_in: dict[str, str], tmp_path: Path
) -> None:
    lab = slurm_with_accounting
    waiting = "[[ $1 != final ]] || until [[ -e $STAND_IN_CALLS.go ]]; do sleep 0.2; done"
    environment = lab.environment | stand_in | {"STAND_IN": "stopped_final", "STAND_IN_DO": waiting}
    through = ["launch.through=nemo_run", "+launch.options.gpus-per-node=1", "search.strategy=equal",
               "+launch.options.account=root"]  # fmt: skip
    launch(tmp_path, environment, *through)
    jobs = {job["stage"]: job["job"] for job in read_json(tmp_path / "runs/smoke/launch/jobs.json")["jobs"]}
    assert list(jobs) == ["prepare", "base", "search", "final"]
    assert "NeMo-Run submits an experiment as a whole" in launch(tmp_path, environment, *through, expect=2)
    Path(f"{stand_in['STAND_IN_CALLS']}.go").touch()
    lab.wait_until(jobs["final"], "COMPLETED", timeout=90)
    started = [(call["arguments"].split(" --config-name")[0], call["restart"]) for call in calls(stand_in)]
    assert started == [
        ("prepare", "0"),
        *[("train role=base", "0")] * 2,
        *[("search", "0")] * 2,
        *[("final", "0")] * 2,
        *[("final", "1")] * 2,
    ]  # which was stopped once, and requeued itself


def test_an_experiment_needs_an_account(
    slurm_with_accounting: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SLURM_CONF", slurm_with_accounting.environment["SLURM_CONF"])
    with pytest.raises(ClusterError, match="does not submit without an account"):
        launch_stage(configuration(tmp_path, "launch.through=nemo_run"))


def test_sacct_knows_what_squeue_has_forgotten(slurm_with_accounting: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = slurm_with_accounting
    monkeypatch.setenv("SLURM_CONF", lab.environment["SLURM_CONF"])
    script = ["--array=0-1", "--job-name=two", "--output=/dev/null", "--wrap=exit $SLURM_ARRAY_TASK_ID"]
    job = lab.run("sbatch", "--parsable", *script)
    lab.wait_until(job, "COMPLETED", "FAILED")
    lab.wait(lambda: not lab.run("squeue", "-ht", "all", "-j", job, check=False), 90, "the job to be forgotten")
    found = {index: (task.state, task.name) for (_, index), task in job_states([job]).items()}
    assert found == {0: ("COMPLETED", "two"), 1: ("FAILED", "two")}


@pytest.mark.slow
def test_an_experiment_on_this_machine(stand_in: dict[str, str], tmp_path: Path) -> None:
    ordinary = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    launch(tmp_path, ordinary | stand_in, "launch.through=local", "parallel.nodes=1")
    started = [call["arguments"].split(" --config-name")[0] for call in calls(stand_in)]
    assert started == ["prepare", "train role=base", "train role=component", "search", "final"]
