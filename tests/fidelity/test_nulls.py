import numpy as np
import pytest

from nemo_demix.fidelity.nulls import LEAST_SHARE, Mixtures, null_stand_ins

DATASETS = ["general", "math", "math", "code"]
MIXTURES = Mixtures(np.array([[0.25, 0.25, 0.25, 0.25], [0.5, 0.3, 0.2, 0.0], [1.0, 0.0, 0.0, 0.0]]), DATASETS)


def test_the_share_of_a_capability_counts_on_a_logarithm() -> None:
    weights = {"general": 0.5, "math": 0.25, "code": 0.25}
    values = null_stand_ins(MIXTURES, weights)["null_share"].values_R
    assert values[0] == pytest.approx(-(0.5 * np.log(0.25) + 0.25 * np.log(0.5) + 0.25 * np.log(0.25)))
    assert values[1] == pytest.approx(-(0.75 * np.log(0.5) + 0.25 * np.log(LEAST_SHARE)))
    assert values[2] == pytest.approx(-0.5 * np.log(LEAST_SHARE))


def test_the_most_even_mixture_is_the_best_by_entropy() -> None:
    null = null_stand_ins(MIXTURES, {"math": 1.0})["null_entropy"]
    assert null.values_R == pytest.approx([-np.log(4), 0.5 * np.log(0.5) + 0.3 * np.log(0.3) + 0.2 * np.log(0.2), 0])
    assert not null.has_unit
