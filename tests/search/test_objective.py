"""Percentile ranks and their mean over capabilities."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_demix.errors import ScoreError
from nemo_demix.search.objective import mean_percentile_rank, mean_score, percentile_ranks


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
    found_M = mean_percentile_rank(averages, {"general": False, "math": False})
    assert found_M.tolist() == [0.5, 0.5, 0.5]
    found_M = mean_percentile_rank(averages, {"general": False, "math": True})
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
        mean_percentile_rank(averages, {"a": False, "b": True})


def test_the_mean_keeps_how_much_is_gained_and_ranks_do_not():
    averages = {"math": np.array([1.00, 1.01, 1.02]), "code": np.array([3.0, 2.0, 1.0])}
    lower = {"math": False, "code": False}
    assert np.argmin(mean_score(averages, lower)) == 2
    assert np.ptp(mean_percentile_rank(averages, lower)) == 0
    higher = {"math": True, "code": True}
    assert np.array_equal(mean_score(averages, higher), -mean_score(averages, lower))


def test_a_mean_of_both_directions_is_refused():
    with pytest.raises(ScoreError, match="one direction"):
        mean_score({"a": np.ones(2), "b": np.ones(2)}, {"a": True, "b": False})
