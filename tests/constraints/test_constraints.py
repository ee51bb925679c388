"""Constraints hold on the data shares, leave alone what satisfies them, and say which of them clash."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_demix.config import ConstraintsConfig, GroupConfig
from nemo_demix.constraints import Budget, Constraints
from nemo_demix.errors import MixtureError
from nemo_demix.mixture import BlendMatrix
from tests.constraints.cases import BLEND, BUDGET, PRIOR, build, draw_case, violations

NAMES = BLEND.datasets
ROWS_MC = np.vstack([np.eye(6), np.random.default_rng(0).dirichlet(np.full(6, 0.5), size=100)])


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000))
def test_what_is_satisfied_is_what_was_written(seed):
    config, _ = draw_case(np.random.default_rng(seed))
    satisfied_M = build(config).satisfied_M(ROWS_MC)
    assert satisfied_M.tolist() == [violations(config, row_C) <= 1e-9 for row_C in ROWS_MC]


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000))
def test_a_set_around_a_mixture_is_feasible_and_the_nearest_row_is_in_it(seed):
    rng = np.random.default_rng(seed)
    config, inside_C = draw_case(rng)
    constraints = build(config)
    assert constraints.satisfied_M(inside_C[None])[0]
    assert constraints.nearest(inside_C).tobytes() == inside_C.tobytes()
    for target_C in rng.dirichlet(np.ones(6), size=3):
        near_C = constraints.nearest(target_C)
        assert violations(config, near_C) <= 1e-9
        assert near_C.sum() == pytest.approx(1, abs=1e-9)
        if not config.min_used:  # a convex set: no nearer point on the way to another feasible one
            step_C = near_C + 1e-3 * (inside_C - near_C)
            assert np.linalg.norm(near_C - target_C) <= np.linalg.norm(step_C - target_C) + 1e-6


def test_the_nearest_row_by_hand():
    constraints = build(ConstraintsConfig(max={"math_1": 0.1}))  # so a weight of 0.2
    near_C = constraints.nearest(np.array([0.0, 0.7, 0.3, 0.0, 0.0, 0.0]))
    assert near_C == pytest.approx([0.1, 0.2, 0.4, 0.1, 0.1, 0.1], abs=1e-6)
    pinned = build(ConstraintsConfig(pinned={"math_1": 0.1})).nearest(np.eye(6)[0])
    assert pinned[1] == pytest.approx(0.2, abs=1e-12)
    assert pinned == pytest.approx([0.8, 0.2, 0, 0, 0, 0], abs=1e-6)


def test_small_weights_are_dropped_and_another_support_is_found_where_that_is_infeasible():
    dropped_C = build(ConstraintsConfig(min_used=0.1)).nearest(np.array([0.5, 0.4, 0.06, 0.04, 0.0, 0.0]))
    assert dropped_C == pytest.approx([0.55, 0.45, 0, 0, 0, 0], abs=1e-6)
    assert (dropped_C[2:] == 0).all()
    config = ConstraintsConfig(min_used=0.1, min={"code_2": 0.05})  # which the given row does not use
    moved_C = build(config).nearest(np.array([0.5, 0.5, 0.0, 0.0, 0.0, 0.0]))
    assert violations(config, moved_C) <= 1e-9
    assert moved_C == pytest.approx([0.45, 0.45, 0, 0, 0, 0.1], abs=1e-6)


def test_without_constraints_everything_is_satisfied_and_the_centre_is_the_middle():
    constraints = Constraints.none(BLEND)
    assert constraints.convex.centre_C == pytest.approx(1 / 6)
    assert constraints.satisfied_M(ROWS_MC).all()
    assert constraints.matrix_KC.shape == (0, 6)
    assert constraints.equal_EC.shape == (0, 6)


@pytest.mark.parametrize("config", [ConstraintsConfig(), ConstraintsConfig(min={"math_1": 0.05}, max_kl=0.5)])
def test_the_centre_is_away_from_every_face(config):
    # No small step within the plane enlarges the product of the distances to all bounds.
    convex = build(config).convex
    best, _, _ = convex.barrier(np.zeros(convex.dimension))
    for direction_N in np.vstack([np.eye(convex.dimension), -np.eye(convex.dimension)]):
        assert convex.barrier(1e-5 * direction_N)[0] >= best - 1e-9


def test_max_epochs_of_one_dataset_replaces_that_of_all():
    # 100 tokens of math_1, 1000 in the final run: 4 epochs are 0.4 of it, 2 epochs 0.2
    own = build(ConstraintsConfig(max_epochs=4.0, max_epochs_of={"math_1": 2.0}))
    row_C = np.array([0.0, 0.45, 0.55, 0.0, 0.0, 0.0])
    assert not own.satisfied_M(row_C[None])[0]
    wider = build(ConstraintsConfig(max_epochs=2.0, max_epochs_of={"math_1": 4.0}))
    assert wider.satisfied_M(np.array([[0.1, 0.79, 0.0, 0.0, 0.11, 0.0]]))[0]


def test_bounds_that_leave_one_point():
    shares = {"general": 0.55, "math_1": 0.1, "math_2": 0.15, "math_3": 0.0, "code_1": 0.2, "code_2": 0.0}
    one_C = [0.1, 0.2, 0.3, 0.0, 0.4, 0.0]
    for config in (ConstraintsConfig(max=shares), ConstraintsConfig(pinned=shares)):
        assert build(config).nearest(np.eye(6)[5]) == pytest.approx(one_C, abs=1e-9)


def test_a_repetition_that_no_component_saw_is_warned_of():
    constraints = Constraints.build(ConstraintsConfig(), BLEND, BUDGET, PRIOR)
    row_C = np.array([0.2, 0.8, 0.0, 0.0, 0.0, 0.0])  # math_1: 0.4 of 1000 tokens, of which there are 100
    (warning,) = constraints.warnings(row_C, {"math_1": 3.0, "general": 0.1})
    assert "math_1: 0.4 of 1,000 tokens is 4 epochs" in warning
    assert "more than 3:" in warning
    assert "search.constraints.max_epochs_of.math_1" in warning
    assert constraints.warnings(row_C, {"math_1": 4.0}) == []
    assert len(constraints.warnings(row_C, {})) == 1
    assert Constraints.none(BLEND).warnings(row_C, {}) == []


GROUP = GroupConfig(datasets=["math_1", "math_2", "math_3"], max=0.1)
CLASHES = [  # configuration, and exactly the keys that clash
    (ConstraintsConfig(min={"math_1": 0.3}, max={"math_1": 0.2, "code_1": 0.1}), ["min.math_1=0.3", "max.math_1=0.2"]),
    (ConstraintsConfig(pinned={"math_1": 0.3, "code_1": 0.1}, max={"math_1": 0.2}),
     ["pinned.math_1=0.3", "max.math_1=0.2"]),
    (ConstraintsConfig(pinned={"math_1": 0.3, "code_1": 0.3}), ["pinned.math_1=0.3", "pinned.code_1=0.3"]),
    (ConstraintsConfig(min={"math_1": 0.06, "math_2": 0.06, "code_1": 0.1}, groups={"maths": GROUP}),
     ["min.math_1=0.06", "min.math_2=0.06", "groups.maths.max=0.1"]),
    (ConstraintsConfig(min={"math_1": 0.45}, max_epochs=4.0), ["min.math_1=0.45", "max_epochs=4 (math_1 <= 0.4)"]),
    (ConstraintsConfig(min={"math_1": 0.25}, max_epochs_of={"math_1": 2.0}),
     ["min.math_1=0.25", "max_epochs_of.math_1=2 (math_1 <= 0.2)"]),
    (ConstraintsConfig(min_used=0.3, pinned={"math_1": 0.1}), ["pinned.math_1=0.1", "min_used=0.3"]),
    (ConstraintsConfig(min_used=0.3, min=dict.fromkeys(["math_1", "code_1", "code_2", "math_2"], 0.01)),
     ["min.math_1=0.01", "min.code_1=0.01", "min.code_2=0.01", "min.math_2=0.01", "min_used=0.3"]),
    (ConstraintsConfig(max_kl=0.1, min={"code_2": 0.4, "code_1": 0.01}), ["min.code_2=0.4", "max_kl=0.1"]),
    (ConstraintsConfig(max_kl=0.02, min_used=0.5), ["min_used=0.5", "max_kl=0.02"]),
]  # fmt: skip


@pytest.mark.parametrize(("config", "keys"), CLASHES)
def test_a_smallest_set_of_clashing_constraints_is_named(config, keys):
    with pytest.raises(MixtureError, match="no mixture satisfies these together") as caught:
        build(config)
    named = str(caught.value).split("together: ")[1].split("; ")[0].split(", ")
    assert sorted(named) == sorted(f"search.constraints.{key}" for key in keys)
    assert str(caught.value).endswith("; relax one")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"min": {"math_1": 0.6}}, r"this: search.constraints.min.math_1=0.6; no merge .* more than 0.5 of math_1 \("),
        ({"max": {"general": 0.4}}, r"max.general=0.4; every component was trained on at least 0.5 of general .*beta"),
        ({"max_kl": 1e-4, "min": {"math_1": 0.3}}, r"max_kl=0.0001; the least divergence is 0\.\d+; relax one"),
        ({"min": {"maths_1": 0.1}}, r"search.constraints.min: unknown name 'maths_1'.*did you mean math_1"),
        ({"max_epochs_of": {"cod_1": 1}}, "search.constraints.max_epochs_of: unknown name 'cod_1'"),
        ({"min": {"math_1": -0.1}}, r"search.constraints.min.math_1: expected a finite number from 0 to 1, found -0.1"),
        ({"max": {"math_1": float("nan")}}, "search.constraints.max.math_1: expected a finite number"),
        ({"pinned": {"math_1": 1.5}}, "search.constraints.pinned.math_1: .* found 1.5"),
        ({"min_used": 2.0}, "search.constraints.min_used: .* found 2.0"),
        ({"max_kl": -1.0}, "search.constraints.max_kl: expected a finite number >= 0, found -1"),
        ({"max_epochs": float("inf")}, "search.constraints.max_epochs: expected a finite number >= 0, found inf"),
        ({"groups": {"maths": GroupConfig()}}, r"search.constraints.groups.maths.datasets: expected .* found \[\]"),
        ({"groups": {"maths": GroupConfig(["math"])}}, "search.constraints.groups.maths.datasets: unknown name 'math'"),
        ({"groups": {"maths": GroupConfig(["math_1"], 0.0, 2.0)}}, "search.constraints.groups.maths.max: .* found 2.0"),
    ],
)  # fmt: skip
def test_impossible_values_are_refused_by_their_key(config, message):
    with pytest.raises(MixtureError, match=message):
        build(ConstraintsConfig(**config))


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(MixtureError, match=r"max_epochs and max_epochs_of need .* set final.num_tokens"):
        Constraints.build(ConstraintsConfig(max_epochs=4), BLEND, None, PRIOR)
    with pytest.raises(MixtureError, match="max_kl: found no token counts"):
        Constraints.build(ConstraintsConfig(max_kl=0.1), BLEND, Budget(10, {}), None)


def test_caps_of_merge_weights():
    capped = Constraints.none(BLEND).with_max_weights({"math_1": 0.3})
    assert capped.satisfied_M(np.array([[0.7, 0.3, 0, 0, 0, 0], [0.6, 0.4, 0, 0, 0, 0]])).tolist() == [True, False]
    assert capped.with_max_weights({"math_1": 0.3}) is capped
    with pytest.raises(MixtureError, match=r"search.sampler.max_prior_multiple \(merge weight of general <= 0.1\)"):
        Constraints.none(BLEND).with_max_weights(dict.fromkeys(NAMES, 0.1))
    with pytest.raises(MixtureError, match=r"search.sampler.max_prior_multiple: unknown name 'maths'"):
        Constraints.none(BLEND).with_max_weights({"maths": 0.1})


def test_a_dataset_without_a_prior_share_is_not_used_under_max_kl():
    prior = {"general": 0.7, "math_1": 0.3}
    constraints = Constraints.build(ConstraintsConfig(max_kl=1.0), BLEND, None, prior)
    assert constraints.free_C.tolist() == [True, True, False, False, False, False]
    blend = BlendMatrix(("a", "b"), ("x", "y"), np.array([[0.5, 0.5], [0.2, 0.8]]))
    with pytest.raises(MixtureError, match=r"max_kl=1 \(y has no share in the prior\); relax one"):
        Constraints.build(ConstraintsConfig(max_kl=1.0), blend, None, {"x": 1.0})


def test_rows_off_the_simplex_are_refused():
    with pytest.raises(MixtureError, match="row 0 is not on the simplex"):
        Constraints.none(BLEND).nearest(np.array([1.0, 0.1, 0, 0, 0, 0]))
