"""Would a stand-in choose as the references do: small cases by hand, and every resample against scipy and numpy."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from nemo_demix.errors import ScoreError
from nemo_demix.fidelity.consistency import draw_samples
from nemo_demix.fidelity.decision import (
    MEASURES,
    ONLY_AN_ORDER,
    Decision,
    StandIn,
    averaged,
    decision,
    decision_estimates,
    over_orders,
    rho_difference,
    undefined,
)
from nemo_demix.fidelity.intervals import Estimate
from nemo_demix.fidelity.resampled import multiplicities, pair_edges

UP = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def decide(reference: list[float], proxy: list[float], num_bootstrap: int = 200, has_unit: bool = True) -> Decision:
    samples = draw_samples(len(reference), num_bootstrap, np.random.default_rng(0))
    return decision(np.array(reference), StandIn(np.array(proxy), has_unit), multiplicities(samples))


def found(reference: list[float], proxy: list[float]) -> dict[str, Estimate]:
    return decision_estimates(decide(reference, proxy), 0.95)


def values(estimates: dict[str, Estimate]) -> dict[str, float | None]:
    return {measure: estimate.value for measure, estimate in estimates.items()}


def test_a_perfect_order_of_twice_the_size() -> None:
    assert values(found(UP, [2 * value for value in UP])) == pytest.approx(
        {"rho": 1, "pairs": 1, "pairs_small": 1, "pairs_middle": 1, "pairs_large": 1}
        | {"regret": 0, "regret_top5": 0, "slope": 0.5, "residual": 3.5**0.5}
    )


def test_a_reversed_order_takes_the_worst() -> None:
    """Its best is 6, where 1 was to be had; its best five lack 1; reference minus proxy is 2 x - 7."""
    assert values(found(UP, UP[::-1])) == pytest.approx(
        {"rho": -1, "pairs": 0, "pairs_small": 0, "pairs_middle": 0, "pairs_large": 0}
        | {"regret": 5, "regret_top5": 1, "slope": -1, "residual": 2 * 3.5**0.5}
    )


def test_ties_of_the_references_are_no_pairs() -> None:
    """Five pairs differ: by 1, 1, 1, 2, 2; the first two of them and no other are turned round."""
    figures = values(found([1, 1, 2, 3], [1, 2, 0, 3]))
    assert figures["pairs"] == pytest.approx(3 / 5)
    assert (figures["pairs_small"], figures["pairs_middle"], figures["pairs_large"]) == (0, 1, 1)
    assert figures["regret"] == 1
    assert pair_edges(np.array([1.0, 1, 2, 3])) == (1, 2)


def test_ties_of_the_proxy_count_against_it() -> None:
    figures = values(found([1, 2, 3, 4, 5, 6], [5, 5, 9, 9, 9, 9]))
    assert figures["pairs"] == pytest.approx(8 / 15)  # 2 x 4 pairs across, of 15
    assert figures["regret"] == 1  # of the two that seem best the worse one
    assert figures["regret_top5"] == 0
    assert figures["rho"] == pytest.approx(spearmanr(UP, [5, 5, 9, 9, 9, 9]).statistic)
    ahead = values(found([1, 2, 3, 4, 5, 6], [1, 1, 1, 1, 1, 1.5]))
    assert ahead["regret_top5"] == 0
    assert values(found([1, 2, 3, 4, 5, 6], [1, 1, 1, 1, 1, 0.5]))["regret_top5"] == 1


def test_constant_scores_are_undefined_and_say_so() -> None:
    for reference, proxy, why in (
        ([2.0] * 6, UP, "the references' scores are constant"),
        (UP, [2.0] * 6, "the proxies' scores are constant"),
        ([1.0, 2.0], [1.0, 2.0], "2 references to order; 3 are needed"),
    ):
        for estimate in found(reference, proxy).values():
            assert (estimate.value, estimate.low, estimate.reason) == (None, None, why)
    assert pair_edges(np.full(6, 2.0)) is None


def test_three_references_have_a_value_and_prove_nothing() -> None:
    estimates = found([1, 2, 4], [1, 2, 3])
    assert (estimates["rho"].value, estimates["rho"].low, estimates["rho"].high) == (pytest.approx(1), -1, 1)
    assert estimates["pairs"].value == 1
    assert (estimates["pairs"].low, estimates["pairs"].high) == (None, None)
    assert "fewer than 10 references" in str(estimates["pairs"].reason)
    assert estimates["regret_top5"].value is None
    assert estimates["regret_top5"].reason == "the best 5 of 3 references are all of them"


def test_two_pairs_that_differ_have_no_three_sizes() -> None:
    estimates = found([1, 1, 2], [1, 2, 3])
    assert estimates["pairs"].value == 1
    assert estimates["pairs_large"].value is None
    assert estimates["pairs_large"].reason == "fewer than 3 pairs of references differ"
    assert pair_edges(np.array([1.0, 1, 2])) is None


def test_an_order_has_no_line() -> None:
    estimates = decision_estimates(decide(UP, UP, has_unit=False), 0.95)
    assert estimates["regret"].value == 0
    for measure in ("slope", "residual"):
        assert (estimates[measure].value, estimates[measure].reason) == (None, ONLY_AN_ORDER)


def test_another_number_of_proxies_is_an_error() -> None:
    with pytest.raises(ScoreError, match="expected 3 proxy scores, found 2"):
        decide([1, 2, 3], [1, 2])


def test_every_resample_is_worked_out_as_if_it_were_drawn() -> None:
    """References with ties, against scipy, numpy and a loop over the drawn references."""
    rng = np.random.default_rng(1)
    reference = rng.integers(0, 9, 12).astype(float)
    proxy = reference + rng.integers(-3, 4, 12)
    samples = draw_samples(12, 60, rng)
    figures = decision(reference, StandIn(proxy), multiplicities(samples)).values
    for index, row in enumerate(samples):
        x, y = proxy[row], reference[row]
        assert figures["rho"][index] == pytest.approx(spearmanr(y, x).statistic)
        pairs = [(i, j) for i, j in combinations(range(12), 2) if y[i] != y[j]]
        right = [np.sign(x[i] - x[j]) == np.sign(y[i] - y[j]) for i, j in pairs]
        assert figures["pairs"][index] == pytest.approx(np.mean(right))
        assert figures["regret"][index] == max(y[x == x.min()]) - y.min()
        first = sorted(zip(x, -y, strict=True))[:5]
        assert figures["regret_top5"][index] == min(-value for _, value in first) - y.min()
        assert figures["slope"][index] == pytest.approx(np.polyfit(x, y, 1)[0])
        assert figures["residual"][index] == pytest.approx(np.std(y - x, ddof=1))


def test_the_thirds_of_the_pairs_make_up_the_whole() -> None:
    rng = np.random.default_rng(2)
    reference = rng.normal(size=10)  # 45 pairs: 15 of each size
    figures = values(found(reference.tolist(), (reference + rng.normal(size=10)).tolist()))
    sizes = [figures["pairs_small"], figures["pairs_middle"], figures["pairs_large"]]
    assert np.mean(sizes) == pytest.approx(figures["pairs"])  # type: ignore[arg-type]
    small, middle = pair_edges(reference) or (0, 0)
    gaps = sorted(abs(one - other) for one, other in combinations(reference, 2))
    assert (small, middle) == pytest.approx((gaps[14], gaps[29]))


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=6, max_size=12), st.randoms())
def test_what_hangs_on_the_order_alone(rows: list[tuple[int, int]], random: object) -> None:
    """Bounds; a rising function of the proxy changes no order, and a shift no line; nor does the references' order."""
    reference, proxy = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    counts = np.ones((1, len(rows)))
    before = decision(reference, StandIn(proxy), counts).values
    curved = decision(reference, StandIn(proxy**3 + 7), counts).values
    shifted = decision(reference, StandIn(proxy + 7), counts).values
    random.shuffle(rows)  # type: ignore[attr-defined]
    turned, other = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    moved = decision(turned, StandIn(other), counts).values
    for measure in ("rho", "pairs", "regret", "regret_top5"):
        assert curved[measure] == pytest.approx(before[measure], nan_ok=True)
        assert moved[measure] == pytest.approx(before[measure], nan_ok=True)
    for measure in ("slope", "residual"):
        assert shifted[measure] == pytest.approx(before[measure], nan_ok=True)
    if not np.isnan(before["rho"][0]):
        assert 0 <= before["regret_top5"][0] <= before["regret"][0] <= np.ptp(reference)
        assert 0 <= before["pairs"][0] <= 1


def test_a_mean_over_groups_has_one_slope_and_every_reason() -> None:
    one, two = decide(UP, [2, 4, 6, 8, 10, 12]), decide(UP, [1.1, 1.2, 1.3, 1.4, 1.5, 1.7])
    mean = averaged([one, two])
    x = np.concatenate([np.array([2, 4, 6, 8, 10, 12]) - 7, np.array([1.1, 1.2, 1.3, 1.4, 1.5, 1.7]) - 8.2 / 6])
    y = np.tile(np.array(UP) - 3.5, 2)
    assert mean.values["slope"][0] == pytest.approx(np.polyfit(x, y, 1)[0])
    assert mean.values["residual"][0] == pytest.approx((one.values["residual"][0] + two.values["residual"][0]) / 2)
    lacking = averaged([one, undefined("not enough", 201, 6)])
    assert all(np.isnan(lacking.values[measure][0]) for measure in MEASURES)
    assert decision_estimates(lacking, 0.95)["rho"].reason == "not enough"
    assert np.nanmax(lacking.values["rho"][1:]) == pytest.approx(1)


def test_groups_may_be_resampled_too() -> None:
    good, bad = decide(UP, UP, 3), decide(UP, UP[::-1], 3)
    counts = np.array([[1, 1], [2, 0], [0, 2], [1, 1]], dtype=float)
    assert averaged([good, bad], counts).values["rho"] == pytest.approx([0, 1, -1, 0])


def test_a_difference_is_on_the_same_resamples() -> None:
    rng = np.random.default_rng(3)
    reference = rng.normal(size=24).tolist()
    noisy = (np.array(reference) + rng.normal(size=24)).tolist()
    one = decide(reference, noisy)
    assert rho_difference(one, one, 0.95) == Estimate(0, 0, 0, 0, None)
    better = rho_difference(decide(reference, reference), one, 0.95)
    assert better.value == pytest.approx(1 - one.values["rho"][0])
    assert better.low is not None
    assert better.low > 0
    assert rho_difference(one, decide(reference, [1.0] * 24), 0.95).reason == "the proxies' scores are constant"


def test_resamples_draw_the_data_orders_and_the_references_are_their_mean() -> None:
    rng = np.random.default_rng(3)
    truth = rng.normal(size=12)
    orders = truth + rng.normal(0, 0.5, (3, 12))
    counts = multiplicities(draw_samples(12, 300, rng))
    stand_in = StandIn(truth)

    def judge(reference: np.ndarray, some: np.ndarray) -> dict[str, Decision]:
        return {"truth": decision(reference, stand_in, some)}

    found = over_orders(orders, counts, 0, judge)["truth"]
    mean = decision(orders.mean(axis=0), stand_in, counts)
    assert all(found.values[measure][0] == pytest.approx(mean.values[measure][0]) for measure in found.values)
    assert not np.isnan(found.values["rho"]).any()
    assert found.values["rho"].std() > mean.values["rho"].std(), "the orders' luck is in the interval"
    one = over_orders(orders[:1], counts, 0, judge)["truth"]
    alone = decision(orders[0], stand_in, counts)
    assert all((one.values[measure] == alone.values[measure]).all() for measure in ("rho", "pairs", "regret", "slope"))
    constant = over_orders(np.ones((2, 12)), counts, 0, judge)["truth"]
    assert constant.reasons["rho"] == "the references' scores are constant"
