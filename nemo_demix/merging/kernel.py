"""The weighted sum of K sources for M mixtures at once, the same bits however it is called.

Each output element is one chain of fused multiply-adds over the sources, in their order, from zero, in fp32. A matrix
product computes exactly that chain for every element where its inner dimension is short, at any number of rows above
one; `_chain_by_blas` checks it once a process, and where a BLAS does otherwise the chain is written out. On an
accelerator the product is taken as it is, without TF32; that it gives the same bits there is not claimed.

Axes: M mixtures, T sources, N elements.
"""

from functools import cache

import torch

from nemo_demix.merging.methods.base import Array

_CPU = torch.device("cpu")
_ALIGNMENT = 64  # elements: vector code then meets no remainder


class Coefficients:
    """What M mixtures take of T sources.

    Args:
        values_MT: Coefficients, float64, shape (M, T); used in fp32.
    """

    def __init__(self, values_MT: Array, device: torch.device = _CPU) -> None:
        values = torch.from_numpy(values_MT).float()
        self.num_mixtures = len(values)
        # Zero times anything finite is zero: a last row of zeros shows NaN or infinity in any source. It also keeps a
        # single mixture from becoming a matrix-vector product, which sums in another order.
        self._probed_MT = torch.cat([values, torch.zeros_like(values[:1])]).to(device)
        self._rows = values.tolist()
        self._copies = {
            row: coefficients.index(1.0)
            for row, coefficients in enumerate(self._rows)
            if coefficients.count(0.0) == len(coefficients) - 1 and 1.0 in coefficients
        }

    def apply(self, sources_TN: torch.Tensor, out_MN: torch.Tensor) -> bool:
        """Write the weighted sums of the sources' elements, one row a mixture.

        A row with a single 1 copies its source bit for bit, signed zeros and NaN included; a source whose coefficient
        is 0 leaves no trace, not even where it is NaN.

        Args:
            sources_TN: Elements of the sources, fp32, shape (T, N); N a multiple of 64 (see `padded`).
            out_MN: Where to write, fp32, shape (M + 1, N): one row more than there are mixtures, the last is scratch.
        Returns:
            Whether all sources were finite.
        """
        assert sources_TN.shape[1] % _ALIGNMENT == 0, "padded() first"
        by_blas = sources_TN.device.type != "cpu" or _chain_by_blas()
        if by_blas:
            tf32, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, False
            torch.mm(self._probed_MT, sources_TN, out=out_MN)
            torch.backends.cuda.matmul.allow_tf32 = tf32
            finite = out_MN[-1].sum().item() == 0.0
        else:
            finite = bool(sources_TN.isfinite().all())
        if not finite or not by_blas:
            for row_N, coefficients in zip(out_MN, self._rows, strict=False):
                _chain(coefficients, sources_TN, row_N)
        for row, source in self._copies.items():
            out_MN[row].copy_(sources_TN[source])
        return finite


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
    for num_mixtures, num_sources, num_elements in ((2, 2, 64), (2, 8, 65_536), (5, 7, 4_160), (17, 51, 1_024)):
        sources_TN = torch.randn(num_sources, num_elements, generator=generator)
        coefficients_MT = torch.randn(num_mixtures, num_sources, generator=generator)
        product_MN = coefficients_MT @ sources_TN
        chain_N = torch.empty(num_elements)
        for row_N, coefficients in zip(product_MN, coefficients_MT.tolist(), strict=True):
            _chain(coefficients, sources_TN, chain_N)
            if not torch.equal(chain_N, row_N):
                return False
    return True
