"""Effects of components on scores, against scores whose effects are known."""

import numpy as np
import pytest

from nemo_demix.report.sections.causes import STEP, effects

SLOPES = np.array([[2.0, 0.0], [5.0, 0.0], [3.5, 0.0]])  # of a score that is linear, and of one that is nothing


def test_a_linear_score_gives_its_slopes() -> None:
    weights_MC = np.random.default_rng(0).dirichlet(np.ones(3), 12)
    found, errors = effects(weights_MC, weights_MC @ SLOPES)
    mean_C = weights_MC.mean(axis=0)
    for c in range(3):
        moved_C = mean_C * (1 - STEP / (1 - mean_C[c]))  # all others less in proportion
        moved_C[c] = mean_C[c] + STEP
        assert moved_C.sum() == pytest.approx(1)
        assert found[c, 0] == pytest.approx((moved_C - mean_C) @ SLOPES[:, 0])
    assert errors == pytest.approx(0, abs=1e-12)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    weights_MC = rng.dirichlet(np.ones(3), 14)
    truth_CB, _ = effects(weights_MC, weights_MC @ SLOPES)
    held = []
    for _ in range(500):
        found, errors = effects(weights_MC, weights_MC @ SLOPES + rng.normal(0, 0.3, (14, 2)))
        held.append(np.abs(found - truth_CB) <= 2.201 * errors)  # Student's t, 11 degrees of freedom
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)
