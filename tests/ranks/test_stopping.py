"""A training run that is told to stop saves a checkpoint; one started by torchrun is led by its first process."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_demix.artifacts import read_json
from tests.helpers import REPOSITORY, fork_run, losses, run_cli, stop_when

COMMAND = ["train", "--config-name", "smoke", "role=component", "index=4", "train.checkpoint_every_tokens=1000000"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_told_to_stop_it_saves_a_checkpoint_and_goes_on_from_there(
    smoke_run: Path, tmp_path: Path, number: signal.Signals
) -> None:
    runs = fork_run(smoke_run, tmp_path, "models/component/code_1", "search", "final")
    model = runs / "smoke/models/component/code_1"
    rows = model / "losses.jsonl"
    command = [*COMMAND, f"runs_dir={runs}"]
    code, output = stop_when(command, lambda: rows.exists() and len(rows.read_text().splitlines()) >= 3, number)
    assert code == 128 + number
    assert f"stopped by {number.name}; the same command goes on from here" in output
    (saved,) = (model / "checkpoints").iterdir()
    step = int(saved.name.removeprefix("step_"))
    assert 3 <= step < 16
    assert step == len(rows.read_text().splitlines())

    if number == signal.SIGTERM:
        run_cli(*command)
    else:  # another layout of the team: two processes that torchrun started, one rank each
        team = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "nemo_demix"]
        done = subprocess.run([*team, *command], cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    assert [path.name for path in (model / "checkpoints").iterdir()] == ["step_00000016"]
    assert losses(model) == losses(smoke_run / "models/component/code_1")
    assert len(rows.read_text().splitlines()) == 16  # no step was trained twice
    assert (
        read_json(model / "record.json")["fingerprint"]
        == read_json(smoke_run / "models/component/code_1/record.json")["fingerprint"]
    )


@pytest.mark.slow
def test_a_team_that_does_not_divide_the_ranks_ends_as_one(smoke_run: Path, tmp_path: Path) -> None:
    runs = fork_run(smoke_run, tmp_path, "models/component/code_1", "search", "final")
    team = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3", "-m", "nemo_demix"]
    done = subprocess.run(
        [*team, *COMMAND, f"runs_dir={runs}"], cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode != 0
    assert "= 2 ranks do not divide over the 3 processes that srun or torchrun started" in done.stderr
    assert done.stderr.count("nemo-demix: ") == 1


@pytest.mark.slow
def test_a_second_process_of_a_run_names_the_first(smoke_run: Path, tmp_path: Path) -> None:
    runs = fork_run(smoke_run, tmp_path, "models/component/code_1", "search", "final")
    rows = runs / "smoke/models/component/code_1/losses.jsonl"
    refused = []

    def training_and_refused() -> bool:
        if not rows.exists():
            return False
        refused.append(run_cli("prepare", "--config-name", "smoke", f"runs_dir={runs}", expect=2).stderr)
        return True

    # Ten times as long as it takes elsewhere: it must not be done before the other is refused.
    stop_when([*COMMAND, f"runs_dir={runs}", "components.num_tokens=163840"], training_and_refused)
    assert "in use by" in refused[0]
