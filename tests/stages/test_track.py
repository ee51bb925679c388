"""Trackers, offline: what a run has is in TensorBoard's event files and in a run of Weights & Biases."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nemo_demix.artifacts import write_json
from nemo_demix.cli import _track
from nemo_demix.config.tracking import TrackConfig, track_errors
from tests.report.runs import Run

SHARES = {"general": 0.5, "math_1": 0.3, "code_1": 0.2}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run(tmp_path).prepared().scored(4)
    write_json(made.folder / "search/mixture.json", {"data_shares": SHARES})
    (made.folder / "report.html").write_text("<p>page</p>")
    return made


def test_nothing_is_written_unless_it_is_asked_for(run: Run) -> None:
    before = set(run.folder.rglob("*"))
    _track(run.config)
    assert set(run.folder.rglob("*")) == before


def test_scores_mixture_and_page_are_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    run.config.track = TrackConfig(tensorboard=True, wandb_project="mixtures", wandb_mode="offline")
    _track(run.config)
    events = EventAccumulator(str(run.folder / "tensorboard/run"))
    events.Reload()
    scores = [row.capabilities["math"].score for row in run.rows if row.is_ok]
    assert [one.value for one in events.Scalars("proxy/math")] == pytest.approx(scores)
    assert [one.step for one in events.Scalars("proxy/math")] == [0, 1, 2, 3]
    assert events.Scalars("share/math_1")[0].value == pytest.approx(0.3)
    assert "mixture/text_summary" in events.Tags()["tensors"]
    (kept,) = run.folder.glob("wandb/offline-run-*/*.wandb")
    content = kept.read_bytes()
    for told in (b"proxy/math", b"share/code_1", b"report-made", b"mixture.json", b"report.html"):
        assert told in content, told


def test_a_mode_that_does_not_exist_is_named() -> None:
    (error,) = track_errors(TrackConfig(wandb_project="a", wandb_mode="ofline"))
    assert "track.wandb_mode: expected one of online, offline, found 'ofline'; did you mean offline" in str(error)
    assert not list(track_errors(TrackConfig(True, "a", "offline")))
