"""A row of `scores.jsonl`, as this release and earlier ones write it. `tests/data/finished`: as written by 0.1.0."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nemo_demix.artifacts import canonical_json
from nemo_demix.errors import DemixError
from nemo_demix.scoring.items import Score
from nemo_demix.search.proxy_row import ProxyRow, of_last_search, read_rows
from tests.helpers import REPOSITORY

FINISHED = REPOSITORY / "tests/data/finished/quickstart/search/scores.jsonl"
# Shapes that earlier releases wrote.
SCORE = {"higher_is_better": False, "num_items": 48, "score": 3.02, "stderr": 0.11, "unit": "bits/byte"}
FIRST: dict[str, Any] = {
    "capabilities": {"general": SCORE},
    "fingerprint": "9f70",
    "iteration": 0,
    "merge_time_s": 0.01,
    "merge_weights": {"general": 0.75, "math": 0.25},
    "name": "mix_0",
    "reason": None,
    "score_time_s": 2.0,
    "scores": {"benchmark/arc_easy": SCORE},
    "status": "OK",
}
PARTS = {"components": {"general": "c1", "math": "c2"}, "merge": "m", "groups": {"benchmark/arc_easy": "g"}}
TRAINED = {**FIRST, **PARTS, "proxy": "trained", "train_time_s": 41.2, "num_tokens": 8192}
EXTERNAL = {**FIRST, **PARTS, "proxy": "merge", "external_time_s": 3.25}
FAILED = {key: value for key, value in EXTERNAL.items() if key not in ("scores", "capabilities")}
FAILED |= {"status": "FAILED", "reason": "benchmark/arc_easy: the model gives nan bits"}
TOLD = {**FIRST, **PARTS, "proxy": "study", "scores": {"loss": {"higher_is_better": False, "num_items": None}}}
TOLD["scores"]["loss"] |= {"score": 2.5, "stderr": None}
TOLD = {key: value for key, value in TOLD.items() if key not in ("capabilities", "merge_time_s", "score_time_s")}


def without_version(row: ProxyRow) -> dict[str, Any]:
    found = row.to_json()
    assert found.pop("version") == 1
    return found


def test_what_an_earlier_release_wrote_is_written_again_byte_for_byte() -> None:
    lines = FINISHED.read_text(encoding="utf-8").splitlines()
    rows = read_rows(FINISHED)
    assert [canonical_json(without_version(row)) for row in rows] == lines
    assert len(rows) == 3
    assert of_last_search([*rows, replace(rows[0], fingerprint="another")]) == [replace(rows[0], fingerprint="another")]


@pytest.mark.parametrize("stored", [FIRST, TRAINED, EXTERNAL, FAILED, TOLD])
def test_rows_of_all_kinds_and_releases_are_read(stored: dict[str, Any]) -> None:
    row = ProxyRow.from_json(json.loads(json.dumps(stored)))
    assert (row.name, row.iteration, row.merge_weights) == ("mix_0", 0, {"general": 0.75, "math": 0.25})
    assert (row.status, row.reason, row.fingerprint) == (stored["status"], stored["reason"], "9f70")
    assert {name: score.score for name, score in row.scores.items()} == {
        name: score["score"] for name, score in stored.get("scores", {}).items()
    }
    assert row.wall_time_s == sum(value for name, value in stored.items() if name.endswith("_time_s"))
    assert ProxyRow.from_json(row.to_json()) == (replace(row, fingerprint="") if row.components is None else row)
    if "groups" in stored:
        found = without_version(row)
        for scores in (found.get("scores", {}), found.get("capabilities", {}), row.to_json().get("scores", {})):
            for score in scores.values():
                assert score.pop("chance") is None  # which the first releases did not know
        assert found == stored


def test_a_unit_that_is_not_known_is_no_unit() -> None:
    assert ProxyRow.from_json(TOLD).scores["loss"] == Score(2.5, unit=None)
    assert "unit" not in Score(2.5, unit=None).to_json()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("nonsense", "JSONDecodeError"),
        ("[]", "AttributeError"),
        (json.dumps({**FIRST, "version": 2}), "version 2, where this release reads 1"),
        (json.dumps({**FIRST, "status": "ok"}), "status 'ok', where it is OK or FAILED"),
        (json.dumps({**FIRST, "merge_weights": [1.0]}), "AttributeError"),
        (json.dumps({**FIRST, "scores": {"benchmark/arc_easy": {**SCORE, "score": None}}}), "TypeError"),
        (json.dumps({**FIRST, "scores": {"benchmark/arc_easy": {**SCORE, "score": float("nan")}}}), "the score nan"),
        (json.dumps({key: value for key, value in EXTERNAL.items() if key != "merge"}), "KeyError: 'merge'"),
    ],
)
def test_a_line_that_is_no_row_is_named(line: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    path.write_text(json.dumps(FIRST) + f"\n{line}\n")
    with pytest.raises(DemixError, match=rf"scores\.jsonl:2: expected a row of scores, found .*{says}"):
        read_rows(path)


def test_a_file_that_grows_or_is_not_there_has_its_whole_rows(tmp_path: Path) -> None:
    (tmp_path / "scores.jsonl").write_text(json.dumps(FIRST) + '\n{"name": "mi')
    assert [row.name for row in read_rows(tmp_path / "scores.jsonl")] == ["mix_0"]
    assert read_rows(tmp_path / "none.jsonl") == of_last_search([]) == []
