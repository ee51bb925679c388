import numpy as np
import pytest

from nemo_demix.fidelity.noise import residual_std, seed_noise


def test_the_spread_between_seeds_is_pooled_over_the_mixtures() -> None:
    groups = [
        [{"math": 1.0, "code": 5.0}, {"math": 1.2, "code": 5.0}],
        [{"math": 3.0, "code": 1.0}, {"math": 3.4, "code": 1.0}],
        [{"math": 9.0, "code": 9.0}],  # one seed: says nothing of noise
    ]
    noise = seed_noise(groups, ["math", "code"])
    assert (noise.num_mixtures, noise.num_models) == (2, 4)
    assert noise.std["math"] == pytest.approx(((0.1**2 * 2 + 0.2**2 * 2) / 2) ** 0.5)
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
