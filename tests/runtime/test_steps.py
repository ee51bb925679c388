"""Checkpoints of a training run, as either back end leaves them."""

from pathlib import Path

import pytest

from nemo_demix.runtime.steps import latest_checkpoint, outdated, saved_steps, step_folder


def save(folder: Path, backend: str) -> None:
    """The files that say that a save has ended."""
    weights = folder / "weights" if backend == "nemo" else folder
    weights.mkdir(parents=True)
    (weights / "metadata.json").write_text("{}")
    if backend == "bridge":
        (folder / "run_config.yaml").write_text("model:\n  num_layers: 2\ntrain: {}\nvalidation: {}\n")


@pytest.mark.parametrize("backend", ["nemo", "bridge"])
def test_the_newest_whole_one_is_gone_on_with_and_kept_ones_stay(tmp_path: Path, backend: str) -> None:
    assert latest_checkpoint(tmp_path / "absent", backend) == (0, None)
    for step in (4, 8, 12):
        save(step_folder(tmp_path, step, backend), backend)
    (tmp_path / "notes").mkdir()
    assert list(saved_steps(tmp_path, backend)) == [4, 8, 12]
    assert latest_checkpoint(tmp_path, backend) == (12, step_folder(tmp_path, 12, backend))
    assert outdated(tmp_path, 12, {4}, backend) == [step_folder(tmp_path, 8, backend)]


@pytest.mark.parametrize("cut", ["model:\n  num_layers: 2\ntrain: {}\nvalid", "model:\n  num_lay", "model: {}\n", None])
def test_a_save_of_bridge_that_was_cut_off_is_not_gone_on_with(tmp_path: Path, cut: str | None) -> None:
    for step in (4, 8):
        save(step_folder(tmp_path, step, "bridge"), "bridge")
    config = step_folder(tmp_path, 8, "bridge") / "run_config.yaml"
    config.unlink()
    if cut is not None:
        config.write_text(cut)
    assert latest_checkpoint(tmp_path, "bridge")[0] == 4


def test_a_save_of_nemo_that_was_cut_off_is_not_gone_on_with(tmp_path: Path) -> None:
    for step in (4, 8):
        save(step_folder(tmp_path, step, "nemo"), "nemo")
    (tmp_path / "step_00000008-unfinished").touch()
    assert latest_checkpoint(tmp_path, "nemo")[0] == 4
