"""A run's folder and a merge from Python. `tests/data/finished/quickstart`: as written by 0.1.0, 3 rows of 56."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import nemo_demix
from nemo_demix.errors import CheckpointError, ConfigError, MixtureError
from nemo_demix.scoring.identity import JudgedScore
from nemo_demix.search.proxy_row import ProxyRow
from nemo_demix.search.score_log import ProxyIdentity, ScoreLog
from tests.helpers import REPOSITORY, merge_checkpoints, run_cli
from tests.merging.grids import random_model, write_checkpoint
from tests.report.runs import whole_run

OLD = REPOSITORY / "tests/data/finished/quickstart"


def test_a_run_of_an_earlier_release_is_read() -> None:
    run = nemo_demix.Run.load(OLD)
    result, record = run.result, json.loads((OLD / "search/mixture.json").read_text())
    assert result is not None
    assert (result.data_shares, result.weights) == (record["data_shares"], record["merge_weights"])
    assert result.predicted["math"].score == record["predicted"]["math"]["score"]
    assert set(result.baselines) == {"proportional", "equal", "unimax", "demix"}
    assert run.config.search.strategy == "recommended"
    rows = run.table("proxies")
    assert [row["name"] for row in rows] == ["mix_0", "mix_1", "mix_2"]
    assert sum(value for name, value in rows[0].items() if name.startswith("weight/")) == pytest.approx(1)
    assert all(np.isfinite(row["benchmark/gsm8k"]) for row in rows)
    low, high = (np.array([row[end] for row in run.table("mixture")]) for end in ("low", "high"))
    assert (low <= high).all()
    assert (run.models["base"], run.final, run.fidelity, run.manifest) == ({}, None, None, None)


def test_commands_take_a_run_of_an_earlier_release(tmp_path: Path) -> None:
    """Its configuration records every key of that release, also those that are gone."""
    assert "reuse_slots" in (OLD / "config.yaml").read_text()
    run = shutil.copytree(OLD, tmp_path / "quickstart")
    assert "search" in run_cli("status", "--run", str(run)).stdout
    asks = (run / "config.yaml").read_text().replace("reuse_slots: 0", "reuse_slots: 2")
    (run / "config.yaml").write_text(asks)
    assert "merge.reuse_slots" in run_cli("status", "--run", str(run), expect=2).stderr


def test_rows_of_an_earlier_release_hold_for_what_they_were_scored_with(tmp_path: Path) -> None:
    text = (OLD / "search/scores.jsonl").read_text()
    stored = json.loads(text.splitlines()[0])
    benchmarks = nemo_demix.Run.load(OLD).config.suite.benchmarks
    averaged = {f"benchmark/{name}": JudgedScore(one.capability) for name, one in benchmarks.items()}
    identity = ProxyIdentity(
        "merge",
        stored["components"],
        stored["merge"],
        stored["groups"],
        tuple(averaged),
        uses_all=False,
        averaged=averaged,
    )
    assert identity.fingerprint == stored["fingerprint"]
    (tmp_path / "scores.jsonl").write_text(text)
    log = ScoreLog(tmp_path / "scores.jsonl", identity)
    assert log.find(stored["merge_weights"]) == ProxyRow.from_json(stored)
    assert len(log.rows()) == 3
    other = {**stored["components"], "math_1": "another"}
    changed = replace(identity, components=other)
    assert ScoreLog(tmp_path / "scores.jsonl", changed).rows() == []


def test_all_tables_of_a_finished_run(tmp_path: Path) -> None:
    made = whole_run(tmp_path)
    run = nemo_demix.Run.load(made.folder)
    models = run.table("models")
    assert {row["role"] for row in models} >= {"base", "component", "final"}
    assert len(models) == sum(len(one) for one in run.models.values())
    assert [row["status"] for row in run.table("proxies")].count("FAILED") == 1
    assert len(run.table("losses")) == sum(len(steps) for steps in run.records.losses.values())
    assert run.final is not None
    assert run.manifest is not None
    assert [row["dataset"] for row in run.table("mixture")] == list(run.manifest.datasets)
    with pytest.raises(ConfigError, match="table: expected one of mixture, proxies, models, losses, found 'scores'"):
        run.table("scores")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no run"):
        nemo_demix.Run.load(tmp_path / "empty")


def test_a_merge_is_the_commands(tmp_path: Path) -> None:
    model = random_model(0)
    paths = {
        name: write_checkpoint(tmp_path / name, random_model(seed, near=model)) for seed, name in enumerate(("a", "b"))
    }
    mixtures = {"mix_0": {"a": 0.7, "b": 0.3}}
    merge_checkpoints(paths, tmp_path / "expected", mixtures)
    report = nemo_demix.merge(paths, mixtures, tmp_path / "out", workers=1)
    assert report.merged == ("mix_0",)
    assert nemo_demix.merge(paths, mixtures, tmp_path / "out", workers=1).done_before == ("mix_0",)
    found = {path.name: path.read_bytes() for path in (tmp_path / "out/mix_0/weights").glob("*.distcp")}
    assert found == {path.name: path.read_bytes() for path in (tmp_path / "expected/mix_0/weights").glob("*.distcp")}
    assert found
    bad = [
        (MixtureError, "mixtures: mix_1", {"mixtures": {"mix_1": {"a": 0.5}}}),
        (MixtureError, "cannot be a folder's name", {"mixtures": {"../x": {"a": 0.5, "b": 0.5}}}),
        (ConfigError, r"merge\.method: expected one of", {"method": "liner"}),
        (ConfigError, r"merge\.parameters\.normalize: expected true or false", {"parameters": {"normalize": 3}}),
        (CheckpointError, "not found", {"components": {**paths, "b": tmp_path / "nowhere"}}),
    ]
    for kind, message, change in bad:
        with pytest.raises(kind, match=message):
            nemo_demix.merge(**{"components": paths, "mixtures": mixtures, "output": tmp_path / "out", **change})
