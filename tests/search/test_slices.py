"""Lines through the chosen mixture, over an objective whose shape is known."""

from collections.abc import Mapping
from functools import partial

import numpy as np
import pytest

from nemo_demix.mixture import Array
from nemo_demix.search.slices import BEYOND, POINTS, slices
from tests.search.bowls import BLEND, NAMES, space_of

CHOSEN_C = np.array([0.2, 0.3, 0.5])


def bowl(weights_XC: Array, centre_C: Array = CHOSEN_C) -> Mapping[str, Array]:
    return {"general": ((weights_XC - centre_C) ** 2).sum(axis=1)}


def test_lines_go_through_the_mixture_and_show_the_objective_there() -> None:
    found = slices(space_of(), CHOSEN_C)
    assert found.weights_PC.shape == (1 + 4 * POINTS, 3)
    assert found.weights_PC.min() >= 0
    assert found.weights_PC.sum(axis=1) == pytest.approx(1)
    record = found.record(bowl, lambda averages: averages["general"], [])
    start_C = space_of().as_array(BLEND.merge_weights_for(space_of().baselines["proportional"])[0])
    length = ((CHOSEN_C - start_C) ** 2).sum()
    points = record["line"]["points"]
    assert record["line"]["baseline"] == "proportional"
    assert (points[0]["at"], points[0]["low"]) == (0, None)
    assert 1 <= points[-1]["at"] <= BEYOND
    for point in points:
        assert point["difference"] == pytest.approx((1 - point["at"]) ** 2 * length)
    for place, name in enumerate(NAMES):
        line = record["datasets"][name]
        weights_P = found.weights_PC[found.datasets[name][0]]
        assert line["chosen"] == pytest.approx((CHOSEN_C @ BLEND.rows_CD)[place])
        assert [point["at"] for point in line["points"]] == pytest.approx((weights_P @ BLEND.rows_CD)[:, place])
        others = np.delete(weights_P[:-1], place, axis=1)  # at the end it may be alone
        assert others[:, 0] / others.sum(axis=1) == pytest.approx(np.delete(CHOSEN_C, place)[0] / (1 - CHOSEN_C[place]))
        assert min(point["difference"] for point in line["points"]) >= 0


def test_the_band_is_of_refits_against_the_same_mixture() -> None:
    refits = [partial(bowl, centre_C=CHOSEN_C + shift * np.array([1, -1, 0])) for shift in np.linspace(-0.1, 0.1, 21)]
    record = slices(space_of(), CHOSEN_C).record(bowl, lambda averages: averages["general"], refits)
    for point in record["line"]["points"] + record["datasets"]["math"]["points"]:
        assert point["low"] <= point["difference"] + 1e-12
        assert point["difference"] <= point["high"] + 1e-12
    first = record["line"]["points"][0]
    assert first["high"] - first["low"] > 0.01


def test_a_mixture_of_one_dataset_alone_has_no_line_along_it() -> None:
    found = slices(space_of(), np.array([1.0, 0.0, 0.0]))
    assert list(found.datasets) == ["math", "code"]
    assert np.isfinite(found.weights_PC).all()
