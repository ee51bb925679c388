"""Caps hold exactly, leave alone what satisfies them, and say why they cannot be met."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nemo_demix.caps import Caps, cap_weights_MC
from nemo_demix.errors import MixtureError
from nemo_demix.mixture import BlendMatrix

NAMES = ("general", "math", "code", "law")
DEMIX = BlendMatrix.demix(NAMES, "general", 0.5)
BOUND = st.one_of(st.just(0.0), st.floats(0.01, 1.2))
BOUNDS = st.dictionaries(st.sampled_from(NAMES), BOUND)
ROWS_MC = np.vstack([np.eye(4), np.random.default_rng(0).dirichlet(np.full(4, 0.5), size=200)])


def capped(weights_MC, max_weights, max_data_shares):
    try:
        return cap_weights_MC(weights_MC, DEMIX, max_weights, max_data_shares)
    except MixtureError:
        assume(False)


def within(weights_MC, max_weights, max_data_shares):
    """Oracle: the caps as they are written, one by one."""
    held_M = np.ones(len(weights_MC), dtype=bool)
    for name, bound in max_weights.items():
        held_M &= weights_MC[:, NAMES.index(name)] <= bound + 1e-12
    for name, bound in max_data_shares.items():
        own_M = weights_MC[:, NAMES.index(name)]
        shares_M = 0.5 + 0.5 * own_M if name == "general" else 0.5 * own_M
        held_M &= shares_M <= bound + 1e-12
    return held_M


@given(max_weights=BOUNDS, max_data_shares=BOUNDS)
def test_every_row_is_a_mixture_within_the_caps(max_weights, max_data_shares):
    rows_MC = capped(ROWS_MC, max_weights, max_data_shares)
    assert within(rows_MC, max_weights, max_data_shares).all()
    assert (rows_MC >= 0).all()
    assert np.abs(rows_MC.sum(axis=1) - 1).max() < 1e-12


@given(max_weights=BOUNDS, max_data_shares=BOUNDS)
def test_rows_within_the_caps_are_unchanged(max_weights, max_data_shares):
    rows_MC = capped(ROWS_MC, max_weights, max_data_shares)
    held_M = within(ROWS_MC, max_weights, max_data_shares)
    assert rows_MC[held_M].tobytes() == ROWS_MC[held_M].tobytes()


def test_a_moved_row_stops_at_the_cap():
    rows_MC = cap_weights_MC(ROWS_MC, DEMIX, {"math": 0.3})
    moved_M = ROWS_MC[:, 1] > 0.3
    assert rows_MC[moved_M, 1] == pytest.approx(0.3, abs=1e-12)


@settings(max_examples=50)
@given(max_weights=BOUNDS, max_data_shares=BOUNDS)
def test_the_centre_is_away_from_every_cap(max_weights, max_data_shares):
    try:
        caps = Caps.build(DEMIX, max_weights, max_data_shares)
    except MixtureError:
        assume(False)
    # No small step from the centre within the feasible set enlarges the product of the distances to its faces.
    free_C = caps.free_C
    assume(free_C.sum() > 1)

    def distances(weights_C):
        varying_K = np.ptp(caps.matrix_KC[:, free_C], axis=1) > 0
        return np.append((caps.bounds_K - caps.matrix_KC @ weights_C)[varying_K], weights_C[free_C])

    assume(distances(caps.centre_C).min() > 1e-6)
    best = np.log(distances(caps.centre_C)).sum()
    for first in np.flatnonzero(free_C):
        for second in np.flatnonzero(free_C):
            step_C = 1e-7 * (np.eye(4)[first] - np.eye(4)[second])
            assert np.log(distances(caps.centre_C + step_C)).sum() <= best + 1e-9


def test_without_caps_the_centre_is_the_middle_and_nothing_moves():
    caps = Caps.build(DEMIX)
    assert caps.centre_C == pytest.approx(0.25)
    assert caps.apply(ROWS_MC).tobytes() == ROWS_MC.tobytes()


def test_a_forbidden_component_leaves_the_others_in_proportion():
    rows_MC = cap_weights_MC(np.array([[0.2, 0.2, 0.1, 0.5]]), DEMIX, {}, {"law": 0.0})
    assert rows_MC[0] == pytest.approx([0.4, 0.4, 0.2, 0.0])
    alone_MC = cap_weights_MC(np.eye(4), DEMIX, {"law": 0.0})
    assert alone_MC[3] == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0.0], abs=1e-9)


def test_caps_that_leave_one_point():
    rows_MC = cap_weights_MC(ROWS_MC, DEMIX, {"general": 0.1, "math": 0.2, "code": 0.3, "law": 0.4})
    assert rows_MC == pytest.approx(np.tile([0.1, 0.2, 0.3, 0.4], (len(ROWS_MC), 1)), abs=1e-9)


@pytest.mark.parametrize(
    ("max_weights", "max_data_shares", "message"),
    [
        (dict.fromkeys(NAMES, 0.2), {}, "caps on merge weights .* sum to 0.8, less than 1; raise a cap"),
        ({}, dict.fromkeys(NAMES, 0.24), "caps on data shares .* sum to 0.96, less than 1"),
        ({}, {"general": 0.4}, r"general is capped at 0.4, but .* at least 0.5 of it \(beta\)"),
        ({"math": 0.1, "code": 0.1, "law": 0.1}, {"general": 0.6}, "exclude each other"),
        ({"maths": 0.1}, {}, "caps on merge weights: unknown name 'maths'.*did you mean math"),
        ({}, {"cod": 0.1}, "caps on data shares: unknown name 'cod'.*did you mean code"),
        ({"math": -0.1}, {}, "caps on merge weights: math: expected a finite bound >= 0, found -0.1"),
        ({}, {"math": float("nan")}, "caps on data shares: math: expected a finite bound >= 0, found nan"),
    ],
)
def test_impossible_caps_are_refused(max_weights, max_data_shares, message):
    with pytest.raises(MixtureError, match=message):
        Caps.build(DEMIX, max_weights, max_data_shares)


def test_rows_off_the_simplex_are_refused():
    with pytest.raises(MixtureError, match="row 1 is not on the simplex"):
        Caps.build(DEMIX).apply(np.array([[1.0, 0, 0, 0], [1.0, 0.1, 0, 0]]))
