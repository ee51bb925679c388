"""Models that are there and would be trained again: which, why, at what cost, and who says that they may be."""

import os
import pty
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_demix.artifacts import DataManifest, DatasetRecord, ModelRecord, write_json
from nemo_demix.config import DemixConfig
from nemo_demix.errors import ConfigError
from nemo_demix.prepared import PreparedRun
from nemo_demix.stages.retraining import confirm_retraining
from nemo_demix.training.jobs import TrainJob
from nemo_demix.training.retraining import retrainings
from tests.test_recipes import composed


def manifest_of(config: DemixConfig, changed: str = "") -> DataManifest:
    """Prepared data, of which one dataset may be another than before."""
    datasets = {
        name: DatasetRecord(
            name=name, capability=dataset.capability, train_prefix="t", heldout_prefix="h", num_documents=2,
            num_duplicates=0, num_train_tokens=100, num_heldout_tokens=10, num_train_bytes=1, num_heldout_bytes=1,
            sources=[], overlap={}, fingerprint=f"data-{name}{'-new' if name == changed else ''}",
        )
        for name, dataset in config.datasets.items()
    }  # fmt: skip
    return DataManifest({"fingerprint": "tok", "vocab_size": 300}, datasets, {}, "all", {})


def components(config: DemixConfig, changed: str = "") -> Sequence[TrainJob]:
    return PreparedRun(config, manifest_of(config, changed)).components


def finish(job: TrainJob) -> None:
    """What training leaves of a model, but for its weights."""
    record = ModelRecord(job.role, job.name, "c", {}, job.blend, job.num_tokens, job.num_steps, None, None, None, 50.0,
                         job.fingerprint)  # fmt: skip
    write_json(job.claim_path, {"fingerprint": job.fingerprint, "inputs": job.inputs})
    write_json(job.record_path, record)


@pytest.fixture(scope="module")
def smoke() -> DemixConfig:
    return composed("smoke")


@pytest.fixture
def trained(smoke: DemixConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DemixConfig:
    """A run whose components are trained."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    config = replace(smoke, runs_dir=str(tmp_path))
    for job in components(config):
        finish(job)
    return config


def test_what_is_done_or_was_never_there_is_not_asked_about(trained: DemixConfig) -> None:
    jobs = components(trained)
    assert retrainings(jobs) == []
    confirm_retraining(trained, jobs)
    elsewhere = replace(trained, name="other")
    confirm_retraining(elsewhere, components(elsewhere))


def test_the_reason_is_the_input_that_changed(trained: DemixConfig) -> None:
    found = retrainings(components(trained, changed="math_1"))
    assert [one.name for one in found] == ["component/math_1"]
    assert found[0].reasons == ("the data of math_1 (its text, max_bytes, the held-out share or the tokenizer)",)
    assert (found[0].num_tokens, found[0].wall_time_s) == (16384, 50.0)
    quicker = replace(trained, components=replace(trained.components, max_lr=5e-4, beta=0.5, num_tokens=32768))
    found = retrainings(components(quicker))
    assert len(found) == 7
    one = next(one for one in found if one.name == "component/code_2")
    assert one.wall_time_s == 100.0
    text = str(one)
    assert "the share of code_2 (0.75 -> 0.5); the share of general (0.25 -> 0.5)" in text
    assert "its number of steps (num_tokens, train.global_batch_size, train.seq_length) (16 -> 32)" in text
    assert "its schedule (max_lr, min_lr_ratio, warmup_share) ([0.001, 0.2, 0.02] -> [0.0005, 0.2, 0.02])" in text


def test_a_changed_model_is_told_by_its_key(trained: DemixConfig) -> None:
    overrides = {"model": {"config": {**trained.model.overrides["model"]["config"], "num_layers": 5}}}
    deeper = replace(trained, model=replace(trained.model, overrides=overrides))
    found = retrainings(components(deeper))
    assert "model.overrides.model.config.num_layers (2 -> 5)" in found[0].reasons
    assert "the model it starts from" in found[0].reasons


def test_nobody_to_ask_needs_yes_and_a_job_does_not(trained: DemixConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = components(trained, changed="math_1")
    with pytest.raises(ConfigError, match=r"component/math_1: trained by another configuration .*--yes trains them"):
        confirm_retraining(trained, jobs)
    confirm_retraining(replace(trained, yes=True), jobs)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    confirm_retraining(trained, jobs)


@pytest.mark.parametrize(("answer", "goes_on"), [(b"y\n", True), (b"\n", False), (b"no\n", False)])
def test_a_terminal_is_asked(
    trained: DemixConfig, monkeypatch: pytest.MonkeyPatch, answer: bytes, goes_on: bool
) -> None:
    jobs = components(trained, changed="math_1")
    ours, theirs = pty.openpty()
    with open(theirs, "r+b", buffering=0) as raw, open(os.dup(theirs)) as reads, open(os.dup(theirs), "w") as writes:
        monkeypatch.setattr("sys.stdin", reads)
        monkeypatch.setattr("sys.stderr", writes)
        typist = threading.Thread(target=os.write, args=(ours, answer))
        typist.start()
        if goes_on:
            confirm_retraining(trained, jobs)
        else:
            with pytest.raises(ConfigError, match="the answer was not yes"):
                confirm_retraining(trained, jobs)
        typist.join()
        assert raw.isatty()
    said = b""
    while b"Train them again?" not in said:  # what was typed may arrive alone; after the last of it reading fails
        said += os.read(ours, 4096)
    assert b"Train them again?" in said
    os.close(ours)
