"""The front of a pool, against the definition of dominance."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nemo_demix.search.pareto import pareto_front, thinned

DIRECTIONS = {"loss": False, "accuracy": True, "other": False}


@given(rows=st.lists(st.tuples(*[st.integers(0, 6)] * 3), min_size=1, max_size=40))
def test_the_front_is_what_no_mixture_dominates(rows):
    averages = dict(zip(DIRECTIONS, np.array(rows, dtype=float).T, strict=True))
    found = set(pareto_front(averages, DIRECTIONS).tolist())
    costs_MK = np.array(rows) * [1, -1, 1]
    for row, costs_K in enumerate(costs_MK):
        better_M = (costs_MK <= costs_K).all(axis=1) & (costs_MK < costs_K).any(axis=1)
        first = next(index for index in range(len(rows)) if (costs_MK[index] == costs_K).all())
        assert (row in found) == (not better_M.any() and row == first)


def test_a_thinned_front_keeps_the_best_of_each_capability_and_spreads():
    angle_M = np.linspace(0, np.pi / 2, 1001)
    averages = {"loss": -np.cos(angle_M), "accuracy": np.sin(angle_M)}
    directions = {"loss": False, "accuracy": True}
    front_F = pareto_front(averages, directions)
    assert len(front_F) == 1001
    kept_F = thinned(front_F, averages, directions, 11)
    assert len(kept_F) == 11
    assert kept_F[0] == 0
    assert kept_F[-1] == 1000
    assert np.diff(kept_F).max() < 2.5 * 1000 / 10
    assert thinned(front_F[:5], averages, directions, 11).tolist() == front_F[:5].tolist()


def test_a_large_pool_of_three_capabilities_takes_seconds():
    rng = np.random.default_rng(0)
    averages = {name: rng.normal(size=200_000) for name in DIRECTIONS}
    front_F = pareto_front(averages, DIRECTIONS)
    costs_FK = np.column_stack([averages["loss"], -averages["accuracy"], averages["other"]])[front_F]
    assert 20 < len(front_F) < 2000
    assert not any(((costs_FK < row_K).all(axis=1)).any() for row_K in costs_FK)
