"""The whole thing on a real Slurm: real ranks on different nodes, cancelled, preempted, short of nodes and of time."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_demix.artifacts import read_json
from tests.cluster.lab import Lab
from tests.helpers import REPOSITORY, fork_run, losses, run_cli

pytestmark = pytest.mark.timeout(1800)  # each job imports NeMo on every one of its nodes
TWO_NODES = ["parallel.nodes=2", "launch.max_parallel=1", "+launch.options.gpus-per-node=1"]


@pytest.fixture
def here(slurm: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Commands of this process talk to the lab; its jobs run this checkout."""
    setup = f"PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH OMP_NUM_THREADS=1"
    variables = {"SLURM_CONF": slurm.environment["SLURM_CONF"], "DEMIX_SETUP": f"export {setup}", "HF_HUB_OFFLINE": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return slurm


def submitted(run: Path) -> list[tuple[str, str, list[int] | None]]:
    """Stage, job id and array indices of every job of a run."""
    return [(job["stage"], job["job"], job["indices"]) for job in read_json(run / "launch/jobs.json")["jobs"]]


def sbatch(*arguments: str) -> str:
    """Submit from the repository, with this process's environment; returns the job id."""
    command = ["sbatch", "--parsable", f"--chdir={REPOSITORY}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def logs(run: Path) -> str:
    """What the jobs printed."""
    return "\n".join(path.read_text(errors="replace")[-3000:] for path in sorted((run / "logs").glob("slurm/*")))


@pytest.mark.slow
def test_a_launched_run_cancelled_on_the_way_finds_the_mixture_of_a_local_one(
    here: Lab, smoke_run: Path, tmp_path: Path
) -> None:
    """Every model has one tensor rank on each of two nodes; the base and six of seven components are there before.

    On the way, what another submission would train a second time is refused, by the name of the first.
    """
    command = ["--config-name", "smoke", f"runs_dir={tmp_path}", *TWO_NODES]
    left_out = ("models/component/code_3", "models/final", "scores", "search", "final")
    run = fork_run(smoke_run, tmp_path, *left_out) / "smoke"

    def launched() -> list[tuple[str, str, list[int] | None]]:
        """Its jobs, once the first holds its model."""
        before = submitted(run) if (run / "launch").exists() else []
        run_cli("launch", *command)
        jobs = submitted(run)[len(before) :]
        assert [stage for stage, _, _ in jobs] == ["components", "search", "final"]
        assert jobs[0][2] == [6]
        lock = run / ".lock.component_6"
        here.wait(lambda: lock.exists() and f'"{jobs[0][1]}_6"' in lock.read_text(), 60, "the first to hold its model")
        return jobs

    first = launched()
    run_cli("cancel", *command)
    assert not (run / "models/component/code_3/record.json").exists()

    again = launched()
    assert "RUNNING" in run_cli("status", *command).stdout
    options = ["--nodes=2", "--gpus-per-node=1", "--array=6", f"--output={tmp_path}/second"]
    script = [str(REPOSITORY / "slurm/components.sbatch"), *command[:2], f"runs_dir={tmp_path}", "parallel.nodes=2"]
    here.wait_until(sbatch(*options, *script), "FAILED")
    said = (tmp_path / "second").read_text()
    assert "(component_6): in use by process" in said
    assert f"Slurm job {again[0][1]}_6; wait for it" in said
    states = here.wait_until(again[-1][1], "COMPLETED", "FAILED", "CANCELLED", timeout=500)
    assert states == ["COMPLETED"], logs(run)

    mixture = "search/mixture.json"
    assert (run / mixture).read_bytes() == (smoke_run / mixture).read_bytes()
    for model in ("component/code_3", "final/mixture"):
        assert losses(run / "models" / model) == losses(smoke_run / "models" / model)
    assert "done already" in run_cli("launch", *command).stdout
    assert len(submitted(run)) == len(first) + len(again)


@pytest.mark.slow
def test_a_run_that_loses_a_node_is_preempted_and_runs_out_of_time_trains_the_same_model(
    here: Lab, smoke_run: Path, tmp_path: Path
) -> None:
    settings = ["reference.name=long", "+reference.shares={general: 0.5, math_1: 0.5}", "reference.num_tokens=102400"]
    settings += ["--config-name", "smoke", "train.checkpoint_every_tokens=20480"]
    alone = fork_run(smoke_run, tmp_path / "alone", "search", "final") / "smoke"
    run_cli("train", "role=reference", *settings, f"runs_dir={alone.parent}")

    run = fork_run(smoke_run, tmp_path / "slurm", "search", "final") / "smoke"
    model = run / "models/reference/long"
    rows = model / "losses.jsonl"
    options = ["--partition=low", "--nodes=2", "--gpus-per-node=1", "--array=0", f"--output={tmp_path}/out.txt"]
    script = [str(REPOSITORY / "slurm/references.sbatch"), *settings, f"runs_dir={run.parent}", "parallel.nodes=2"]
    job = sbatch(*options, *script)

    def steps(count: int) -> None:
        here.wait(lambda: rows.exists() and max(losses(model), default=0) >= count, 200, f"step {count}")

    def restarted(times: int) -> None:
        here.wait(lambda: f"Restarts={times} " in here.run("scontrol", "show", "job", job), 90, f"restart {times}")

    try:
        steps(15)  # a node is lost: everything there is gone at once
        node = (
            here.run("squeue", "-h", "-j", job, "-o", "%N").removeprefix("node[").partition("-")[0].removeprefix("node")
        )
        here.run("scontrol", "update", f"nodename=node{node}", "state=down", "reason=test")
        restarted(1)
        steps(35)  # the time is nearly up
        here.run("scancel", "--signal=USR1", job)
        restarted(2)
        steps(60)  # others have the right of way
        first = sbatch("--nodes=7", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
        restarted(3)
        here.wait_until(first, "COMPLETED")
        assert here.wait_until(job, "COMPLETED", "FAILED", timeout=200) == ["COMPLETED"], (
            tmp_path / "out.txt"
        ).read_text()
    finally:
        here.run("scontrol", "update", "nodename=ALL", "state=resume", check=False)

    said = (tmp_path / "out.txt").read_text()
    stopped = re.findall(r"long: stopped after step (\d+), with a checkpoint", said)
    resumed = re.findall(r"long: resuming after step (\d+)", said)
    assert len(resumed) == 3, said
    assert resumed[1:] == stopped[-2:]  # what is left of a lost node may save in time, or not
    assert losses(model) == losses(alone / "models/reference/long")
    weights = "checkpoints/step_00000100/weights"
    names = sorted(path.name for path in (model / weights).glob("*.distcp"))
    assert names
    for name in names:
        assert (model / weights / name).read_bytes() == (alone / "models/reference/long" / weights / name).read_bytes()


@pytest.mark.slow
def test_a_run_folder_that_a_node_does_not_see_is_named(
    here: Lab, smoke_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second node has an empty file system in the run folder's place."""
    runs = tmp_path / "runs"
    fork_run(smoke_run, runs, "search", "final", "models/component/code_1")
    command = tmp_path / "bin/nemo-demix"
    command.parent.mkdir()
    real = shlex.quote(str(Path(sys.executable).with_name("nemo-demix")))
    command.write_text(
        "#!/bin/bash\n"
        f'test "$SLURM_NODEID" = 1 || exec {real} "$@"\n'
        f"""exec unshare --mount bash -c 'mount -t tmpfs none "$0" && exec {real} "$@"' """
        f'{shlex.quote(str(runs))} "$@"\n'
    )
    command.chmod(0o755)
    monkeypatch.setenv("DEMIX_SETUP", f"export PATH={shlex.quote(str(command.parent))}:$PATH OMP_NUM_THREADS=1")
    script = [str(REPOSITORY / "slurm/components.sbatch"), "--config-name", "smoke", f"runs_dir={runs}"]
    options = ["--nodes=2", "--gpus-per-node=1", "--array=4", f"--output={tmp_path}/out"]
    job = sbatch(*options, *script, "parallel.nodes=2")
    here.wait_until(job, "FAILED", timeout=200)
    said = (tmp_path / "out").read_text()
    assert re.search(r"sentinel\.txt|logs/train", said), said
    assert "within 30 s; runs_dir must be on a file system that all nodes share" in said
    assert not (runs / "smoke/models/component/code_1/record.json").exists()
