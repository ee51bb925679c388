"""The arithmetic of scores: means, standard errors, paired comparisons."""

import json

import numpy as np
import pytest

from nemo_demix.errors import ScoreError
from nemo_demix.scoring.identity import JudgedScore
from nemo_demix.scoring.items import Items, items_of_summary, pack_items, unpack_items
from nemo_demix.scoring.scores import (
    Comparison,
    capability_scores,
    combined,
    compare,
    compare_heldout,
    likelihood_items,
    mean_items,
    suite_scores,
)
from nemo_demix.scoring.suite import Request, Suite


def make_suite(counts: dict[str, tuple[str | None, int]], rng: np.random.Generator) -> Suite:
    requests = [
        Request(group, [0, 1, 2], 1, int(rng.integers(5, 50)))
        for group, (_, count) in counts.items()
        for _ in range(count)
    ]
    judged = {group: JudgedScore(capability) for group, (capability, _) in counts.items() if capability is not None}
    heldout = {name: name.removeprefix("heldout/") for name in counts if name not in judged}
    return Suite(requests, judged, heldout, "f")


COUNTS = {
    "benchmark/a": ("math", 40),
    "benchmark/b": ("math", 10),
    "benchmark/c": ("code", 25),
    "heldout/d": (None, 30),
}


def test_benchmarks_are_means_over_items_and_heldout_a_ratio_of_totals() -> None:
    rng = np.random.default_rng(0)
    suite = make_suite(COUNTS, rng)
    bits = rng.uniform(1, 100, len(suite.requests))
    sizes = np.array([request.num_bytes for request in suite.requests])
    scores = suite_scores(likelihood_items(suite, bits))
    ratio = bits[:40] / sizes[:40]
    assert scores["benchmark/a"].score == pytest.approx(ratio.mean())
    assert scores["benchmark/a"].stderr == pytest.approx(ratio.std(ddof=1) / 40**0.5)
    assert scores["heldout/d"].score == pytest.approx(bits[75:].sum() / sizes[75:].sum())
    capabilities = capability_scores(suite, scores)
    assert set(capabilities) == {"math", "code"}
    assert capabilities["math"].score == pytest.approx((scores["benchmark/a"].score + scores["benchmark/b"].score) / 2)
    assert capabilities["math"].num_items == 50


def test_the_heldout_standard_error_is_the_bootstraps() -> None:
    rng = np.random.default_rng(1)
    suite = make_suite({"heldout/d": (None, 200)}, rng)
    sizes = np.array([request.num_bytes for request in suite.requests], dtype=float)
    bits = sizes * rng.uniform(1.5, 3.5, 200)
    stderr = suite_scores(likelihood_items(suite, bits))["heldout/d"].stderr
    draws = [(lambda rows: bits[rows].sum() / sizes[rows].sum())(rng.integers(0, 200, 200)) for _ in range(4000)]
    assert stderr == pytest.approx(np.std(draws), rel=0.1)


def test_the_paired_interval_is_the_bootstraps() -> None:
    rng = np.random.default_rng(2)
    suite = make_suite(COUNTS, rng)
    sizes = np.array([request.num_bytes for request in suite.requests], dtype=float)
    second = sizes * rng.uniform(1.5, 3.5, len(sizes))
    first = second - sizes * rng.normal(0.05, 0.2, len(sizes))
    one, two = likelihood_items(suite, first), likelihood_items(suite, second)
    result = compare(suite, one, two)
    differences = (first - second) / sizes
    groups = [np.arange(0, 40), np.arange(40, 50), np.arange(50, 75)]

    def draw() -> float:
        a, b, c = (differences[rng.choice(rows, len(rows))].mean() for rows in groups)
        return ((a + b) / 2 + c) / 2

    assert result.difference == pytest.approx(
        ((differences[:40].mean() + differences[40:50].mean()) / 2 + differences[50:75].mean()) / 2
    )
    assert result.stderr == pytest.approx(np.std([draw() for _ in range(4000)]), rel=0.1)
    assert compare(suite, two, one).difference == pytest.approx(-result.difference)


def test_equal_models_are_not_distinguishable() -> None:
    rng = np.random.default_rng(3)
    suite = make_suite(COUNTS, rng)
    bits = rng.uniform(1, 100, len(suite.requests))
    items, less, more = (likelihood_items(suite, bits + change) for change in (0, -1, 1))
    assert compare(suite, items, items).verdict == "not distinguishable"
    assert compare(suite, less, items).verdict == "better"
    assert compare(suite, more, items).verdict == "worse"


def test_held_out_text_is_compared_by_its_bytes_and_apart_from_benchmarks() -> None:
    rng = np.random.default_rng(6)
    suite = make_suite({"benchmark/x": ("general", 5), "heldout/a": (None, 20), "heldout/b": (None, 30)}, rng)
    first, second = (rng.uniform(1, 100, len(suite.requests)) for _ in range(2))
    sizes = np.array([float(request.num_bytes) for request in suite.requests])
    found = compare_heldout(suite, likelihood_items(suite, first), likelihood_items(suite, second))
    ratios = [(first - second)[rows].sum() / sizes[rows].sum() for rows in (slice(5, 25), slice(25, 55))]
    assert found is not None
    assert found.difference == pytest.approx(np.mean(ratios))
    without = make_suite({"benchmark/x": ("general", 5)}, rng)
    items = likelihood_items(without, first[:5])
    assert compare_heldout(without, items, items) is None


def accuracy(rng: np.random.Generator, count: int, share: float) -> Items:
    return Items((rng.random(count) < share).astype(float), np.ones(count), "share", True, 0.25)


def test_where_higher_is_better_the_sign_is_turned() -> None:
    rng = np.random.default_rng(4)
    suite = Suite([], {"task/a": JudgedScore("general", weight=3.0), "task/b": JudgedScore("general")}, {}, "f")
    good, bad = ({name: accuracy(rng, 400, share) for name in ("task/a", "task/b")} for share in (0.9, 0.4))
    assert compare(suite, good, bad).verdict == "better"
    assert compare(suite, bad, good).verdict == "worse"
    scores = suite_scores(good)
    general = capability_scores(suite, scores)["general"]
    assert general.score == pytest.approx((3 * scores["task/a"].score + scores["task/b"].score) / 4)
    assert (general.unit, general.higher_is_better, general.chance) == ("share", True, 0.25)
    ratio_of_totals = compare(suite, good, bad).difference
    assert ratio_of_totals == pytest.approx(
        capability_scores(suite, suite_scores(bad))["general"].score - general.score
    )


@pytest.mark.parametrize("count", [2, 3, 5])
def test_an_interval_over_data_orders_holds_the_truth_in_19_of_20_runs(count: int) -> None:
    rng = np.random.default_rng(count)
    of_items, of_orders, runs = 0.3, 1.0, 2000
    shift_N = rng.normal(0.0, of_items, runs)  # of the items, which all orders share
    orders_NE = shift_N[:, None] + rng.normal(0.0, of_orders, (runs, count))
    held = 0
    for orders_E in orders_NE:
        found = combined(Comparison(orders_E.mean(), of_items, 0.0, 0.0, ""), None, 0.0, orders=orders_E.tolist())
        held += found["low"] <= 0.0 <= found["high"]
        assert found["unmeasured"] == []
    assert 0.93 < held / runs < 0.975


def test_more_data_orders_narrow_what_verify_measured() -> None:
    one = combined(Comparison(-0.02, 0.0, None, None, ""), 0.01, 0.0, orders=[-0.02])
    four = combined(Comparison(-0.02, 0.0, None, None, ""), 0.01, 0.0, orders=[-0.02, -0.03, -0.01, -0.02])
    assert (one["stderr"], four["stderr"]) == pytest.approx((2**0.5 * 0.01, 0.5**0.5 * 0.01))
    assert (one["verdict"], four["verdict"]) == ("not distinguishable", "better")


def test_the_mean_of_data_orders_is_by_item_where_items_are_known() -> None:
    weights = np.array([1.0, 2.0, 1.0])
    orders = [{"a": Items(np.array(values), weights)} for values in ([1.0, 2.0, 3.0], [3.0, 2.0, 5.0])]
    mean = mean_items(orders)["a"]
    assert mean.values_I.tolist() == [2.0, 2.0, 4.0]
    assert mean.weights_I is weights
    told = [items_of_summary(score, 0.1, 50, "share", True, 0.25) for score in (0.4, 0.6)]
    score = suite_scores(mean_items([{"b": one} for one in told]))["b"]
    assert (score.score, score.stderr, score.num_items, score.higher_is_better) == (0.5, 0.1, 50, True)


def test_units_are_not_averaged() -> None:
    suite = Suite([], {"task/a": JudgedScore("general"), "benchmark/b": JudgedScore("general")}, {}, "f")
    items = {"task/a": accuracy(np.random.default_rng(5), 9, 0.5), "benchmark/b": Items(np.arange(3.0), np.ones(3))}
    with pytest.raises(
        ScoreError, match="general: task/a is in share and benchmark/b in bits/byte, which have no mean"
    ):
        capability_scores(suite, suite_scores(items))


def test_items_survive_the_way_from_rank_to_search() -> None:
    rng = np.random.default_rng(6)
    items = {"task/a": accuracy(rng, 7, 0.5), "heldout/b": Items(rng.random(3), rng.integers(1, 9, 3).astype(float))}
    facts, packed = pack_items(items)
    back = unpack_items(json.loads(json.dumps(facts)), packed)
    assert suite_scores(back) == suite_scores(items)
    assert pack_items({})[1].shape == (2, 0)


@pytest.mark.parametrize(
    ("difference", "stderr", "low", "high", "verdict"),
    [
        (-0.30, 0.10, -0.496, -0.104, "better"),
        (-0.20, 0.10, -0.396, -0.004, "better"),
        (-0.19, 0.10, -0.386, 0.006, "not distinguishable"),
        (0.0, 0.10, -0.196, 0.196, "not distinguishable"),
        (0.19, 0.10, -0.006, 0.386, "not distinguishable"),
        (0.20, 0.10, 0.004, 0.396, "worse"),
        (0.30, 0.10, 0.104, 0.496, "worse"),
        (-0.01, 0.0, -0.01, -0.01, "better"),
        (0.0, 0.0, 0.0, 0.0, "not distinguishable"),
        (-5.0, None, None, None, "not distinguishable"),
    ],
)
def test_the_verdict_is_what_an_interval_of_95_percent_allows(
    difference: float, stderr: float | None, low: float | None, high: float | None, verdict: str
) -> None:
    """Of bits: fewer are better. What the comparison said of itself before does not matter."""
    found = combined(Comparison(difference, stderr, 7.0, 7.0, "before"), 0.0, 0.0)
    assert (found["difference"], found["verdict"]) == (difference, verdict)
    assert (found["low"], found["high"]) == ((None, None) if stderr is None else pytest.approx((low, high)))


def test_all_errors_together_widen_the_interval() -> None:
    comparison = Comparison(-0.010, 0.003, -0.01588, -0.00412, "better")
    alone = combined(comparison, 0.0, 0.0)
    assert (alone["low"], alone["high"]) == pytest.approx((comparison.low, comparison.high))
    assert alone["verdict"] == "better"
    assert alone["unmeasured"] == []
    wide = combined(comparison, seeds_std=0.004, predictor_std=0.003)
    assert wide["standard_errors"] == pytest.approx(
        {"items": 0.003, "seeds": 0.004 * 2**0.5, "predictor": 0.003 * 2**0.5}
    )
    assert wide["stderr"] == pytest.approx((0.003**2 + 2 * 0.004**2 + 2 * 0.003**2) ** 0.5)
    assert wide["verdict"] == "not distinguishable"
    assert wide["difference"] == comparison.difference


def test_what_was_not_measured_is_named_and_not_taken_as_0() -> None:
    comparison = Comparison(0.010, 0.003, 0.00412, 0.01588, "worse")
    found = combined(comparison, None, None)
    assert found["standard_errors"] == {"items": 0.003, "seeds": None, "predictor": None}
    assert found["unmeasured"] == ["seeds", "predictor"]
    assert found["verdict"] == "worse"
