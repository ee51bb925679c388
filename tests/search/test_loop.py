"""The loop itself, over an evaluation with a known optimum, so that what it finds can be checked."""

import json
from pathlib import Path

import numpy as np
import pytest

from nemo_demix.config import SearchConfig
from nemo_demix.errors import ScoreError
from nemo_demix.search.score_log import ScoreLog
from tests.search.bowls import BEST, FAST, NAMES, Bowl, distance, identity, search

SETTINGS = SearchConfig(iterations=[32, 16, 8], pool_size=3000, select_top=32, num_refits=2, predictor=FAST)


def test_it_finds_the_optimum_and_later_iterations_come_nearer(tmp_path: Path) -> None:
    result = search(SETTINGS, tmp_path / "scores.jsonl")
    assert distance(result.choice.merge_weights) < 0.1
    far = [sum((row.merge_weights[name] - BEST[name]) ** 2 for name in NAMES) for row in result.rows]
    assert np.mean(far[48:]) < np.mean(far[:32])
    assert sum(result.choice.merge_weights.values()) == pytest.approx(1)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    def run(seed: int, name: str) -> bytes:
        search(SETTINGS, tmp_path / name, seed=seed)
        return (tmp_path / name).read_bytes()

    assert run(3, "one") == run(3, "two") != run(4, "three")


def test_the_order_in_which_proxies_are_finished_is_no_part_of_the_result(tmp_path: Path) -> None:
    one = search(SETTINGS, tmp_path / "one")
    other = search(SETTINGS, tmp_path / "other", order=-1)
    assert one.choice.merge_weights == other.choice.merge_weights
    assert one.rows == other.rows
    first = [[json.loads(line) for line in (tmp_path / name).read_text().splitlines()] for name in ("one", "other")]
    assert [row["name"] for row in first[1][:32]] == [row["name"] for row in first[0][31::-1]]


def test_scores_of_other_components_are_kept_but_not_used(tmp_path: Path) -> None:
    search(SETTINGS, tmp_path / "scores.jsonl", version="old")
    bowl = Bowl()
    search(SETTINGS, tmp_path / "scores.jsonl", bowl, version="new")
    assert bowl.calls == 56
    assert len((tmp_path / "scores.jsonl").read_text().splitlines()) == 112


def test_a_failed_proxy_is_a_row_with_its_reason(tmp_path: Path) -> None:
    result = search(SETTINGS, tmp_path / "scores.jsonl", Bowl(fail_at=5))
    assert (result.num_failed, len(result.rows)) == (1, 55)
    rows = ScoreLog(tmp_path / "scores.jsonl", identity()).rows()
    assert [row.reason for row in rows if not row.is_ok] == ["benchmark/math: the model gives nan bits"]
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert ["scores" in line for line in lines] == [line["status"] == "OK" for line in lines]


@pytest.mark.parametrize(("limit", "fail_from"), [(0.5, 3), (0.0, 32)])
def test_too_many_failures_end_the_search(tmp_path: Path, limit: float, fail_from: int) -> None:
    settings = SearchConfig(iterations=[32], max_failed_share=limit, predictor=FAST)
    expected = rf"iteration 0: {33 - fail_from} of 32 proxies failed, more than search.max_failed_share={limit:g}"
    with pytest.raises(ScoreError, match=expected):
        search(settings, tmp_path / "scores.jsonl", Bowl(fail_from=fail_from))
