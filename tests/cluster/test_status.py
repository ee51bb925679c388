"""What `status` says by files alone."""

import json
import os
import time
from pathlib import Path

import pytest

from nemo_demix.artifacts import write_json
from nemo_demix.stages.pipeline import pipeline
from nemo_demix.stages.status import model_progress, status_stage
from tests.helpers import on_terminal, run_cli
from tests.report.runs import Run


def training(folder: Path, step: int, started_s: float, saved: dict[int, float] | None = None) -> Path:
    """The files of a model that is being trained, 100 steps long; times are seconds ago."""
    now = time.time()
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(json.dumps({"num_steps": 100}))
    rows = "".join(json.dumps({"step": number, "loss": 2.5}) + "\n" for number in range(1, step + 1))
    (folder / "losses.jsonl").write_text(rows + '{"step": ')  # a line that is being written
    os.utime(folder / "job.json", (now - started_s, now - started_s))
    os.utime(folder / "losses.jsonl", (now, now))
    for number, ago in (saved or {}).items():
        path = folder / f"checkpoints/step_{number:08d}"
        path.mkdir(parents=True)
        os.utime(path, (now - ago, now - ago))
    return folder


@pytest.mark.parametrize(
    ("step", "started_s", "saved", "remaining_s"),
    [
        (50, 100.0, None, 100.0),  # from step 0: 2 s a step
        (50, 100.0, {30: 500.0}, 250.0),  # resumed after step 30: 20 steps in 100 s
        (50, 100.0, {30: 60.0}, 150.0),  # what it resumed from is gone: 20 steps since the checkpoint of 60 s ago
        (30, 100.0, {30: 500.0}, None),  # resumed, and no step yet
    ],
)
def test_the_pace_is_that_since_the_last_start(
    tmp_path: Path, step: int, started_s: float, saved: dict[int, float] | None, remaining_s: float | None
) -> None:
    progress = model_progress(training(tmp_path / "math_1", step, started_s, saved))
    assert progress is not None
    assert progress.text == f"math_1 step {step}/100"
    assert progress.remaining_s == (None if remaining_s is None else pytest.approx(remaining_s, rel=0.02))


def test_a_model_that_nobody_trains_has_no_eta(tmp_path: Path) -> None:
    folder = training(tmp_path / "math_1", 50, 100.0)
    yesterday = time.time() - 86_400
    os.utime(folder / "losses.jsonl", (yesterday, yesterday))
    progress = model_progress(folder)
    assert progress is not None
    assert progress.remaining_s is None
    (folder / "record.json").write_text("{}")
    assert model_progress(folder) is None


def test_without_slurm_files_say_what_they_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for model, step in {"base/base": 30, "component/math_1": 50, "final/mixture": 70}.items():
        training(tmp_path / "smoke/models" / model, step, 100.0)
    monkeypatch.setenv("PATH", "/nowhere")
    shown = run_cli("status", "--config-name", "smoke", f"runs_dir={tmp_path}").stdout
    for told in ("base step 30/100", "0/7 models, math_1 step 50/100", "mixture step 70/100"):
        assert told in shown
    assert "By files alone; what is queued is not known (no Slurm here: squeue is not on PATH)" in shown
    assert (
        "no job of this run is queued or running"
        in run_cli("cancel", "--config-name", "smoke", f"runs_dir={tmp_path}").stderr
    )


def test_where_an_input_has_changed_or_is_gone_all_is_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    made = Run(tmp_path)
    write_json(made.folder / "datasets/manifest.json", made.with_sources())
    assert [stage.name for stage in pipeline(made.config) if stage.is_done] == ["prepare"]
    text = tmp_path / "text.txt"
    text.write_text("Another text.")
    assert not any(stage.is_done for stage in pipeline(made.config))
    text.unlink()
    status_stage(made.config)
    # In the table: a library may have set up a log of its own, which shows the warning on the screen too.
    assert capsys.readouterr().out.count("│ to do │") == len(pipeline(made.config))
    assert f"datasets.general.sources[0].path: {text}: expected a file" in caplog.text


WATCH = """
import sys
from nemo_demix.stages import status
from nemo_demix.cli import main
status._WATCH_S = 0.2
sys.argv = ["nemo-demix", "status", "--watch", "--config-name", "smoke", "runs_dir=" + sys.argv[1]]
main()
"""


def test_watching_shows_what_has_changed_in_place(tmp_path: Path) -> None:
    folder = training(tmp_path / "smoke/models/base/base", 30, 100.0)
    process, leader = on_terminal(WATCH, str(tmp_path), columns=118)
    try:
        seen = _read_until(leader, b"base step 30/100")
        (folder / "losses.jsonl").write_text('{"step": 60, "loss": 2.5}\n')
        seen += _read_until(leader, b"base step 60/100")
        assert process.poll() is None  # the run is not done
    finally:
        process.terminate()
        process.wait(30)
        os.close(leader)
    assert b"\x1b[1A" in seen  # the table is drawn over the last one


def _read_until(terminal: int, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        seen += os.read(terminal, 65536)  # an error where the program has ended
    return seen
