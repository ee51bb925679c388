"""The weighted sum of K sources for M mixtures at once, the same bits however it is called.

Each output element is one chain of fused multiply-adds over the sources, in their order, from zero, in fp32. A matrix
product computes exactly that chain for every element where its inner dimension is short and it has a few rows (MKL sums
products of two or three rows otherwise on AMD's processors, and of one row everywhere); `_chain_by_blas` checks it once
a process, and where a BLAS does otherwise the chain is written out. On an accelerator the product is taken as it is,
without TF32; that it gives the same bits there is not claimed.

Axes: M mixtures, R rows of a product, T sources, N elements.
"""

from functools import cache

import torch

from nemo_demix.merging.methods.base import Array

_CPU = torch.device("cpu")
_ALIGNMENT = 64  # elements: vector code then meets no remainder
_MIN_ROWS = 4  # of a product


class Coefficients:
    """What M mixtures take of T sources.

    Args:
        values_MT: Coefficients, float64, shape (M, T); used in fp32.
    """

    def __init__(self, values_MT: Array, device: torch.device = _CPU) -> None:
        values = torch.from_numpy(values_MT).float()
        self.num_mixtures = len(values)
        # Zero times anything finite is zero: a last row of zeros shows NaN or infinity in any source.
        self._probed_RT = values.new_zeros(num_rows(self.num_mixtures), values.shape[1])
        self._probed_RT[: self.num_mixtures] = values
        self._probed_RT = self._probed_RT.to(device)
        self._rows = values.tolist()
        self._copies = {
            row: coefficients.index(1.0)
            for row, coefficients in enumerate(self._rows)
            if coefficients.count(0.0) == len(coefficients) - 1 and 1.0 in coefficients
        }

    def apply(self, sources_TN: torch.Tensor, out_RN: torch.Tensor) -> bool:
        """Write the weighted sums of the sources' elements, one row a mixture.

        A row with a single 1 copies its source bit for bit, signed zeros and NaN included; a source whose coefficient
        is 0 leaves no trace, not even where it is NaN.

        Args:
            sources_TN: Elements of the sources, fp32, shape (T, N); N a multiple of 64 (see `padded`).
            out_RN: Where to write, fp32, shape (`num_rows(M)`, N): rows after the mixtures' are scratch.
        Returns:
            Whether all sources were finite.
        """
        assert sources_TN.shape[1] % _ALIGNMENT == 0, "padded() first"
        tf32, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, False
        torch.mm(self._probed_RT, sources_TN, out=out_RN)
        torch.backends.cuda.matmul.allow_tf32 = tf32
        finite = out_RN[-1].sum().item() == 0.0
        if not finite or (sources_TN.device.type == "cpu" and not _chain_by_blas()):
            for row_N, coefficients in zip(out_RN, self._rows, strict=False):
                _chain(coefficients, sources_TN, row_N)
        for row, source in self._copies.items():
            out_RN[row].copy_(sources_TN[source])
        return finite


def num_rows(num_mixtures: int) -> int:
    """Return the rows that `Coefficients.apply` writes for so many mixtures."""
    return max(num_mixtures + 1, _MIN_ROWS)


def padded(num_elements: int) -> int:
    """Return the least N that `Coefficients.apply` takes for so many elements."""
    return -(-num_elements // _ALIGNMENT) * _ALIGNMENT


def _chain(coefficients: list[float], sources_TN: torch.Tensor, out_N: torch.Tensor) -> None:
    out_N.zero_()
    for coefficient, source_N in zip(coefficients, sources_TN, strict=True):
        if coefficient:
            out_N.add_(source_N, alpha=coefficient)


@cache
def _chain_by_blas() -> bool:
    """Return whether this machine's matrix product is the chain, at several shapes; a few milliseconds."""
    generator = torch.Generator().manual_seed(0)
    for rows, num_sources, num_elements in ((4, 2, 64), (4, 8, 65_536), (5, 7, 4_160), (17, 51, 1_024)):
        sources_TN = torch.randn(num_sources, num_elements, generator=generator)
        coefficients_RT = torch.randn(rows, num_sources, generator=generator)
        product_RN = coefficients_RT @ sources_TN
        chain_N = torch.empty(num_elements)
        for row_N, coefficients in zip(product_RN, coefficients_RT.tolist(), strict=True):
            _chain(coefficients, sources_TN, chain_N)
            if not torch.equal(chain_N, row_N):
                return False
    return True
