"""The loop itself, over an evaluation with a known optimum, so that what it finds can be checked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemo_demix.config import SearchConfig
from nemo_demix.errors import DemixError, ScoreError
from nemo_demix.mixture import BlendMatrix
from nemo_demix.search.loop import run_loop
from nemo_demix.search.score_log import ScoreLog
from nemo_demix.search.space import SearchSpace

NAMES = ["general", "math", "code"]
BEST = {"general": 0.5, "math": 0.2, "code": 0.3}
SPACE = SearchSpace(
    BlendMatrix.demix(NAMES, "general", 0.5),
    {"general": 0.6, "math": 0.2, "code": 0.2},
    {f"benchmark/{name}": name for name in NAMES},
)
SETTINGS = SearchConfig(iterations=[32, 16, 8], pool_size=5000, select_top=32)


class Bowl:
    """A quadratic bowl around BEST for every benchmark; counts its calls."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.calls = 0
        self.fail_at = fail_at

    def __call__(self, weights: Mapping[str, float]) -> dict[str, Any]:
        self.calls += 1
        if self.fail_at is not None and self.calls >= self.fail_at:
            raise ScoreError("the weights are not usable")
        value = 1.0 + sum((weights[name] - BEST[name]) ** 2 for name in NAMES)
        scores = {f"benchmark/{name}": {"score": value} for name in NAMES}
        return {"scores": scores, "capabilities": {name: {"score": value} for name in NAMES}, "merge_time_s": 0.0}


def test_it_finds_the_optimum_and_later_iterations_come_nearer(tmp_path: Path) -> None:
    log = ScoreLog(tmp_path / "scores.jsonl", "f")
    result = run_loop(SETTINGS, SPACE, 0, log, Bowl())
    assert np.abs([result.merge_weights[name] - BEST[name] for name in NAMES]).max() < 0.1
    distance = [sum((row["merge_weights"][n] - BEST[n]) ** 2 for n in NAMES) for row in result.rows]
    assert np.mean(distance[48:]) < np.mean(distance[:32])
    assert sum(result.merge_weights.values()) == pytest.approx(1)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    def run(seed: int, name: str) -> bytes:
        run_loop(SETTINGS, SPACE, seed, ScoreLog(tmp_path / name, "f"), Bowl())
        return (tmp_path / name).read_bytes()

    assert run(3, "one") == run(3, "two") != run(4, "three")


def test_a_cut_off_search_scores_only_what_is_missing(tmp_path: Path) -> None:
    whole = ScoreLog(tmp_path / "whole.jsonl", "f")
    expected = run_loop(SETTINGS, SPACE, 0, whole, Bowl())
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "part.jsonl").write_text("".join(lines[:40]) + lines[40][:30])
    bowl = Bowl()
    result = run_loop(SETTINGS, SPACE, 0, ScoreLog(tmp_path / "part.jsonl", "f"), bowl)
    assert bowl.calls == 56 - 40
    assert result == expected
    assert (tmp_path / "part.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_scores_of_other_components_are_kept_but_not_used(tmp_path: Path) -> None:
    run_loop(SETTINGS, SPACE, 0, ScoreLog(tmp_path / "scores.jsonl", "old"), Bowl())
    bowl = Bowl()
    run_loop(SETTINGS, SPACE, 0, ScoreLog(tmp_path / "scores.jsonl", "new"), bowl)
    assert bowl.calls == 56
    assert len((tmp_path / "scores.jsonl").read_text().splitlines()) == 112


def test_a_failed_proxy_is_a_row_with_its_reason(tmp_path: Path) -> None:
    class OneFails(Bowl):
        def __call__(self, weights: Mapping[str, float]) -> dict[str, Any]:
            self.calls += 1
            if self.calls == 5:
                raise ScoreError("benchmark/math: the model gives nan bits")
            return super().__call__(weights)

    log = ScoreLog(tmp_path / "scores.jsonl", "f")
    result = run_loop(SETTINGS, SPACE, 0, log, OneFails())
    assert (result.num_failed, len(result.rows)) == (1, 55)
    failed = [row for row in log.rows() if row["status"] == "FAILED"]
    assert failed[0]["reason"] == "benchmark/math: the model gives nan bits"
    assert "scores" not in failed[0]


def test_too_many_failures_end_the_search(tmp_path: Path) -> None:
    with pytest.raises(ScoreError, match="iteration 0: 30 of 32 proxies failed"):
        run_loop(SETTINGS, SPACE, 0, ScoreLog(tmp_path / "scores.jsonl", "f"), Bowl(fail_at=3))


def test_a_damaged_row_is_named(tmp_path: Path) -> None:
    (tmp_path / "scores.jsonl").write_text('{"merge_weights": {}, "fingerprint": "f"}\nnonsense\n')
    with pytest.raises(DemixError, match=r"scores.jsonl:2: expected a row of scores"):
        ScoreLog(tmp_path / "scores.jsonl", "f")
