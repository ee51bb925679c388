"""slurm/*.sbatch on a real Slurm: accepted as written, started on every node, requeued where they were stopped."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cluster.lab import ACCOUNTING_PACKAGES, HERE, PACKAGES, Lab
from tests.helpers import REPOSITORY

FILES = sorted((REPOSITORY / "slurm").glob("*.sbatch"))
NAMES = [path.stem for path in FILES]
CONTAINER = {"DEMIX_CONTAINER_IMAGE": "/images/nemo.sqsh", "DEMIX_CONTAINER_MOUNTS": "/data:/data,/runs:/runs"}


def submit(lab: Lab, stage: str, environment: dict[str, str], *arguments: str, options: tuple[str, ...] = ()) -> str:
    """Submit a file from the repository, with the output in the lab's folder; returns the job id."""
    command = [
        "sbatch",
        "--parsable",
        f"--output={lab.folder}/%A_%a.out",
        *options,
        f"slurm/{stage}.sbatch",
        *arguments,
    ]
    result = subprocess.run(
        command, cwd=REPOSITORY, env={**lab.environment, **environment}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def calls(environment: dict[str, str]) -> list[dict[str, str]]:
    """What the stand-in was started with, by name."""
    path = Path(environment["STAND_IN_CALLS"])
    lines = path.read_text().splitlines() if path.exists() else []
    pattern = (
        r"task=(?P<task>\S*) restart=(?P<restart>\d+) index=(?P<index>\d*) image=(?P<image>\S*) mounts=(?P<mounts>\S*)"
    )
    pattern += r" gpus=(?P<gpus>\d+) arguments=(?P<arguments>.*)"
    matches = [re.fullmatch(pattern, line) for line in lines]
    assert None not in matches, lines
    return [match.groupdict() for match in matches if match]


def output(lab: Lab, job: str) -> str:
    """All that the tasks of a job printed."""
    return "".join(path.read_text() for path in sorted(lab.folder.glob(f"{job}_*.out")))


def test_there_is_a_file_for_every_stage_that_needs_a_cluster() -> None:
    expected = "prepare base components references verify search final merge run"
    assert sorted(NAMES) == sorted(expected.split())


def test_make_installs_what_these_tests_need() -> None:
    makefile = (REPOSITORY / "Makefile").read_text().replace("\\\n", "")
    found = re.search("^SLURM_PACKAGES := (.*)$", makefile, re.MULTILINE)
    assert found is not None
    assert found[1].split() == f"{PACKAGES} {ACCOUNTING_PACKAGES}".split()


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason=f"no shellcheck; on Debian: apt-get install {PACKAGES}")
def test_shell_files_are_clean() -> None:
    files = [*FILES, REPOSITORY / "slurm/common.sh", REPOSITORY / "slurm/site.example.env", *sorted(HERE.glob("*.sh"))]
    result = subprocess.run(
        ["shellcheck", "--external-sources", "--shell=bash", *files], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("container", [{}, CONTAINER], ids=["plain", "container"])
@pytest.mark.parametrize("stage", NAMES)
def test_every_file_is_accepted_as_written_and_starts_one_task_a_node(
    slurm: Lab, stand_in: dict[str, str], stage: str, container: dict[str, str]
) -> None:
    """`merge` and `prepare` take a node and no GPU, the others eight nodes of eight. Of an array, two tasks are run."""
    site = stand_in | container
    slurm.run("sbatch", "--test-only", str(REPOSITORY / f"slurm/{stage}.sbatch"))
    job = submit(slurm, stage, site, "recipe=my recipe", "seed=1")
    tasks = 2 if stage in ("components", "references") else 1
    slurm.wait(lambda: slurm.states(job).count("COMPLETED") >= tasks, 60, f"{tasks} tasks of {stage}")

    nodes, gpus = (1, "0") if stage in ("prepare", "merge") else (8, "8")
    given = {"base": "train role=base", "components": "train role=component index={}",
             "references": "train role=reference index={}"}.get(stage, stage)  # fmt: skip
    for index in map(str, range(tasks)):
        started = [call for call in calls(site) if tasks == 1 or call["index"] == index]
        assert sorted(call["task"] for call in started) == [f"{task}/{nodes}" for task in range(nodes)]
        assert {call["arguments"] for call in started} == {f"{given.format(index)} --config-name my recipe seed=1"}
        assert {call["gpus"] for call in started} == {gpus}
        assert {call["image"] for call in started} == {container.get("DEMIX_CONTAINER_IMAGE", "")}
        assert {call["mounts"] for call in started} == {container.get("DEMIX_CONTAINER_MOUNTS", "")}


def test_each_task_of_an_array_requeues_itself_alone(slurm: Lab, stand_in: dict[str, str]) -> None:
    options = ("--array=0-2", "--nodes=1", "--gpus-per-node=1")
    job = submit(slurm, "components", stand_in | {"STAND_IN": "stopped_once"}, options=options)
    slurm.wait(lambda: len(calls(stand_in)) >= 6, 90, "three restarts")
    assert slurm.wait_until(job, "COMPLETED") == ["COMPLETED"] * 3
    started = sorted((call["index"], call["restart"]) for call in calls(stand_in))
    assert started == [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1"), ("2", "0"), ("2", "1")]


@pytest.mark.slow
def test_a_job_that_is_stopped_too_often_is_given_up(slurm: Lab, stand_in: dict[str, str]) -> None:
    site = stand_in | {"STAND_IN": "stopped", "DEMIX_MAX_RESTARTS": "1"}
    job = submit(slurm, "final", site, options=("--nodes=1",))
    slurm.wait(lambda: "given up" in output(slurm, job), 60, "the job to be given up")
    assert slurm.wait_until(job, "FAILED") == ["FAILED"]
    assert len(calls(site)) == 2
    assert "stopped after 1 restarts, DEMIX_MAX_RESTARTS=1: given up; submit it again" in output(slurm, job)


@pytest.mark.slow
def test_a_signal_before_the_time_limit_requeues(slurm: Lab, stand_in: dict[str, str]) -> None:
    job = submit(slurm, "search", stand_in | {"STAND_IN": "wait"}, options=("--nodes=2",))
    slurm.wait(lambda: len(calls(stand_in)) == 2, 60, "two tasks")
    slurm.run("scancel", "--signal=USR1", job)  # what --signal=USR1@180 sends, to the tasks
    slurm.wait(lambda: len(calls(stand_in)) == 4, 60, "the restart")
    assert {call["restart"] for call in calls(stand_in)[2:]} == {"1"}
    assert "was stopped and is requeued (restart 1 of at most 100)" in output(slurm, job)


def test_a_cancelled_job_stays_cancelled(slurm: Lab, stand_in: dict[str, str]) -> None:
    job = submit(slurm, "search", stand_in | {"STAND_IN": "wait"}, options=("--nodes=2",))
    slurm.wait(lambda: len(calls(stand_in)) == 2, 60, "two tasks")
    slurm.run("scancel", job)
    assert slurm.wait_until(job, "CANCELLED") == ["CANCELLED"]
    assert "requeued" not in output(slurm, job)


@pytest.mark.slow
def test_a_preempted_job_comes_back(slurm: Lab, stand_in: dict[str, str]) -> None:
    job = submit(slurm, "search", stand_in | {"STAND_IN": "wait"}, options=("--nodes=8", "--partition=low"))
    slurm.wait(lambda: len(calls(stand_in)) == 8, 60, "eight tasks")
    other = slurm.run("sbatch", "--parsable", "--nodes=8", "--exclusive", "--output=/dev/null", "--wrap=true")
    slurm.wait_until(other, "COMPLETED")
    slurm.wait(lambda: len(calls(stand_in)) == 16, 90, "the restart")
    assert {call["restart"] for call in calls(stand_in)[8:]} == {"1"}
    assert slurm.states(job) == ["RUNNING"]


@pytest.mark.parametrize(
    ("site", "expected"),
    [
        (
            {"DEMIX_CONTAINER_IMAGE": "/images/nemo.sqsh"},
            "DEMIX_CONTAINER_MOUNTS: is not set, but DEMIX_CONTAINER_IMAGE is",
        ),
        ({"DEMIX_CONTAINER_MOUNTS": "/data"}, "DEMIX_CONTAINER_IMAGE: is not set, but DEMIX_CONTAINER_MOUNTS is"),
        ({"DEMIX_SETUP": "PATH=/usr/bin"}, "nemo-demix: not on PATH on node"),
    ],
)
def test_a_site_without_what_it_needs_is_told_so(slurm: Lab, site: dict[str, str], expected: str) -> None:
    job = submit(slurm, "prepare", site)
    assert slurm.wait_until(job, "FAILED") == ["FAILED"]
    assert expected in output(slurm, job)
