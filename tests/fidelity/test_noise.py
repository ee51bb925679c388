import numpy as np
import pytest

from nemo_demix.fidelity.noise import residual_std, seed_noise


def test_the_spread_between_seeds_is_without_their_common_shift() -> None:
    groups = [
        [{"math": 1.0, "code": 5.0}, {"math": 1.2, "code": 5.0}],
        [{"math": 3.0, "code": 1.0}, {"math": 3.4, "code": 1.0}],
        [{"math": 9.0, "code": 9.0}],  # one seed: says nothing of noise
    ]
    noise = seed_noise(groups, ["math", "code"])
    assert (noise.num_mixtures, noise.num_models) == (2, 4)
    # by hand: seeds differ by .2 and .4, so by .3 on average; what is left of each difference is .1
    assert noise.std["math"] == pytest.approx((2 * 0.1**2 / 2) ** 0.5)
    assert noise.std["code"] == 0
    assert noise.std["macro"] == pytest.approx(noise.std["math"] / 2)
    assert noise.ceiling_rho == {"math": None, "code": None, "macro": None}
    assert "needs 3 mixtures" in str(noise.reason)


def test_the_ceiling_is_the_rho_between_seeds() -> None:
    first, second = [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 4.0, 3.0]
    groups = [[{"math": a}, {"math": b}] for a, b in zip(first, second, strict=True)]
    noise = seed_noise(groups, ["math"])
    assert noise.ceiling_rho["math"] == pytest.approx(0.8)
    assert noise.reason is None


def test_a_shift_of_all_mixtures_alike_is_no_noise() -> None:
    scores = [1.0, 2.0, 4.0]
    noise = seed_noise([[{"math": value}, {"math": value + 0.5}, {"math": value - 3}] for value in scores], ["math"])
    assert noise.std == pytest.approx({"math": 0, "macro": 0})
    assert noise.ceiling_rho["macro"] == pytest.approx(1)


def test_three_seeds_leave_four_degrees_of_freedom() -> None:
    rng = np.random.default_rng(0)
    drawn = 0.3 * rng.normal(size=(400, 3, 3)) + rng.normal(size=(400, 3, 1)) + rng.normal(size=(400, 1, 3))
    found = [seed_noise([[{"math": one} for one in row] for row in table], ["math"]).std["math"] for table in drawn]
    assert np.mean(np.square(found)) == pytest.approx(0.3**2, rel=0.1)


def test_one_mixture_cannot_tell_noise_from_a_shift() -> None:
    noise = seed_noise([[{"math": 1.0}, {"math": 2.0}], [{"math": 3.0}]], ["math"])
    assert (noise.num_mixtures, noise.num_models) == (1, 2)
    assert noise.std == {"math": None, "macro": None}
    assert "verify.seed_references" in str(noise.reason)


def test_one_seed_measures_nothing() -> None:
    noise = seed_noise([[{"math": 1.0}], [{"math": 2.0}]], ["math"])
    assert noise.std == {"math": None, "macro": None}
    assert "verify.seeds" in str(noise.reason)


def test_a_common_offset_is_no_scatter() -> None:
    reference = {"math": np.array([1.0, 2.0, 3.0]), "code": np.array([3.0, 1.0, 2.0])}
    shifted = {name: values + 0.5 for name, values in reference.items()}
    assert residual_std(reference, shifted) == pytest.approx({"math": 0, "code": 0, "macro": 0})
    shifted["math"] = shifted["math"] + np.array([0.1, -0.1, 0.0])
    assert residual_std(reference, shifted) == pytest.approx({"math": 0.1, "code": 0, "macro": 0.05})
