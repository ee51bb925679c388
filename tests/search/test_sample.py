"""Sampled mixtures: on the grid, within the caps, distinct, and the same bytes for the same seed."""

import hashlib
import time
from itertools import islice

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nemo_demix.config import ConstraintsConfig, SamplerConfig
from nemo_demix.constraints import Constraints
from nemo_demix.errors import ConfigError, MixtureError
from nemo_demix.mixture import BlendMatrix, token_proportional
from nemo_demix.search.hit_and_run import feasible_rows
from nemo_demix.search.sample import sample_mixtures
from tests.constraints.cases import BLEND as BLEND_6
from tests.constraints.cases import PRIOR as PRIOR_6
from tests.constraints.cases import build, draw_case, violations

# The token counts (in billions) and the cap of the released script.
TOKENS = {
    "general": 1278, "math_1": 284, "math_2": 69, "math_3": 100, "code_1": 51, "code_2": 141, "code_3": 633,
}  # fmt: skip
PRIOR = token_proportional(TOKENS)
NAMES = tuple(TOKENS)
BLEND = BlendMatrix.demix(NAMES, "general", 0.5)
UNIFORM = SamplerConfig()
DIRICHLET = SamplerConfig(kind="dirichlet", max_prior_multiple=4.0)


def sample(config, count, seed=0, max_data_shares=None):
    constraints = Constraints.build(ConstraintsConfig(max=max_data_shares or {}), BLEND, None, None)
    return sample_mixtures(config, PRIOR, constraints, count, np.random.default_rng(seed))


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["uniform", "dirichlet"]),
    multiple=st.sampled_from([None, 1.5, 4.0]),
    shares=st.dictionaries(st.sampled_from(NAMES[1:]), st.sampled_from([0.0, 0.01, 0.0501, 0.3]), max_size=4),
    general=st.sampled_from([0.5, 0.50011, 0.7, 1.0]),
    grid=st.sampled_from([2e-4, 1e-3]),  # with room > 1.1, at least 100 mixtures are left
    seed=st.integers(0, 10),
)
def test_rows_are_distinct_mixtures_on_the_grid_within_the_caps(kind, multiple, shares, general, grid, seed):
    config = SamplerConfig(kind=kind, max_prior_multiple=multiple, grid=grid)
    caps = {**shares, "general": general}
    bounds = {name: min(1.0, (multiple or np.inf) * PRIOR[name], 2 * shares.get(name, 1.0)) for name in NAMES}
    room = sum(bounds.values()) - bounds["general"] + min(bounds["general"], 2 * general - 1)
    if room < 1:
        with pytest.raises(MixtureError, match="no mixture satisfies th"):
            sample(config, 50, seed, caps)
        return
    assume(room > 1.1)
    weights_MC = sample(config, 50, seed, caps)
    units_MC = weights_MC / grid
    assert weights_MC.shape == (50, 7)
    assert np.abs(units_MC - np.round(units_MC)).max() < 1e-9
    assert (np.round(units_MC).sum(axis=1) == round(1 / grid)).all()
    assert (weights_MC >= 0).all()
    assert len(np.unique(np.round(units_MC), axis=0)) == 50
    if multiple is not None:
        assert (weights_MC <= multiple * np.array(list(PRIOR.values())) + 1e-12).all()
    for name, cap in caps.items():
        assert (BLEND.data_shares_MD(weights_MC)[:, NAMES.index(name)] <= cap + 1e-12).all()


@pytest.mark.parametrize("config", [UNIFORM, DIRICHLET])
def test_same_seed_same_bytes(config):
    assert sample(config, 500, 7).tobytes() == sample(config, 500, 7).tobytes()
    assert sample(config, 500, 7).tobytes() != sample(config, 500, 8).tobytes()


@pytest.mark.parametrize(
    ("count", "digest"), [(64, "72e08fdcd361133b18259a48264cb419"), (2000, "928a7ac5b454d796e19696f34ca87761")]
)
def test_uniform_rows_are_those_of_earlier_versions(count, digest):
    # Proxies and references that were scored or trained with them stay valid.
    assert hashlib.sha256(sample(UNIFORM, count, 7).tobytes()).hexdigest()[:32] == digest


def test_uniform_has_the_moments_of_the_uniform_simplex():
    weights_MC = sample(UNIFORM, 20_000)
    assert weights_MC.mean(axis=0) == pytest.approx(1 / 7, abs=0.004)
    assert weights_MC.var(axis=0) == pytest.approx((1 / 7) * (6 / 7) / 8, rel=0.05)


def test_uniform_under_a_cap_is_uniform_on_what_is_left():
    weights_MC = sample(UNIFORM, 20_000, max_data_shares={"math_1": 0.05})
    free_MC = sample(UNIFORM, 200_000, seed=1)
    left_MC = free_MC[free_MC[:, 1] <= 0.1]
    assert weights_MC.mean(axis=0) == pytest.approx(left_MC.mean(axis=0), abs=0.004)


def test_dirichlet_has_the_tempered_prior_as_its_mean():
    tempered_C = np.array(list(PRIOR.values())) ** 0.7
    config = SamplerConfig(kind="dirichlet", min_strength=50, max_strength=500)
    assert sample(config, 5000).mean(axis=0) == pytest.approx(tempered_C / tempered_C.sum(), abs=0.005)


def test_the_cap_is_a_multiple_of_the_untempered_prior_and_is_reached():
    largest_C = sample(DIRICHLET, 20_000).max(axis=0)
    caps_C = np.minimum(4 * np.array(list(PRIOR.values())), 1.0)
    assert (largest_C <= caps_C + 1e-12).all()
    assert (largest_C > 0.97 * caps_C).all()


def test_caps_that_hardly_a_draw_satisfies():
    caps = {"general": 0.51, "math_1": 0.02, "math_2": 0.02, "math_3": 0.02}
    weights_MC = sample(UNIFORM, 2000, max_data_shares=caps)
    shares_MD = BLEND.data_shares_MD(weights_MC)
    assert all((shares_MD[:, NAMES.index(name)] <= cap + 1e-12).all() for name, cap in caps.items())
    assert len(np.unique(weights_MC, axis=0)) == 2000


def test_too_small_a_feasible_set_is_reported():
    with pytest.raises(
        MixtureError, match=r"found 7 distinct mixtures .* expected 8; relax a constraint, or lower the grid"
    ):
        sample(SamplerConfig(grid=0.5), 8)  # of two weights one is below a half, so below the grid
    assert sorted(sample(SamplerConfig(grid=0.5), 7).tolist()) == sorted(np.eye(7).tolist())


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"kind": "sobol"}, "search.sampler.kind: expected uniform or dirichlet, found 'sobol'"),
        ({"grid": 0.3}, "search.sampler.grid: expected 1 / a whole number"),
        ({"grid": 0.0}, "search.sampler.grid: expected 1 / a whole number"),
        ({"min_strength": 0.0}, "expected 0 < min_strength <= max_strength"),
        ({"min_strength": 6.0}, "expected 0 < min_strength <= max_strength"),
        ({"num_strengths": 0}, "num_strengths >= 1"),
        ({"temperature": 0.0}, "search.sampler.temperature: expected a number above 0"),
    ],
)
def test_impossible_settings_are_refused(settings_, message):
    with pytest.raises(ConfigError, match=message):
        sample(SamplerConfig(**settings_), 8)


def test_a_prior_of_other_names_is_refused():
    with pytest.raises(MixtureError, match=r"prior: unknown name 'maths_1'.*did you mean math_1"):
        sample_mixtures(UNIFORM, {"maths_1": 1.0}, Constraints.none(BLEND), 8, np.random.default_rng(0))


@pytest.mark.parametrize("config", [UNIFORM, DIRICHLET])
def test_a_whole_pool_takes_seconds(config):
    started = time.monotonic()
    assert sample(config, 200_000).shape == (200_000, 7)
    assert time.monotonic() - started < 10  # 0.4 s on a quiet core


def constrained(config, count, seed=0, sampler=UNIFORM):
    prior = dict(zip(BLEND_6.components, PRIOR_6.values(), strict=True))
    return sample_mixtures(sampler, prior, build(config), count, np.random.default_rng(seed))


@pytest.mark.slow
@settings(max_examples=12)
@given(seed=st.integers(0, 10_000))
def test_a_hundred_thousand_rows_satisfy_random_constraints(seed):
    config, _ = draw_case(np.random.default_rng(seed))
    constraints = build(config)
    # A thinner set may have fewer points on the grid; with `min_used` it is as thin as few components fit in at once.
    lowest_C = constraints.feasible.lowest_C()
    fitting = (lowest_C > 0).sum() + (1 - lowest_C.sum()) // config.min_used if config.min_used else len(lowest_C)
    assume(constraints.convex.dimension >= 4 and fitting >= 5)
    weights_MC = constrained(config, 100_000, seed, SamplerConfig(grid=1e-5))
    assert weights_MC.shape == (100_000, 6)
    assert len(np.unique(weights_MC, axis=0)) == 100_000
    assert constraints.satisfied_M(weights_MC).all()
    assert (weights_MC >= 0).all()
    assert np.abs(weights_MC.sum(axis=1) - 1).max() < 1e-9
    for row_C in weights_MC[::1000]:
        assert violations(config, row_C) <= 1e-9


def test_a_set_of_two_short_lines_is_refused_with_the_number_of_its_points():
    """math_1 leaves room for one other component of at least `min_used`, and two of them may be it."""
    config, _ = draw_case(np.random.default_rng(88))
    assert (config.min_used, build(config).convex.dimension) == (0.1, 4)
    with pytest.raises(MixtureError, match=r"found 2402 distinct mixtures .* on a grid of 1e-05, expected 100000"):
        constrained(config, 100_000, 88, SamplerConfig(grid=1e-5))


@pytest.mark.parametrize(
    "config",
    [
        ConstraintsConfig(pinned={"math_1": 0.1}),
        ConstraintsConfig(max={"math_1": 0.01, "math_2": 0.01}, min={"code_1": 0.2}, max_kl=1.0),
        ConstraintsConfig(min_used=0.1, pinned={"math_1": 0.1}),
    ],
)
def test_thin_sets_give_the_same_bytes_for_the_same_seed(config):
    assert constrained(config, 400, 3).tobytes() == constrained(config, 400, 3).tobytes()
    assert constrained(config, 400, 3).tobytes() != constrained(config, 400, 4).tobytes()


def test_pinned_shares_are_kept_to_rounding_and_the_rest_is_uniform():
    weights_MC = constrained(ConstraintsConfig(pinned={"math_1": 0.1, "code_2": 0.05}), 20_000)
    assert np.abs(weights_MC[:, 1] - 0.2).max() < 1e-14
    assert np.abs(weights_MC[:, 5] - 0.1).max() < 1e-14
    free_MC = weights_MC[:, [0, 2, 3, 4]] / 0.7  # a simplex of four
    assert free_MC.mean(axis=0) == pytest.approx(1 / 4, abs=0.01)
    assert free_MC.var(axis=0) == pytest.approx((1 / 4) * (3 / 4) / 5, rel=0.06)


def test_hit_and_run_agrees_with_rejection():
    config = ConstraintsConfig(max={"math_1": 0.02, "general": 0.6}, max_kl=0.4)
    constraints = build(config)
    rng = np.random.default_rng(0)
    drawn_MC = rng.dirichlet(np.ones(6), size=1_000_000)
    drawn_MC = drawn_MC[constraints.satisfied_M(drawn_MC)]
    assert 2000 < len(drawn_MC) < 100_000
    rows_MC = np.vstack([rows_MC for rows_MC, _ in islice(feasible_rows(constraints, 20_000, rng), 5)])
    noise_C = 5 * drawn_MC.std(axis=0) * np.sqrt(1 / len(drawn_MC) + 1 / len(rows_MC))
    assert (np.abs(rows_MC.mean(axis=0) - drawn_MC.mean(axis=0)) < noise_C).all()
    assert rows_MC.std(axis=0) == pytest.approx(drawn_MC.std(axis=0), rel=0.08)


def test_used_weights_are_at_least_min_used_and_the_others_are_zero():
    weights_MC = constrained(ConstraintsConfig(min_used=0.1), 5000)
    assert weights_MC[weights_MC > 0].min() >= 0.1 - 1e-9
    counts = np.bincount((weights_MC > 0).sum(axis=1), minlength=7)
    assert (counts[2:6] > 0).all()  # of supports of many sizes


def test_least_shares_of_all_datasets_are_no_thin_set():
    config = ConstraintsConfig(min={"general": 0.52, **dict.fromkeys(list(PRIOR_6)[1:], 0.06)})
    weights_MC = constrained(config, 20_000)
    slack_MC = weights_MC - [0.04, *[0.12] * 5]
    assert slack_MC.min() >= -1e-9
    assert (slack_MC / 0.36).mean(axis=0) == pytest.approx(1 / 6, abs=0.005)


def test_a_fixed_mixture_leaves_nothing_to_draw():
    config = ConstraintsConfig(pinned={"math_1": 0.1, "math_2": 0.1, "math_3": 0.1, "code_1": 0.1, "code_2": 0.05})
    assert constrained(config, 1) == pytest.approx(np.array([[0.1, 0.2, 0.2, 0.2, 0.2, 0.1]]), abs=1e-12)
    with pytest.raises(MixtureError, match="found 1 distinct mixtures within the constraints, expected 2; relax"):
        constrained(config, 2)
