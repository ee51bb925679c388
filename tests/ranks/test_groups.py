"""A search over several groups of ranks: the same mixture for any number, also where a group dies on the way."""

import os
import signal
from pathlib import Path

import pytest

from nemo_demix.config import load_resolved
from tests.helpers import fork_run, run_cli, start_cli, wait_until, worker_ranks

COMMAND = ["search", "--config-name", "smoke", "parallel.tensor=1", "search.iterations=[12,6]"]


@pytest.fixture(scope="module")
def alone(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`runs_dir` of the search by one rank."""
    runs = fork_run(smoke_run, tmp_path_factory.mktemp("alone"), "search", "final")
    run_cli(*COMMAND, f"runs_dir={runs}")
    return runs


@pytest.mark.slow
def test_two_groups_one_of_which_dies_find_the_same_mixture(alone: Path, smoke_run: Path, tmp_path: Path) -> None:
    runs = fork_run(smoke_run, tmp_path, "search", "final")
    layout = ["parallel.tensor=2", "search.tensor=1"]
    arguments = ["search", *COMMAND[1:3], *layout, COMMAND[-1], f"runs_dir={runs}"]
    rows = runs / "smoke/search/scores.jsonl"
    process = start_cli(*arguments)
    wait_until(lambda: rows.exists() and len(rows.read_text().splitlines()) >= 2, process)
    ranks = worker_ranks(process.pid)
    assert sorted(ranks) == [0, 1]
    os.kill(ranks[1], signal.SIGKILL)
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 0, errors
    assert "group 1 died, 1 go on: rank 1 was killed by SIGKILL" in errors
    mixture = "smoke/search/mixture.json"
    assert (runs / mixture).read_bytes() == (alone / mixture).read_bytes()
    assert len(rows.read_text().splitlines()) == 18
    assert load_resolved(runs / "smoke/config.yaml").parallel.tensor == 2, "the run's layout is that of its training"


def test_groups_that_do_not_divide_the_ranks_are_refused(smoke_run: Path, tmp_path: Path) -> None:
    runs = fork_run(smoke_run, tmp_path, "search", "final")
    result = run_cli(*COMMAND, f"runs_dir={runs}", "search.groups=2", expect=2)
    assert "search.groups=2: expected a divisor of parallel.data=1" in result.stderr
