"""Rank agreement and recovery against scipy and by hand; what is undefined stays so."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from nemo_demix.errors import ScoreError
from nemo_demix.fidelity.consistency import (
    Columns,
    correlations,
    differences,
    draw_samples,
    estimates,
    figures,
    summarise,
    tokens_to_match,
)

LOWER = {"math": False, "code": False}


def bits(math: list[float], code: list[float]) -> Columns:
    return Columns({"math": np.array(math), "code": np.array(code)}, LOWER)


def samples(num_references: int, num_bootstrap: int = 400) -> np.ndarray:
    return draw_samples(num_references, num_bootstrap, np.random.default_rng(0))


def test_rho_of_every_resample_is_scipys_with_ties() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.integers(0, 6, 12).astype(float), rng.integers(0, 6, 12).astype(float)
    rows = samples(12, 50)
    expected = [spearmanr(first[row], second[row]).statistic for row in rows]
    assert correlations(first, second, rows) == pytest.approx(expected, abs=1e-12)


def test_a_resample_of_two_references_orders_nothing() -> None:
    values = np.arange(4.0)
    rows = np.array([[0, 1, 2, 3], [0, 1, 0, 1], [2, 2, 2, 2], [0, 1, 2, 0]])
    found = correlations(values, values, rows)
    assert np.isnan(found).tolist() == [False, True, True, False]


def test_perfect_and_reversed_proxies() -> None:
    up = [float(value) for value in range(1, 13)]
    down = up[::-1]
    found = estimates(figures(bits(up, down), bits([2 * value for value in up], down), samples(12)), 0.95)
    assert found["rho"]["macro"].value == found["rho"]["macro"].low == pytest.approx(1)
    assert found["recovery"]["math"].value == pytest.approx(2)
    assert found["recovery"]["macro"].value == pytest.approx(1.5)
    found = estimates(figures(bits(up, down), bits(down, down), samples(12)), 0.95)
    assert found["rho"]["math"].value == pytest.approx(-1)
    assert found["rho"]["macro"].value == pytest.approx(0)
    assert found["recovery"]["math"].value == pytest.approx(1)


def test_a_perfect_order_of_few_references_proves_little() -> None:
    """Resamples of it are all perfect too; one order of 24 is perfect by chance."""
    reference = bits([1, 2, 3, 4], [4, 3, 2, 1])
    perfect = figures(reference, reference, samples(4))
    found = estimates(perfect, 0.95)["rho"]["macro"]
    # by hand: rho counts as 1 - 12/60 = 0.8, its standard error on Fisher's scale is sqrt(1 + 0.32)
    assert found.low == pytest.approx(np.tanh(np.arctanh(0.8) - 1.959964 * 1.32**0.5))
    assert (found.value, found.high) == (pytest.approx(1), pytest.approx(1))
    turned = figures(reference, bits([4, 3, 2, 1], [1, 2, 3, 4]), samples(4))
    difference = differences(perfect, turned, 0.95)["rho"]["macro"]
    assert difference.value == pytest.approx(2)
    assert difference.low < 0 < difference.high
    three = bits([1, 2, 3], [3, 2, 1])
    assert estimates(figures(three, three, samples(3)), 0.95)["rho"]["macro"].low == -1


def test_directions_of_proxy_and_reference_may_differ() -> None:
    """More data of a capability should mean fewer bits: that is agreement."""
    reference = bits([4, 3, 2, 1], [1, 2, 3, 4])
    shares = {"math": np.array([0.1, 0.2, 0.3, 0.4]), "code": np.array([0.4, 0.3, 0.2, 0.1])}
    null = Columns(shares, {"math": True, "code": True}, has_unit=False)
    found = estimates(figures(reference, null, samples(4)), 0.95)
    assert found["rho"]["math"].value == found["rho"]["code"].value == pytest.approx(1)
    assert found["recovery"]["macro"].value is None
    assert found["recovery"]["math"].reason == "it has no score, only an order"


def test_the_best_quarter_is_the_references_own() -> None:
    reference = np.arange(12.0)  # bits: the first three are the best
    proxy = np.concatenate([[2, 1, 0], np.arange(3.0, 12)])  # wrong among these, right elsewhere
    columns = [Columns({"math": values}, {"math": False}) for values in (reference, proxy)]
    found = estimates(figures(*columns, samples(12)), 0.95)
    assert found["rho_top"]["math"].value == pytest.approx(-1)
    assert found["rho"]["math"].value == pytest.approx(spearmanr(reference, proxy).statistic)


def test_constant_scores_are_undefined_and_say_so() -> None:
    reference = bits([1, 2, 3, 4, 5], [2, 2, 2, 2, 2])
    found = estimates(figures(reference, reference, samples(5)), 0.95)
    assert found["rho"]["code"].value is None
    assert found["rho"]["code"].reason == "the references' scores are constant"
    assert found["rho"]["macro"].value is None
    assert found["rho"]["macro"].reason == "undefined for code"
    assert found["rho"]["math"].value == pytest.approx(1)
    constant = bits([3, 3, 3, 3, 3], [1, 2, 3, 4, 5])
    found = estimates(figures(bits([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]), constant, samples(5)), 0.95)
    assert found["rho"]["math"].reason == "the proxies' scores are constant"


def test_four_references_have_no_best_quarter_and_lose_resamples() -> None:
    reference = bits([1, 2, 3, 4], [4, 1, 3, 2])
    found = estimates(figures(reference, reference, samples(4, 1000)), 0.95)
    assert found["rho_top"]["macro"].value is None
    assert found["rho_top"]["math"].reason == "1 references to order; 3 are needed"
    # P(at most 2 different of 4 drawn) = (4 + 6 x 14) / 256
    assert found["rho"]["math"].num_dropped == pytest.approx(1000 * 88 / 256, abs=60)


def test_a_missing_capability_is_an_error() -> None:
    reference = bits([1, 2, 3], [1, 2, 3])
    with pytest.raises(ScoreError, match="code: expected 3 proxy scores, found none"):
        figures(reference, Columns({"math": np.arange(3.0)}, LOWER), samples(3))
    with pytest.raises(ScoreError, match="math: expected 3 proxy scores, found 2"):
        figures(reference, bits([1, 2], [1, 2]), samples(3))


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """24 references with a known correlation: Spearman's of a normal pair is 6/pi asin(r/2)."""
    rng = np.random.default_rng(2)
    truth = 6 / np.pi * np.arcsin(0.8 / 2)
    covered = 0
    for _ in range(200):
        first = rng.normal(size=24)
        second = 0.8 * first + 0.6 * rng.normal(size=24)
        rows = draw_samples(24, 300, rng)
        estimate = summarise(correlations(first, second, rows), 0.95)
        covered += estimate.low <= truth <= estimate.high
    assert 0.85 <= covered / 200 <= 1.0


def test_a_difference_on_the_same_resamples_is_narrower_than_apart() -> None:
    rng = np.random.default_rng(3)
    truth = rng.normal(size=24)
    shared = truth + rng.normal(size=24)
    reference, one, two = (
        Columns({"math": values}, {"math": False})
        for values in (truth, shared + 0.05 * rng.normal(size=24), shared + 0.05 * rng.normal(size=24))
    )
    rows = samples(24, 1000)
    first, second = figures(reference, one, rows), figures(reference, two, rows)
    paired = differences(first, second, 0.95)["rho"]["macro"]
    apart = estimates(first, 0.95)["rho"]["macro"]
    assert paired.value == pytest.approx(first.values["rho"]["macro"][0] - second.values["rho"]["macro"][0])
    assert paired.high - paired.low < 0.3 * (apart.high - apart.low)
    assert differences(first, first, 0.95)["rho"]["macro"].high == 0


def test_the_order_of_references_does_not_matter() -> None:
    rng = np.random.default_rng(4)
    reference, proxy, order = rng.normal(size=9), rng.normal(size=9), rng.permutation(9)
    columns = [Columns({"math": values}, {"math": False}) for values in (reference, proxy)]
    turned = [Columns({"math": values[order]}, {"math": False}) for values in (reference, proxy)]
    rows = samples(9, 10)
    for measure in ("rho", "rho_top", "recovery"):
        one, two = (figures(*pair, rows).values[measure]["math"][0] for pair in (columns, turned))
        assert one == pytest.approx(two)


def test_tokens_to_match_are_interpolated_on_log2() -> None:
    measured = {1024: 0.2, 2048: 0.4, 4096: 0.8}
    assert tokens_to_match(0.6, measured).num_tokens == pytest.approx(2048 * 2**0.5)
    assert tokens_to_match(0.8, measured).num_tokens == pytest.approx(4096)
    above, below = tokens_to_match(0.9, measured), tokens_to_match(0.1, measured)
    assert (above.num_tokens, above.more_than, above.at_most) == (None, 4096, None)
    assert (below.num_tokens, below.more_than, below.at_most) == (None, None, 1024)
    assert "undefined" in str(tokens_to_match(None, measured).reason)
    assert "trained proxies" in str(tokens_to_match(0.5, {1024: None}).reason)
    assert tokens_to_match(0.5, {1024: None, 2048: 0.4, 4096: 0.6}).num_tokens == pytest.approx(2048 * 2**0.5)
