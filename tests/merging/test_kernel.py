"""The one sum behind all linear merges: the same bits in any company, and exact where it can be."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nemo_demix.merging import kernel
from nemo_demix.merging.kernel import Coefficients, all_within, padded, put


def sums(weights_MT: np.ndarray, sources_TN: torch.Tensor) -> torch.Tensor:
    """From the middle of a buffer that held NaN before, as reused ones do."""
    count = sources_TN.shape[1]
    values_TN = torch.full((len(sources_TN), padded(count) + 512), torch.nan)
    values_TN[:, 256 : 256 + count] = sources_TN
    merged_MPD = Coefficients(weights_MT).apply(values_TN[:, 256 : 256 + padded(count)])
    out_MN = torch.full((len(weights_MT), count), torch.nan)
    for out_N, merged_PD in zip(out_MN, merged_MPD, strict=True):
        put(merged_PD, out_N)
    return out_MN


def chain(weights_T: np.ndarray, sources_TN: torch.Tensor) -> torch.Tensor:
    """fma(w_T, x_T, ... fma(w_0, x_0, 0)): products of two fp32 numbers are exact in float64."""
    total = torch.zeros(sources_TN.shape[1])
    for weight, source_N in zip(weights_T.astype(np.float32).tolist(), sources_TN, strict=True):
        total = (weight * source_N.double() + total.double()).float()
    return total


@given(
    st.integers(1, 20), st.integers(2, 20), st.sampled_from([1, 63, 64, 1000, 4097]), st.integers(0, 2**32 - 1)
)  # fmt: skip
def test_every_mixture_is_one_chain_of_fused_multiply_adds(m: int, t: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights_MT, sources_TN = rng.dirichlet(np.ones(t), m), torch.from_numpy(rng.normal(size=(t, n))).float()
    found = sums(weights_MT, sources_TN)
    for row in range(m):
        # float64 rounds the sum once before fp32 does: in rare cases twice is not once.
        wrong = found[row] != chain(weights_MT[row], sources_TN)
        assert wrong.sum() <= 1
        assert torch.equal(sums(weights_MT[row : row + 1], sources_TN)[0], found[row]), "alone"
    start = n // 3
    assert torch.equal(sums(weights_MT, sources_TN[:, start:]), found[:, start:]), "from another place"


@pytest.mark.skipif("AVX" not in torch.backends.cpu.get_cpu_capability(), reason="FBGEMM has no kernel for it")
def test_bags_are_the_chain() -> None:
    """Where they are not, the chain written out is slower."""
    assert kernel._chain_by_bags()


def no_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_chain_by_bags", lambda: False)


def by_product(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.backends.mkl.is_available():
        pytest.skip("torch has another BLAS here")
    monkeypatch.setattr(Coefficients, "_by_bags", Coefficients._by_product)


@pytest.mark.parametrize("instead", [no_chain, by_product])
def test_where_bags_are_no_chain_another_way_gives_the_same(instead: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    weights_MT, sources_TN = rng.dirichlet(np.ones(9), 5), torch.from_numpy(rng.normal(size=(9, 999))).float()
    weights_MT[2] = np.eye(9)[4]
    weights_MT[3, 5:] = 0
    expected = sums(weights_MT, sources_TN)
    instead(monkeypatch)
    assert torch.equal(sums(weights_MT, sources_TN), expected)
    sources_TN[7, 3] = torch.nan
    assert sums(weights_MT, sources_TN)[:, 3].isnan().tolist() == [True, True, False, False, True]


def test_a_one_hot_mixture_keeps_every_bit() -> None:
    source = torch.tensor([-0.0, 0.0, torch.nan, -torch.inf, 1e-45, 3.4e38])
    sources_TN = torch.stack([torch.ones(6), source, torch.full((6,), torch.nan)])
    found = sums(np.array([[0.0, 1.0, 0.0]]), sources_TN)
    assert torch.equal(found[0].view(torch.int32), source.view(torch.int32))


def test_nan_stays_where_it_is_and_a_weight_of_zero_hides_it() -> None:
    sources_TN = torch.ones(2, 100)
    sources_TN[1, 7] = torch.nan
    found = sums(np.array([[0.5, 0.5], [1.0, 0.0], [0.25, 0.0]]), sources_TN)
    assert found.isnan().nonzero().tolist() == [[0, 7]]
    assert found[2].eq(0.25).all()


def test_mixtures_of_nothing_are_zero() -> None:
    sources_TN = torch.full((3, 300), torch.nan)
    assert sums(np.zeros((2, 3)), sources_TN).eq(0).all()


@given(st.sampled_from([torch.float16, torch.bfloat16, torch.float32]), st.floats(0.5, 2), st.integers(1, 600))
def test_what_overflows_is_always_seen(dtype: torch.dtype, factor: float, count: int) -> None:
    values = torch.randn(count).double()
    values[count // 2] = -torch.finfo(dtype).max * factor
    values_N = values.float()
    if not values_N.to(dtype).isfinite().all():
        assert not all_within(values_N, dtype)
    assert all_within(torch.randn(count), dtype)
    values_N[0] = torch.nan
    assert not all_within(values_N, dtype)
