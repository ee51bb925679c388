"""UniMax, against its definition."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_demix.errors import ConfigError, MixtureError
from nemo_demix.search.baselines import unimax_shares


def test_small_datasets_are_taken_whole_and_the_rest_is_uniform():
    shares = unimax_shares({"large": 1000, "small": 10, "middle": 60}, num_tokens=600, max_epochs=4)
    assert shares == pytest.approx({"large": 320 / 600, "small": 40 / 600, "middle": 240 / 600})
    assert list(shares) == ["large", "small", "middle"]


def test_with_tokens_to_spare_it_is_equal_and_without_it_is_proportional():
    tokens = {"a": 300, "b": 100}
    assert unimax_shares(tokens, num_tokens=100, max_epochs=1) == pytest.approx({"a": 0.5, "b": 0.5})
    assert unimax_shares(tokens, num_tokens=10_000, max_epochs=4) == pytest.approx({"a": 0.75, "b": 0.25})


@given(
    sizes=st.lists(st.integers(1, 10_000), min_size=1, max_size=8),
    budget=st.integers(1, 50_000),
    limit=st.floats(0.5, 8),
)
def test_no_dataset_is_over_its_epochs_and_what_is_below_them_is_equal(sizes, budget, limit):
    tokens = {str(index): size for index, size in enumerate(sizes)}
    shares = unimax_shares(tokens, budget, limit)
    assert sum(shares.values()) == pytest.approx(1)
    if budget > limit * sum(sizes):
        assert shares == pytest.approx({name: size / sum(sizes) for name, size in tokens.items()})
        return
    assert all(shares[name] * budget <= limit * size * (1 + 1e-9) for name, size in tokens.items())
    free = [share for name, share in shares.items() if share * budget < limit * tokens[name] * (1 - 1e-9)]
    assert free == pytest.approx([max(shares.values())] * len(free))


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match=r"search.unimax_epochs=0: expected a number of epochs above 0"):
        unimax_shares({"a": 1}, 10, 0)
    with pytest.raises(MixtureError, match=r"expected counts >= 0, not all 0"):
        unimax_shares({"a": 0}, 10, 1)
