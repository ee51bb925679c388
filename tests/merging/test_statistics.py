"""Statistics of whole matrices from their blocks, against a sort and float64 sums."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_demix.merging.methods import Block, build_method
from nemo_demix.merging.statistics import collect, order_statistics


def pieces(values_SN: np.ndarray, cuts: list[int]):
    bounds = sorted({0, values_SN.shape[1], *(cut for cut in cuts if cut < values_SN.shape[1])})
    return lambda: (torch.from_numpy(values_SN[:, a:b].copy()) for a, b in itertools.pairwise(bounds))


def check(values_SN: np.ndarray, ranks: list[int], cuts: list[int]) -> None:
    expected_SQ = -np.sort(-values_SN, axis=1)[:, [rank - 1 for rank in ranks]]
    found_SQ = order_statistics(pieces(values_SN, cuts), ranks, values_SN.shape[1])
    assert found_SQ.dtype == np.float32
    np.testing.assert_array_equal(found_SQ, expected_SQ)


magnitudes = st.one_of(
    st.floats(0, width=32, allow_infinity=True, allow_nan=False, allow_subnormal=True),
    st.sampled_from([0.0, 2.0**-149, 2.0**-126, 1.0, 1.0000001192092896, 3.4028234663852886e38]),
)


@settings(deadline=None, max_examples=150)
@given(values=st.lists(magnitudes, min_size=1, max_size=60), data=st.data())
def test_order_statistics_are_those_of_a_sort(values, data):
    number = len(values)
    ranks = data.draw(st.lists(st.integers(1, number), min_size=1, max_size=3))
    cuts = data.draw(st.lists(st.integers(1, number), max_size=4))
    check(np.array([values, values[::-1]], dtype=np.float32), ranks, cuts)


@pytest.mark.parametrize("kind", ["normal", "ties", "all equal", "zeros", "denormal", "neighbours", "bf16"])
def test_order_statistics_of_large_series(kind):
    generator, number = np.random.default_rng(0), 70_001
    normal_N = abs(generator.normal(size=number)).astype(np.float32)
    values_N = {
        "normal": normal_N,
        "ties": np.round(normal_N * 3) / 3,
        "all equal": np.full(number, 0.1, dtype=np.float32),
        "zeros": np.where(normal_N > 2, normal_N, 0),
        "denormal": (normal_N * 1e-40).astype(np.float32),
        "neighbours": (np.float32(1).view(np.uint32) + generator.integers(0, 9, number).astype(np.uint32)).view("f4"),
        "bf16": torch.from_numpy(normal_N).bfloat16().float().numpy(),
    }[kind].astype(np.float32)
    ranks = [1, 2, number // 10, number // 2, 63_000, number]
    check(np.stack([values_N, values_N[::-1]]), ranks, [3, 30_000, 30_001])


def test_nan_counts_as_the_largest():
    values_SN = np.array([[1, np.nan, 3, 2]], dtype=np.float32)
    found_SQ = order_statistics(pieces(values_SN, [2]), [1, 2, 4], 4)
    np.testing.assert_array_equal(found_SQ, [[np.nan, 3, 1]])


def matrix_blocks(sources_TRC: torch.Tensor, cuts: list[int]):
    bounds = [0, *cuts, sources_TRC.shape[1]]
    return lambda: (
        Block(sources_TRC[:, a:b], ("a", "b", "c"), "t", "t", a * sources_TRC.shape[2])
        for a, b in itertools.pairwise(bounds)
    )


@pytest.fixture
def sources_TRC() -> torch.Tensor:
    return torch.randn(4, 50, 701, generator=torch.Generator().manual_seed(0))


def test_the_gram_matrix_is_that_of_the_models_or_of_their_task_vectors(sources_TRC):
    flat_TN = sources_TRC.double().flatten(1).numpy()
    for name, vectors_KN, used_TRC in (
        ("karcher", flat_TN[:-1], sources_TRC[:-1]),
        ("model_stock", flat_TN[:-1] - flat_TN[-1], sources_TRC),
    ):
        statistics = collect(build_method(name, {}, 0, 3, True), matrix_blocks(used_TRC, [7, 8]), 50 * 701)
        np.testing.assert_allclose(statistics.gram_KK, vectors_KN @ vectors_KN.T, rtol=1e-12, atol=1e-9)
        again = collect(build_method(name, {}, 0, 3, True), matrix_blocks(used_TRC, [7, 8]), 50 * 701)
        assert (again.gram_KK == statistics.gram_KK).all()


def test_the_gram_matrix_of_equal_models_is_exactly_zero(sources_TRC):
    same_TRC = sources_TRC[:1].expand(4, -1, -1)
    statistics = collect(build_method("model_stock", {}, 0, 3, True), matrix_blocks(same_TRC, [9]), 50 * 701)
    assert not statistics.gram_KK.any()


@pytest.mark.parametrize("name", ["ties", "breadcrumbs", "sce"])
def test_order_statistics_of_a_matrix_do_not_depend_on_its_blocks(name, sources_TRC):
    method = build_method(name, {"select_topk": 0.3} if name == "sce" else {}, 0, 3, True)
    whole = collect(method, matrix_blocks(sources_TRC, []), 50 * 701)
    cut = collect(method, matrix_blocks(sources_TRC, [1, 2, 33]), 50 * 701)
    np.testing.assert_array_equal(whole.order_SQ, cut.order_SQ)
    deltas_KN = (sources_TRC[:-1] - sources_TRC[-1]).abs().flatten(1).numpy()
    if name != "sce":
        ranks = [rank - 1 for rank in method.ranks(50 * 701)]
        np.testing.assert_array_equal(whole.order_SQ, -np.sort(-deltas_KN, axis=1)[:, ranks])


def test_energies_are_those_of_the_elements_that_vary_most(sources_TRC):
    method = build_method("sce", {"select_topk": 0.3}, 0, 3, True)
    statistics = collect(method, matrix_blocks(sources_TRC, [7, 8]), 50 * 701)
    deltas_KN = (sources_TRC[:-1] - sources_TRC[-1]).double().flatten(1).numpy()
    variance_N = deltas_KN.var(axis=0)
    kept_N = variance_N >= np.sort(variance_N)[::-1][int(0.3 * 50 * 701) - 1]
    np.testing.assert_allclose(statistics.sums_S, (deltas_KN[:, kept_N] ** 2).sum(axis=1), rtol=1e-5)


def test_blocks_that_are_not_the_whole_matrix_are_noticed(sources_TRC):
    with pytest.raises(AssertionError, match=r"\[14020, 14020, 14020\]\), 35050"):  # 20 of 50 rows
        collect(build_method("ties", {}, 0, 3, True), matrix_blocks(sources_TRC[:, :20], []), 50 * 701)
