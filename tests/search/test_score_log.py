"""What an earlier row is still good for, when components, datasets or the suite have changed since."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_demix.scoring.identity import JudgedScore
from nemo_demix.scoring.items import Score
from nemo_demix.search.proxy_row import ProxyRow
from nemo_demix.search.score_log import ProxyIdentity, ScoreLog, prior_points

ARC, GSM, HELDOUT = "benchmark/arc", "benchmark/gsm", "heldout/math"
KNOWN = {ARC: "a1", GSM: "s1", HELDOUT: "h1"}
IDENTITY = ProxyIdentity(
    kind="merge",
    components={"general": "g1", "math": "m1", "code": "c1"},
    merge="linear",
    score_fingerprints=KNOWN,
    needed=(ARC, GSM),
    uses_all=False,
    averaged={ARC: JudgedScore("general"), GSM: JudgedScore("math")},
)


def change(**values: Any) -> ProxyIdentity:
    return dataclasses.replace(IDENTITY, **values)


def score(value: float) -> Score:
    return Score(value, 0.3, 10)


def row(weights: Mapping[str, float], name: str = "mix") -> ProxyRow:
    scores = {ARC: score(1.0), GSM: score(2.0), HELDOUT: score(3.0)}
    averages = {"general": score(1.0), "math": score(2.0)}
    return ProxyRow(name, dict(weights), scores=scores, capabilities=averages)


BOTH = {"general": 0.5, "math": 0.5, "code": 0.0}
ALL = {"general": 0.5, "math": 0.25, "code": 0.25}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    log = ScoreLog(tmp_path / "scores.jsonl", IDENTITY)
    log.append(row(BOTH))
    log.append(row(ALL))
    return log.path


def found(path: Path, identity: ProxyIdentity) -> list[dict[str, float]]:
    return [kept.merge_weights for kept in ScoreLog(path, identity).rows()]


def test_an_added_dataset_weighs_nothing_in_earlier_rows(path: Path) -> None:
    grown = change(
        components={"new": "n1", **IDENTITY.components},
        score_fingerprints={**KNOWN, "heldout/new": "h2"},
    )
    assert found(path, grown) == [{"new": 0.0, **BOTH}, {"new": 0.0, **ALL}]
    log = ScoreLog(path, grown)
    assert log.find({"new": 0.0, **ALL}) == log.find(ALL) is not None
    assert log.find({"new": 0.25, "general": 0.5, "math": 0.25, "code": 0.0}) is None


def test_rows_that_use_a_dropped_dataset_are_passed_over_and_stay(path: Path) -> None:
    before = path.read_bytes()
    dropped = change(components={"general": "g1", "math": "m1"})
    assert found(path, dropped) == [{"general": 0.5, "math": 0.5}]
    assert path.read_bytes() == before
    assert found(path, IDENTITY) == [BOTH, ALL]


def test_a_retrained_component_takes_its_rows_with_it(path: Path) -> None:
    assert found(path, change(components={**IDENTITY.components, "code": "c2"})) == [BOTH]
    assert found(path, change(components={**IDENTITY.components, "general": "g2"})) == []


def test_every_component_counts_where_the_method_uses_all(path: Path) -> None:
    ties = change(merge="ties", uses_all=True)
    ScoreLog(path, ties).append(row(BOTH))
    assert found(path, ties) == [BOTH]
    assert found(path, dataclasses.replace(ties, components={**IDENTITY.components, "new": "n1"})) == []


@pytest.mark.parametrize("other", [{"merge": "slerp"}, {"kind": "predictions"}])
def test_rows_of_another_kind_of_proxy_are_none(path: Path, other: dict[str, str]) -> None:
    assert found(path, change(**other)) == []


def test_a_benchmark_that_went_leaves_the_rest_and_a_new_one_needs_a_score(path: Path) -> None:
    fewer = change(score_fingerprints={ARC: "a1", HELDOUT: "h1"}, needed=(ARC,), averaged={ARC: JudgedScore("general")})
    kept = ScoreLog(path, fewer).rows()[0]
    assert kept.scores == {ARC: score(1.0), HELDOUT: score(3.0)}
    assert kept.capabilities == {"general": score(1.0)}
    more = change(score_fingerprints={**KNOWN, "benchmark/new": "n1"}, needed=(ARC, GSM, "benchmark/new"))
    assert found(path, more) == []
    changed = change(score_fingerprints={**KNOWN, GSM: "s2"})
    assert found(path, changed) == []


def test_a_score_that_would_be_another_today_is_not_shown(path: Path) -> None:
    kept = ScoreLog(path, change(score_fingerprints={**KNOWN, HELDOUT: "h2"})).rows()[0]
    assert set(kept.scores) == {ARC, GSM}


def test_capability_averages_are_of_the_benchmarks_that_count_now(path: Path) -> None:
    merged = ScoreLog(path, change(averaged={ARC: JudgedScore("all"), GSM: JudgedScore("all")})).rows()[0]
    assert merged.capabilities == {"all": Score(1.5, pytest.approx(0.3 / 2**0.5), 20)}


def test_the_latest_row_of_a_mixture_counts(path: Path) -> None:
    ScoreLog(path, IDENTITY).append(row(BOTH, name="again"))
    kept = ScoreLog(path, IDENTITY)
    assert [one.name for one in kept.rows()] == ["again", "mix"]


def test_rows_of_the_first_format_are_passed_over_and_stay(path: Path) -> None:
    first = {"iteration": 0, "name": "old", "merge_weights": BOTH, "status": "OK", "reason": None, "fingerprint": "f"}
    old = json.dumps({**first, "scores": {ARC: score(1.0).to_json()}, "merge_time_s": 0.5}) + "\n"
    path.write_text(old + path.read_text())
    log = ScoreLog(path, IDENTITY)
    assert [one.name for one in log.rows()] == ["mix", "mix"]
    log.append(row({"general": 1.0, "math": 0.0, "code": 0.0}))
    assert path.read_text().startswith(old)


def test_a_row_that_a_kill_cut_off_is_forgotten(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"name": "mi')
    assert found(path, IDENTITY) == [BOTH, ALL]
    assert path.read_bytes() == whole


def test_prior_points_are_frozen_for_a_search_and_drawn_again_for_another(path: Path) -> None:
    grown = change(components={**IDENTITY.components, "new": "n1"})
    log = ScoreLog(path, grown)
    frozen = prior_points(path.parent, "search-1", log)
    assert [one.merge_weights for one in frozen] == [{**BOTH, "new": 0.0}, {**ALL, "new": 0.0}]
    log.append(row({"new": 1.0}))
    ScoreLog(path, IDENTITY).append(row({"general": 1.0}))  # another configuration runs in between
    assert prior_points(path.parent, "search-1", ScoreLog(path, grown)) == frozen
    assert len(prior_points(path.parent, "search-2", ScoreLog(path, grown))) == 3


def test_what_the_search_would_ask_for_itself_is_no_prior_point(path: Path) -> None:
    log = ScoreLog(path, IDENTITY)
    log.append(ProxyRow("mix", {"general": 1.0}, reason="nan"))
    assert prior_points(path.parent, "search-1", log) == []
    assert prior_points(
        path.parent,
        "search-2",
        ScoreLog(path, change(score_fingerprints={**KNOWN, "heldout/x": "1"})),
    )
    path.unlink()
    assert prior_points(path.parent, "search-2", ScoreLog(path, IDENTITY)) == []


@given(st.permutations(list(ALL)), st.sets(st.sampled_from(["x", "y", "z"])))
def test_a_row_is_found_whatever_the_order_and_the_zeros(order: list[str], zeros: set[str]) -> None:
    stored = dataclasses.replace(
        row(ALL),
        proxy="merge",
        merge="linear",
        components=IDENTITY.components,
        score_fingerprints=KNOWN,
        fingerprint="f",
    )
    components = {**{name: IDENTITY.components[name] for name in order}, **dict.fromkeys(zeros, "1")}
    seen = change(components=components).row(stored)
    assert seen is not None
    assert list(seen.merge_weights) == list(components)
    assert {name: weight for name, weight in seen.merge_weights.items() if weight} == ALL
