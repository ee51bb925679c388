"""What is drawn from a ranked pool."""

import numpy as np
import pytest

from nemo_demix.errors import MixtureError
from nemo_demix.search.select import draw_next, mean_of_top, top_rows

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
