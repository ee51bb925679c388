"""Answers that are kept: a changed suite runs only what is new."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemo_demix.scoring.answer_store import AnswerStore
from nemo_demix.scoring.generate import Prompt
from nemo_demix.scoring.parts import Part, PartAnswers
from nemo_demix.scoring.requests import EncodedRequests
from nemo_demix.scoring.suite import Request
from tests.helpers import fork_run, run_cli

TEXTS = ["", "naïve 42\n", "\ud800 half of a pair", "日本"]


def part(**more: Any) -> Part:
    prompts = [Prompt((1, 2), 8, ("\n",), seed=place) for place in range(4)]
    encoded = EncodedRequests(prompts=prompts, stops=[["\n"]] * 4)
    sequences = [Request("task/t", [1, 2, 3], 1, 5), Request("task/t", [4, 5], 1, 2)]
    return Part(**{"name": "task/t", "sequences": sequences, "encoded": encoded, "vocabulary": ("v", 9), **more})


def answers() -> PartAnswers:
    return PartAnswers(np.array([-1 / 3, -2e-9]), np.array([False, True]), TEXTS)


def decoded(arrays: Mapping[str, np.ndarray]) -> PartAnswers:
    return PartAnswers.of_arrays(part(), arrays)


def test_what_is_kept_is_what_was_answered(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path)
    other = PartAnswers(np.zeros(1), np.ones(1, dtype=bool), [])
    store.put_arrays("ab12", {"key": answers().as_arrays(), "other": other.as_arrays()})
    (path,) = tmp_path.rglob("*.npz")  # all or none
    assert path.parent == tmp_path / "ab/ab12"
    (found,) = store.arrays("ab12", {"key": decoded, "more": decoded}).values()
    assert found.logprobs_R.tobytes() == answers().logprobs_R.tobytes()
    assert found.greedy_R.tolist() == [False, True]
    assert found.texts == TEXTS
    assert store.arrays("ab13", {"key": decoded}) == {}
    assert store.arrays(None, {"key": decoded}) == {}
    assert AnswerStore(tmp_path, reads=False).arrays("ab12", {"key": decoded}) == {}  # as with force=true


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other", "not finite"])
def test_a_damaged_file_is_named_and_counts_as_none(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = AnswerStore(tmp_path)
    store.put_arrays("ab12", {"key": answers().as_arrays()})
    (path,) = tmp_path.rglob("*.npz")
    data = bytearray(path.read_bytes())
    place = data.index("naïve".encode())
    data[place] ^= 1
    if damage in ("other", "not finite"):
        few = answers() if damage == "not finite" else PartAnswers(np.zeros(1), np.ones(1, dtype=bool), TEXTS)
        if damage == "not finite":
            few.logprobs_R[0] = np.nan
        store.put_arrays("ab12", {"key": few.as_arrays()})
    else:
        path.write_bytes({"cut": data[:200], "flipped": data, "empty": b""}[damage])
    assert store.arrays("ab12", {"key": decoded}) == {}
    assert f"{path}: damaged" in caplog.text


def test_answers_belong_to_all_that_was_asked() -> None:
    key, asked = part().key, part()
    assert asked.encoded is not None
    assert part(name="task/other").key == key
    first, second = asked.sequences
    others = [
        part(vocabulary=("v", 10)),
        part(sequences=[replace(first, tokens=[1, 2, 4]), second]),
        part(sequences=[replace(first, start=2), second]),
        part(sequences=[second, first]),
        part(sequences=[Request("task/t", [1, 2], 1, 5), Request("task/t", [3, 4, 5], 1, 2)]),
        part(encoded=replace(asked.encoded, stops=[["\n\n"]] * 4)),
        part(encoded=replace(asked.encoded, prompts=asked.encoded.prompts[::-1])),
        part(encoded=None),
    ]
    assert len({key, *(other.key for other in others)}) == 1 + len(others)


@pytest.mark.slow
def test_proxies_of_a_changed_suite_are_merged_only_where_something_is_new(smoke_run: Path, tmp_path: Path) -> None:
    runs = fork_run(smoke_run, tmp_path / "runs", "search", "models/final", "final", "scores")
    run = runs / "smoke"
    mixtures = {f"m{place}": {"general": 1 - place / 8, "math_1": place / 8} for place in range(4)}
    (tmp_path / "mixtures.json").write_text(json.dumps(mixtures))
    arguments = [
        "--config-name",
        "smoke",
        f"runs_dir={runs}",
        f"score.mixtures={tmp_path / 'mixtures.json'}",
        "parallel.tensor=1",
    ]

    def rows(*more: str) -> tuple[list[dict[str, Any]], str]:
        log = run / "scores/proxies.jsonl"
        log.unlink(missing_ok=True)
        said = run_cli("score", *arguments, *more).stderr
        return [json.loads(line) for line in log.read_text().splitlines()], said

    def values(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{key: row[key] for key in ("name", "scores", "capabilities", "merge_weights")} for row in rows]

    fewer, said = rows("suite.heldout_tokens=0")
    assert "are known" not in said
    num_known = len(fewer[0]["scores"])
    more, said = rows()
    assert f"{num_known} of {len(more[0]['scores'])} groups of scores are known" in said
    assert all(row["merge_time_s"] > 0 for row in more)
    again, said = rows()
    assert all(row["merge_time_s"] == 0 for row in again)
    assert sorted(values(again), key=str) == sorted(values(more), key=str)
