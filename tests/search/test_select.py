"""What is drawn from a ranked pool."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_demix.config import ConstraintsConfig
from nemo_demix.errors import MixtureError
from nemo_demix.search.select import draw_next, mean_of_top, top_rows
from tests.constraints.cases import build, draw_case, violations

POOL_MC = np.random.default_rng(0).dirichlet(np.ones(5), size=1000)
OBJECTIVE_M = POOL_MC[:, 0]
NONE_EC = np.empty((0, 5))


def numbers(rows_TC):
    """The pool's row number of each drawn row."""
    return [int(np.flatnonzero((row_C == POOL_MC).all(axis=1))[0]) for row_C in rows_TC]


def test_top_rows_keep_the_order_of_ties():
    assert top_rows(np.array([2.0, 1.0, 1.0, 0.0, 1.0]), 4).tolist() == [3, 1, 2, 4]


def test_draws_are_different_rows_of_the_top():
    drawn = numbers(draw_next(POOL_MC, OBJECTIVE_M, 0.02, 20, NONE_EC, np.random.default_rng(1)))
    assert sorted(drawn) == sorted(top_rows(OBJECTIVE_M, 20).tolist())


def test_draws_are_uniform_over_the_top():
    rng = np.random.default_rng(2)
    drawn = [row for _ in range(2000) for row in numbers(draw_next(POOL_MC, OBJECTIVE_M, 0.01, 2, NONE_EC, rng))]
    counts = np.bincount(drawn, minlength=len(POOL_MC))[top_rows(OBJECTIVE_M, 10)]
    assert counts.sum() == 4000
    assert counts == pytest.approx(400, abs=100)


def test_scored_rows_are_not_drawn_again():
    scored_EC = POOL_MC[top_rows(OBJECTIVE_M, 15)] + np.array([4e-6, -4e-6, 0, 0, 0])
    drawn = numbers(draw_next(POOL_MC, OBJECTIVE_M, 0.02, 5, scored_EC, np.random.default_rng(1)))
    assert sorted(drawn) == sorted(top_rows(OBJECTIVE_M, 20)[15:].tolist())
    apart_EC = POOL_MC[top_rows(OBJECTIVE_M, 15)] + np.array([6e-6, -6e-6, 0, 0, 0])
    assert len(draw_next(POOL_MC, OBJECTIVE_M, 0.02, 20, apart_EC, np.random.default_rng(1))) == 20


def test_same_generator_state_same_bytes():
    first_TC, second_TC = (
        draw_next(POOL_MC, OBJECTIVE_M, 0.1, 16, NONE_EC, np.random.default_rng(3)) for _ in range(2)
    )
    assert first_TC.tobytes() == second_TC.tobytes()


def test_mean_of_top_is_the_mean_of_the_best():
    best_TC = POOL_MC[np.argsort(OBJECTIVE_M)[:128]]
    mean_C = mean_of_top(POOL_MC, OBJECTIVE_M, 128)
    assert mean_C == pytest.approx(best_TC.mean(axis=0), abs=1e-15)
    assert mean_C.sum() == pytest.approx(1, abs=1e-12)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_the_mean_of_the_top_never_breaks_a_constraint(seed):
    rng = np.random.default_rng(seed)
    config, inside_C = draw_case(rng)
    constraints = build(config)
    pool_MC = np.vstack([rng.dirichlet(np.ones(6), size=200), inside_C])
    chosen_C = mean_of_top(pool_MC, rng.random(201), 50, constraints)
    assert violations(config, chosen_C) <= 1e-9


def test_a_mean_with_small_weights_is_repaired():
    constraints = build(ConstraintsConfig(min_used=0.1))
    pool_MC = np.array([[0.5, 0.5, 0, 0, 0, 0], [0.4, 0.4, 0.2, 0, 0, 0], [0.5, 0.5, 0, 0, 0, 0], np.full(6, 1 / 6)])
    chosen_C = mean_of_top(pool_MC, np.arange(4.0), 3, constraints)  # the mean has 0.067 of the third
    assert chosen_C == pytest.approx([0.5, 0.5, 0, 0, 0, 0], abs=1e-6)
    assert (chosen_C[2:] == 0).all()


def test_where_the_mean_cannot_be_repaired_it_is_the_best_feasible_row():
    constraints = build(ConstraintsConfig(min_used=0.4, max={"general": 0.7}))
    pool_MC = np.array([[1.0, 0, 0, 0, 0, 0], [0, 1.0, 0, 0, 0, 0], [0, 0, 1.0, 0, 0, 0]])
    chosen_C = mean_of_top(pool_MC, np.array([0.0, 2.0, 1.0]), 3, constraints)  # no weight of the mean reaches 0.4
    assert chosen_C.tolist() == [0, 0, 1, 0, 0, 0]
    with pytest.raises(MixtureError, match=r"none of the pool's 1 rows satisfies search.constraints"):
        mean_of_top(np.full((1, 6), 1 / 6), np.zeros(1), 1, constraints)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda rng: draw_next(POOL_MC, OBJECTIVE_M, 0.02, 21, NONE_EC, rng),
            "top 2.00% of a pool of 1000 holds 20 new",
        ),
        (lambda rng: draw_next(POOL_MC, OBJECTIVE_M, 0.02, 1, POOL_MC, rng), "holds 0 new mixtures, expected 1"),
        (
            lambda rng: draw_next(POOL_MC, OBJECTIVE_M, 0.0, 1, NONE_EC, rng),
            r"search.resample_top: .* \(0, 1\], found 0",
        ),
        (lambda rng: mean_of_top(POOL_MC, OBJECTIVE_M, 1001), "from 1 to the pool's 1000 rows, found 1001"),
        (lambda rng: top_rows(OBJECTIVE_M, 0), "from 1 to the pool's 1000 rows, found 0"),
    ],
)
def test_too_much_is_refused(call, message):
    with pytest.raises(MixtureError, match=message):
        call(np.random.default_rng(0))
