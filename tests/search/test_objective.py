"""Percentile ranks and their mean over capabilities."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_demix.errors import ConfigError, ScoreError
from nemo_demix.search.objective import (
    Scale,
    above_floors,
    capability_weights,
    mean_percentile_rank,
    mean_score,
    negative_utility,
    percentile_ranks,
)

LOWER, HIGHER = Scale(higher_is_better=False), Scale(higher_is_better=True)


def test_ranks_of_a_small_pool():
    values_M = np.array([3.0, 1.0, 2.0, 2.0, 9.0])
    assert percentile_ranks(values_M, higher_is_better=False).tolist() == [0.75, 0.0, 0.375, 0.375, 1.0]
    assert percentile_ranks(values_M, higher_is_better=True).tolist() == [0.25, 1.0, 0.625, 0.625, 0.0]


@given(values=st.lists(st.integers(-50, 50), min_size=1, max_size=40))
def test_a_rank_is_the_share_of_the_others_that_are_better(values):
    values_M = np.array(values, dtype=float)
    found_M = percentile_ranks(values_M, higher_is_better=False)
    for rank, value in zip(found_M, values, strict=True):
        better = sum(other < value for other in values)
        tied = sum(other == value for other in values) - 1
        expected = (better + tied / 2) / (len(values) - 1) if len(values) > 1 else 0.5
        assert rank == pytest.approx(expected, abs=1e-12)


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_turning_the_direction_turns_the_ranks(values):
    lower_M = percentile_ranks(np.array(values), higher_is_better=False)
    assert percentile_ranks(np.array(values), higher_is_better=True) == pytest.approx(1 - lower_M)


def test_the_objective_averages_ranks_not_scores():
    averages = {"general": np.array([1.0, 2.0, 1000.0]), "math": np.array([0.3, 0.2, 0.1])}
    found_M = mean_percentile_rank(averages, {"general": LOWER, "math": LOWER})
    assert found_M.tolist() == [0.5, 0.5, 0.5]
    found_M = mean_percentile_rank(averages, {"general": LOWER, "math": HIGHER})
    assert found_M.tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("averages", "message"),
    [
        ({}, "at least one; found {}"),
        ({"a": np.ones(2), "b": np.ones(3)}, "of one length, .* found {'a': 2, 'b': 3}"),
        ({"z": np.ones(2)}, "no direction for z"),
        ({"a": np.array([1.0, np.nan])}, "expected finite scores, found nan in row 1"),
        ({"a": np.ones(0)}, r"found shape \(0,\)"),
    ],
)
def test_what_cannot_be_ranked_is_refused(averages, message):
    with pytest.raises(ScoreError, match=message):
        mean_percentile_rank(averages, {"a": LOWER, "b": HIGHER})


def test_the_mean_keeps_how_much_is_gained_and_ranks_do_not():
    averages = {"math": np.array([1.00, 1.01, 1.02]), "code": np.array([3.0, 2.0, 1.0])}
    lower = {"math": LOWER, "code": LOWER}
    assert np.argmin(mean_score(averages, lower)) == 2
    assert np.ptp(mean_percentile_rank(averages, lower)) == 0
    higher = {"math": HIGHER, "code": HIGHER}
    assert np.array_equal(mean_score(averages, higher), -mean_score(averages, lower))


def test_a_mean_of_both_directions_is_refused():
    with pytest.raises(ScoreError, match="one direction"):
        mean_score({"a": np.ones(2), "b": np.ones(2)}, {"a": HIGHER, "b": LOWER})


@pytest.mark.parametrize("objective", [mean_percentile_rank, mean_score, negative_utility])
def test_a_weight_of_0_leaves_a_capability_out_and_ratios_of_weights_are_all_that_counts(objective):
    averages = {"math": np.array([1.0, 1.5, 2.0]), "code": np.array([3.0, 2.0, 1.0])}
    scales = {name: Scale(False, weight, worst=4.0, best=1.0) for name, weight in (("math", 2.0), ("code", 0.0))}
    alone_M = objective({"math": averages["math"]}, scales)
    assert objective(averages, scales) == pytest.approx(alone_M)
    scales = {name: Scale(False, weight, worst=4.0, best=1.0) for name, weight in (("math", 3.0), ("code", 1.0))}
    tenfold = {name: Scale(False, 10 * scale.weight, worst=4.0, best=1.0) for name, scale in scales.items()}
    assert objective(averages, scales) == pytest.approx(objective(averages, tenfold))
    code_M = objective({"code": averages["code"]}, scales)
    assert objective(averages, scales) == pytest.approx(0.75 * alone_M + 0.25 * code_M)


def test_utility_runs_from_the_worst_to_the_best_proxy_in_either_direction():
    scales = {"loss": Scale(False, worst=3.0, best=1.0), "accuracy": Scale(True, worst=20.0, best=60.0)}
    averages = {"loss": np.array([3.0, 1.0, 2.0, 0.0]), "accuracy": np.array([20.0, 60.0, 60.0, 60.0])}
    assert negative_utility(averages, scales) == pytest.approx([0.0, -1.0, -0.75, -1.25])
    constant = {"loss": Scale(False, worst=2.0, best=2.0), "accuracy": scales["accuracy"]}
    assert negative_utility(averages, constant) == pytest.approx([0.0, -0.5, -0.5, -0.5])


def test_a_weight_left_out_is_1_and_impossible_ones_are_refused():
    known = {"math": False, "code": False}
    assert capability_weights({"math": 2.0}, known) == {"math": 2.0, "code": 1.0}
    with pytest.raises(ConfigError, match=r"search.capability_weights: no capability maths in the objective; expected"):
        capability_weights({"maths": 1.0}, known)
    for bad in ({"math": -1.0}, {"math": float("nan")}, {"math": 0.0, "code": 0.0}):
        with pytest.raises(ConfigError, match=r"search.capability_weights: expected numbers >= 0, one above 0"):
            capability_weights(bad, known)


@given(values=st.lists(st.floats(-10, 10), min_size=1, max_size=20), floor=st.floats(0, 5))
def test_a_floor_is_how_much_worse_than_the_baseline_a_capability_may_be(values, floor):
    values_M = np.array(values)
    lower_M = above_floors({"math": values_M}, {"math": 1.0}, {"math": floor}, {"math": LOWER})
    assert lower_M.tolist() == [value - 1.0 <= floor for value in values]
    higher_M = above_floors({"math": values_M}, {"math": 1.0}, {"math": floor}, {"math": HIGHER})
    assert higher_M.tolist() == [1.0 - value <= floor for value in values]
    assert above_floors({"math": values_M}, {}, {}, {"math": LOWER}).all()
