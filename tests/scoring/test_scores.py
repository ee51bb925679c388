"""The arithmetic of scores: means, standard errors, paired comparisons."""

import numpy as np
import pytest

from nemo_demix.scoring.scores import Comparison, capability_scores, combined, compare, suite_scores
from nemo_demix.scoring.suite import Request, Suite


def make_suite(counts: dict[str, tuple[str | None, int]], rng: np.random.Generator) -> Suite:
    requests = [
        Request(group, [0, 1, 2], 1, int(rng.integers(5, 50)))
        for group, (_, count) in counts.items()
        for _ in range(count)
    ]
    return Suite(requests, [], {group: capability for group, (capability, _) in counts.items()}, "f")


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
    scores = suite_scores(suite, bits)
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
    stderr = suite_scores(suite, bits)["heldout/d"].stderr
    draws = [(lambda rows: bits[rows].sum() / sizes[rows].sum())(rng.integers(0, 200, 200)) for _ in range(4000)]
    assert stderr == pytest.approx(np.std(draws), rel=0.1)


def test_the_paired_interval_is_the_bootstraps() -> None:
    rng = np.random.default_rng(2)
    suite = make_suite(COUNTS, rng)
    sizes = np.array([request.num_bytes for request in suite.requests], dtype=float)
    second = sizes * rng.uniform(1.5, 3.5, len(sizes))
    first = second - sizes * rng.normal(0.05, 0.2, len(sizes))
    result = compare(suite, first, second)
    differences = (first - second) / sizes
    groups = [np.arange(0, 40), np.arange(40, 50), np.arange(50, 75)]

    def draw() -> float:
        a, b, c = (differences[rng.choice(rows, len(rows))].mean() for rows in groups)
        return ((a + b) / 2 + c) / 2

    assert result.difference == pytest.approx(
        ((differences[:40].mean() + differences[40:50].mean()) / 2 + differences[50:75].mean()) / 2
    )
    assert result.stderr == pytest.approx(np.std([draw() for _ in range(4000)]), rel=0.1)
    assert compare(suite, second, first).difference == pytest.approx(-result.difference)


def test_equal_models_are_not_distinguishable() -> None:
    rng = np.random.default_rng(3)
    suite = make_suite(COUNTS, rng)
    bits = rng.uniform(1, 100, len(suite.requests))
    assert compare(suite, bits, bits).verdict == "not distinguishable"
    assert compare(suite, bits - 1, bits).verdict == "better"
    assert compare(suite, bits + 1, bits).verdict == "worse"


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
