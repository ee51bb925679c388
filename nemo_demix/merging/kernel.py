"""The weighted sum of K sources for M mixtures at once, the same bits however it is called.

Each output element is one chain of fused multiply-adds over the sources, in their order, from zero, in fp32. A matrix
product computes exactly that chain for every element where its inner dimension is short, at any number of rows above
one; `chain_by_blas` checks it once a process, and where a BLAS does otherwise the chain is written out.

Axes: M mixtures, T sources, N elements.
"""

from functools import cache

import torch

_ALIGNMENT = 64  # elements: vector code then meets no remainder


def weighted_sums(coefficients_MT: torch.Tensor, sources_TN: torch.Tensor, out_MN: torch.Tensor) -> bool:
    """Write coefficients @ sources.

    A coefficient row with a single 1 copies its source bit for bit, signed zeros and NaN included; a source whose
    coefficient is 0 leaves no trace, not even where it is NaN.

    Args:
        coefficients_MT: fp32.
        sources_TN: fp32; N a multiple of 64 (see `padded`).
        out_MN: fp32, one row more than there are mixtures: the last is scratch.
    Returns:
        Whether all sources were finite.
    """
    num_mixtures = coefficients_MT.shape[0]
    assert sources_TN.shape[1] % _ALIGNMENT == 0, "padded() first"
    assert out_MN.shape[0] == num_mixtures + 1, "the last row is the probe's"
    # Zero times anything finite is zero: the last row shows NaN or infinity in any source. It also keeps a single
    # mixture from becoming a matrix-vector product, which sums in another order.
    probed_MT = torch.cat([coefficients_MT, torch.zeros_like(coefficients_MT[:1])])
    finite = True
    if _chain_by_blas():
        torch.mm(probed_MT, sources_TN, out=out_MN)
        finite = not out_MN[-1].any().item()
    else:
        finite = bool(sources_TN.isfinite().all())
    if not finite or not _chain_by_blas():
        for row, coefficients in zip(out_MN[:-1], coefficients_MT.tolist(), strict=True):
            _chain(coefficients, sources_TN, row)
    for row, coefficients in zip(out_MN[:-1], coefficients_MT.tolist(), strict=True):
        active = [index for index, value in enumerate(coefficients) if value]
        if len(active) == 1 and coefficients[active[0]] == 1.0:
            row.copy_(sources_TN[active[0]])
    return finite


def padded(num_elements: int) -> int:
    """The least N that `weighted_sums` takes for so many elements."""
    return -(-num_elements // _ALIGNMENT) * _ALIGNMENT


def _chain(coefficients: list[float], sources_TN: torch.Tensor, out_N: torch.Tensor) -> None:
    out_N.zero_()
    for coefficient, source_N in zip(coefficients, sources_TN, strict=True):
        if coefficient:
            out_N.add_(source_N, alpha=coefficient)


@cache
def _chain_by_blas() -> bool:
    """Whether this machine's matrix product is the chain, at several shapes; a few milliseconds."""
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
