"""Pools that reach the corners of what is allowed, whatever the number of components, and find what lies there."""

import re

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from nemo_demix.config import ConstraintsConfig, SamplerConfig
from nemo_demix.constraints import Constraints
from nemo_demix.errors import MixtureError
from nemo_demix.mixture import Array, BlendMatrix
from nemo_demix.search.choose import RankedPool
from nemo_demix.search.pool import Judge, refined, wide_mixtures
from nemo_demix.search.sample import sample_mixtures
from tests.constraints.cases import PRIOR, build, draw_case, violations

SAMPLER = SamplerConfig()


def free(num_components: int) -> tuple[dict[str, float], Constraints]:
    names = [f"d{number}" for number in range(num_components)]
    blend = BlendMatrix(tuple(names), tuple(names), np.eye(num_components))
    return dict.fromkeys(names, 1 / num_components), Constraints.none(blend)


def bowl(best_C: Array) -> Judge:
    """One capability, whose score is the distance from a mixture."""
    return Judge(
        lambda weights_MC: {"all": np.abs(weights_MC - best_C).sum(axis=1)},
        lambda _, averages: np.ones(len(averages["all"]), dtype=bool),
        lambda averages: averages["all"],
    )


def best_of(prior: dict[str, float], constraints: Constraints, best_C: Array, count: int) -> Array:
    pool_MC = wide_mixtures(SAMPLER, prior, constraints, count, np.random.default_rng(0))
    judge = bowl(best_C)
    averages = judge.averages(pool_MC)
    pool = refined(SAMPLER, constraints, RankedPool(pool_MC, dict(averages), averages["all"]), judge, [0])
    assert constraints.satisfied_M(pool.weights_MC).all()
    assert len(np.unique(pool.weights_MC, axis=0)) == len(pool.weights_MC)
    assert np.array_equal(pool.objective_M, judge.averages(pool.weights_MC)["all"])
    return pool.weights_MC[np.argmin(pool.objective_M)]


@pytest.mark.parametrize("num_components", [3, 17, 50])
def test_every_corner_and_small_face_is_reached(num_components: int) -> None:
    prior, constraints = free(num_components)
    wide_MC = wide_mixtures(SAMPLER, prior, constraints, 10_000, np.random.default_rng(1))
    assert 5_000 < len(wide_MC) <= 10_000
    assert (wide_MC.max(axis=0) > 0.999).all()
    used_M = (wide_MC > 0).sum(axis=1)
    assert {1, 2, num_components} <= set(used_M.tolist())
    even_MC = sample_mixtures(SAMPLER, prior, constraints, 5_000, np.random.default_rng(1))
    assert num_components == 3 or even_MC.max() < 0.6, "which is why"


def test_a_sparse_optimum_of_seventeen_is_found() -> None:
    """RegMix's published one has .87 of one dataset."""
    prior, constraints = free(17)
    best_C = np.array([0.0] * 12 + [0.01, 0.02, 0.03, 0.07, 0.87])
    assert best_of(prior, constraints, best_C, 4_000) == pytest.approx(best_C, abs=0.02)


def test_a_sparse_optimum_beside_a_pinned_share_is_found() -> None:
    config = ConstraintsConfig(pinned={"math_1": 0.1})
    best_C = np.array([0.0, 0.2, 0.75, 0.0, 0.05, 0.0])
    assert best_of(PRIOR, build(config), best_C, 2_000) == pytest.approx(best_C, abs=0.03)


@settings(max_examples=8)
@given(seed=st.integers(0, 10_000))
@example(seed=673)  # `min_used` leaves it some faces and many single points
@example(seed=511)  # and this one two single points
def test_all_rows_satisfy_random_constraints_and_come_nearer_to_their_edge(seed: int) -> None:
    config, best_C = draw_case(np.random.default_rng(seed))
    constraints = build(config)
    assume(constraints.convex.dimension >= 3)
    try:
        wide_MC = wide_mixtures(SAMPLER, PRIOR, constraints, 1_000, np.random.default_rng(0))
    except MixtureError as error:
        # `min_used` may leave single points alone, one at most for each choice of components, or few points of a grid.
        ((found, grid),) = re.findall(r"found (\d+) distinct mixtures within the constraints( on a grid)?", str(error))
        assert config.min_used
        assert grid or 0 < int(found) < 2 ** len(best_C)
        return
    assert constraints.satisfied_M(wide_MC).all()
    assert max(violations(config, row_C) for row_C in wide_MC[::50]) <= 1e-9
    found_C = best_of(PRIOR, constraints, best_C, 1_000)
    assert np.abs(found_C - best_C).sum() <= np.abs(wide_MC - best_C).sum(axis=1).min() + 1e-12


def test_the_same_stream_gives_the_same_bytes() -> None:
    prior, constraints = free(5)
    one, two = (wide_mixtures(SAMPLER, prior, constraints, 500, np.random.default_rng(3)) for _ in range(2))
    assert one.tobytes() == two.tobytes()
