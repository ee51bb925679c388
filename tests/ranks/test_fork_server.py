"""Ranks that are forks of a process that has imported NeMo: what they share with it, and what they must not."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from nemo_demix.artifacts import read_json
from nemo_demix.stack import releases
from tests.helpers import (
    REPOSITORY,
    fork_run,
    run_cli,
    run_fresh,
    start_cli,
    wait_for_the_end,
    wait_until,
    worker_ranks,
)

SCORE = ["score", "--config-name", "smoke"]


@pytest.fixture(scope="module")
def probed() -> dict[str, Any]:
    """What two forked processes found, and the Python that started their server."""
    program = REPOSITORY / "tests/programs/fork_probe.py"
    done = subprocess.run(
        [sys.executable, str(program)], cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.mark.slow
def test_a_fork_inherits_no_thread_handler_or_open_file(probed: dict[str, Any]) -> None:
    for found in probed["ranks"]:
        assert found["unsafe"] is None
        assert (found["threads"], found["cuda"], found["handlers"]) == (1, False, {})
        # The pipes are multiprocessing's: the resource tracker's, and those by which it sees its parent and its orders.
        pipes = [name for name in found["descriptors"] if name.startswith("pipe:")]
        assert len(pipes) <= 3
        assert set(found["descriptors"]) <= {*pipes, "/dev/null"}


def test_random_states_are_those_of_processes_of_their_own(probed: dict[str, Any]) -> None:
    one, two = probed["ranks"]
    assert one["numpy"] != two["numpy"]
    assert one["torch"] == two["torch"]
    assert one["torch"]["drawn"] == probed["drawn"]  # the first numbers of the seed that the imports left


def test_only_rank_zero_takes_itself_for_it(probed: dict[str, Any]) -> None:
    assert [found["rank_zero"] for found in probed["ranks"]] == [True, None]


def test_processes_can_be_spawned_from_a_fork(probed: dict[str, Any]) -> None:
    assert [found["manager"] for found in probed["ranks"]] == ["through a manager"] * 2


def test_the_server_is_in_a_session_of_its_own(probed: dict[str, Any]) -> None:
    for found in probed["ranks"]:
        assert found["parent"] == "demix-fork"
        assert found["session_of_parent"] != probed["session"]


def score(
    run: Path, folder: Path, start: Callable[..., subprocess.CompletedProcess[str]], **variables: str
) -> tuple[dict[str, Any], str]:
    """Score two mixtures; returns the record of the launch and what the command said."""
    runs = fork_run(run, folder)
    (folder / "mixtures.json").write_text('{"half": {"general": 0.5, "code_1": 0.5}, "one": {"math_1": 1.0}}')
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        said = start(*SCORE, f"runs_dir={runs}", f"score.mixtures={folder}/mixtures.json").stderr
    return read_json(runs / "smoke/logs/score/launch.json"), said


@pytest.mark.slow
def test_where_a_fork_would_not_be_safe_each_rank_imports_by_itself_and_scores_the_same(
    smoke_run: Path, tmp_path: Path
) -> None:
    """pyarrow's allocator runs a thread where the user asks for it."""
    forked, said = score(smoke_run, tmp_path / "forked", run_cli)
    assert forked["forked"] is True
    assert forked["releases"] == releases("nemo")
    assert "each rank imports its framework by itself" not in said
    threads = {"JE_ARROW_MALLOC_CONF": "background_thread:true"}
    alone, said = score(smoke_run, tmp_path / "alone", run_fresh, **threads)
    assert alone["forked"] is False
    assert "each rank imports its framework by itself, which takes longer: libraries have started threads" in said
    rows = [(tmp_path / name / "smoke/scores/proxies.jsonl").read_text() for name in ("forked", "alone")]
    scores = [[json.loads(line)["scores"] for line in text.splitlines()] for text in rows]
    assert len(scores[0]) == 2
    assert scores[0] == scores[1]


def test_a_server_that_is_killed_takes_its_ranks_along_and_the_command_says_so(smoke_run: Path, tmp_path: Path) -> None:
    runs = fork_run(smoke_run, tmp_path, "search", "final")
    rows = runs / "smoke/search/scores.jsonl"
    command = start_cli("search", "--config-name", "smoke", f"runs_dir={runs}", "search.iterations=[400]")
    wait_until(lambda: rows.exists() and len(rows.read_text().splitlines()) >= 2, command)
    ranks = worker_ranks(command.pid)
    assert sorted(ranks) == [0, 1]
    # All ranks are here, so nothing of the run listens where others could reach it, gloo neither.
    sockets = [one for pid in (command.pid, *ranks.values()) for one in psutil.Process(pid).net_connections("inet")]
    assert {one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN} <= {"127.0.0.1", "::1"}
    (server,) = {psutil.Process(pid).ppid() for pid in ranks.values()}
    os.kill(server, signal.SIGKILL)
    _, errors = command.communicate(timeout=60)
    assert command.returncode == 1
    assert "RankFailure: rank 0" in errors or "RankFailure: rank 1" in errors
    wait_for_the_end(ranks.values())
