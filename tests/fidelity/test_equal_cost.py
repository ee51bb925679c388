"""Regressions of the components' cost, on references that they have not seen."""

from collections.abc import Sequence

import numpy as np
import pytest

from nemo_demix.fidelity.consistency import draw_samples
from nemo_demix.fidelity.decision import Decision, StandIn, decision_estimates
from nemo_demix.fidelity.equal_cost import (
    LAWS,
    NUM_SPLITS,
    EqualCost,
    draw_splits,
    equal_cost,
    fit_laws,
    left_out_decisions,
)
from nemo_demix.fidelity.nulls import log_shares
from nemo_demix.fidelity.resampled import multiplicities

RIDGE, LOG_LINEAR = "ridge_equal_cost", "log_linear_equal_cost"


def study(
    reference: np.ndarray,
    shares: np.ndarray,
    num_fitted: int,
    laws: Sequence[str],
    stand_ins: dict[str, StandIn] | None = None,
    models: np.ndarray | None = None,
) -> dict[str, Decision]:
    rng = np.random.default_rng(5)
    counts = multiplicities(draw_samples(len(reference), 40, rng))
    splits = draw_splits(len(reference), num_fitted, rng)
    models = reference if models is None else models
    fitted = fit_laws(models, shares, splits, {name: LAWS[name] for name in laws})
    return left_out_decisions(reference, stand_ins or {}, fitted, counts, splits)


def test_as_many_references_as_the_components_cost() -> None:
    assert equal_cost(24, 7 * 512, 512) == EqualCost(7)
    assert equal_cost(24, 7 * 512 - 1, 512) == EqualCost(6)
    assert equal_cost(10, 7 * 512, 512) == EqualCost(7)
    assert "9, of which the components' cost takes 7" in str(equal_cost(9, 7 * 512, 512).reason)
    assert "the components cost as much as 2; 3 are needed" in str(equal_cost(24, 1024, 512).reason)
    assert "brought" in str(equal_cost(24, 0, 512).reason)


def test_splits_are_of_different_references_and_hang_on_the_seed() -> None:
    splits = draw_splits(9, 4, np.random.default_rng(0))
    assert splits.shape == (NUM_SPLITS, 4)
    assert all(len(set(split.tolist())) == 4 for split in splits)
    assert set(splits.ravel().tolist()) == set(range(9))
    assert (splits == draw_splits(9, 4, np.random.default_rng(0))).all()
    assert (splits != draw_splits(9, 4, np.random.default_rng(1))).any()


def test_a_perfect_stand_in_is_perfect_in_every_split_and_resample() -> None:
    rng = np.random.default_rng(0)
    reference, shares = rng.normal(size=20), rng.dirichlet(np.ones(3), 20)
    one = study(reference, shares, 5, [], {"merge": StandIn(reference + 3)})["merge"]
    assert one.values["rho"] == pytest.approx(np.ones(41))
    assert one.values["regret"] == pytest.approx(np.zeros(41))
    assert one.values["residual"] == pytest.approx(np.zeros(41), abs=1e-12)


def test_a_law_is_fitted_to_one_model_a_mixture_and_judged_by_the_references() -> None:
    rng = np.random.default_rng(2)
    shares = rng.dirichlet(2 * np.ones(3), 24)
    reference = log_shares(shares) @ np.array([-0.1, -0.3, 0.2])
    models = reference + rng.normal(0, reference.std(), 24)  # one data order's luck
    noisy = study(reference, shares, 12, [RIDGE], models=models)[RIDGE].values
    exact = study(reference, shares, 12, [RIDGE])[RIDGE].values
    assert noisy["rho"][0] < exact["rho"][0] - 0.02
    assert noisy["rho"][0] > study(models, shares, 12, [RIDGE])[RIDGE].values["rho"][0], "judged by what is not luck"


def test_regressions_find_laws_that_hold() -> None:
    rng = np.random.default_rng(1)
    shares = rng.dirichlet(2 * np.ones(3), 24)
    linear = study(log_shares(shares) @ np.array([-0.1, -0.3, 0.2]), shares, 12, [RIDGE])[RIDGE]
    assert linear.values["rho"][0] > 0.99
    assert linear.values["slope"][0] == pytest.approx(1 + 1 / 12, abs=0.05), "a penalty of 1 shrinks 12 rows by so much"
    law = study(2 + np.exp(shares @ np.array([-2.0, 0.5, 1.5])), shares, 12, [LOG_LINEAR])[LOG_LINEAR]
    assert law.values["rho"][0] > 0.99


def test_noise_is_not_predicted() -> None:
    """A fit that had seen what it is judged on would order it."""
    rng = np.random.default_rng(2)
    rhos = [
        study(rng.normal(size=24), rng.dirichlet(np.ones(7), 24), 12, [RIDGE])[RIDGE].values["rho"][0] for _ in range(6)
    ]
    assert abs(np.mean(rhos)) < 0.3


def test_a_law_that_takes_more_references_is_undefined() -> None:
    rng = np.random.default_rng(3)
    found = study(rng.normal(size=12), rng.dirichlet(np.ones(7), 12), 9, [LOG_LINEAR])[LOG_LINEAR]
    for estimate in decision_estimates(found, 0.95).values():
        assert estimate.value is None
        assert estimate.reason == "not enough references: the components cost as much as 9; it takes 10 to fit"
