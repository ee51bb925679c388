"""The one sum behind all linear merges: the same bits in any company, and exact where it can be."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nemo_demix.merging import kernel
from nemo_demix.merging.kernel import Coefficients, num_rows, padded


def sums(weights_MT: np.ndarray, sources_TN: torch.Tensor) -> torch.Tensor:
    """Through buffers that held NaN before, as reused ones do."""
    count = sources_TN.shape[1]
    values_TN = torch.zeros(len(sources_TN), padded(count))
    values_TN[:, :count] = sources_TN
    out_RN = torch.full((num_rows(len(weights_MT)), padded(count)), torch.nan)
    Coefficients(weights_MT).apply(values_TN, out_RN)
    return out_RN[: len(weights_MT), :count].clone()


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


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="torch has another BLAS here")
def test_the_product_of_mkl_is_the_chain() -> None:
    """On AMD's processors too, where products of two or three rows are none: the chain written out is slow."""
    assert kernel._chain_by_blas()


def test_where_the_product_is_no_chain_the_chain_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    weights_MT, sources_TN = rng.dirichlet(np.ones(9), 5), torch.from_numpy(rng.normal(size=(9, 999))).float()
    expected = sums(weights_MT, sources_TN)
    monkeypatch.setattr(kernel, "_chain_by_blas", lambda: False)
    assert torch.equal(sums(weights_MT, sources_TN), expected)


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
