"""Uniform numbers by element: the same in every block, and uniform."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_demix.merging.methods.randomness import uniforms


@settings(deadline=None, max_examples=60)
@given(
    cut=st.integers(0, 300),
    first=st.integers(0, 2**50),
    count=st.integers(1, 300),
    seed=st.integers(0, 2**31),
)
def test_an_element_has_the_same_uniform_number_in_every_block(cut, first, count, seed):
    cut = min(cut, count)
    whole_N = uniforms(seed, "a", "t", first, count)
    parts = [uniforms(seed, "a", "t", first, cut), uniforms(seed, "a", "t", first + cut, count - cut)]
    assert torch.equal(torch.cat(parts), whole_N)
    assert float(whole_N.min()) > 0
    assert float(whole_N.max()) < 1


def test_uniform_numbers_are_uniform_and_differ_by_seed_component_and_tensor():
    number = 400_000
    draws = [uniforms(*key, 5, number) for key in ((0, "a", "t"), (1, "a", "t"), (0, "b", "t"), (0, "a", "u"))]
    for index, one_N in enumerate(draws):
        counts = np.histogram(one_N.numpy(), bins=50, range=(0, 1))[0]
        assert abs(counts - number / 50).max() < 5 * (number / 50) ** 0.5
        for two_N in draws[:index]:
            assert abs(np.corrcoef(one_N, two_N)[0, 1]) < 5 / number**0.5
    # Pinned: a merge made again years later has to drop the same elements.
    assert [int(value * 2**17) for value in draws[0][:4].tolist()] == [4933, 101103, 39189, 24917]
