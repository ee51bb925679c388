"""Which ranks score which proxies, and the arithmetic in the refusals."""

from dataclasses import replace

import pytest

from nemo_demix.config import DemixConfig, ParallelConfig, SearchConfig
from nemo_demix.errors import ConfigError
from nemo_demix.search.layout import group_layout, proxy_groups, proxy_layout, search_groups


def config_of(parallel: ParallelConfig, **search: object) -> DemixConfig:
    return replace(DemixConfig(), parallel=parallel, search=replace(SearchConfig(), **search))


@pytest.mark.parametrize(
    ("parallel", "tensor", "expected", "groups"),
    [
        (ParallelConfig(tensor=2), 0, ParallelConfig(tensor=2), 1),
        (ParallelConfig(tensor=2), 1, ParallelConfig(tensor=1, data=2), 2),
        (ParallelConfig(tensor=8, data=2, nodes=2, sequence=True), 4,
         ParallelConfig(tensor=4, data=4, nodes=2, sequence=True), 4),
        (ParallelConfig(tensor=2, pipeline=2, sequence=True), 1, ParallelConfig(tensor=1, pipeline=2, data=2), 2),
        (ParallelConfig(tensor=2, data=2), 4, ParallelConfig(tensor=4, data=1), 1),
        # Experts over two ranks keep these together.
        (ParallelConfig(tensor=2, data=2, expert=2), 1, ParallelConfig(tensor=1, data=4, expert=2), 2),
    ],
)  # fmt: skip
def test_the_same_ranks_score_at_their_own_tensor_size(
    parallel: ParallelConfig, tensor: int, expected: ParallelConfig, groups: int
) -> None:
    config = config_of(parallel, tensor=tensor)
    assert proxy_layout(config) == expected
    assert proxy_groups(config) == groups == search_groups(config)


def test_proxies_that_are_trained_need_all_ranks_together() -> None:
    config = config_of(ParallelConfig(tensor=2, data=2), tensor=1, strategy="regmix")
    assert (search_groups(config), proxy_groups(config)) == (1, 4)  # merges, which `verify` scores too, do not


def test_a_tensor_size_that_does_not_divide_the_ranks_is_refused() -> None:
    expected = r"search.tensor=3: expected a divisor of parallel.tensor=2 x parallel.data=2 = 4 ranks"
    with pytest.raises(ConfigError, match=expected):
        proxy_layout(config_of(ParallelConfig(tensor=2, data=2), tensor=3))
    with pytest.raises(ConfigError, match=r"parallel.expert=2: expected a divisor of tensor 3, or"):
        proxy_layout(config_of(ParallelConfig(tensor=2, data=3, expert=2), tensor=3))


@pytest.mark.parametrize(
    ("parallel", "groups", "expected"),
    [
        (ParallelConfig(tensor=4, data=4, nodes=2), 4, ParallelConfig(tensor=4, data=1, nodes=1)),
        (ParallelConfig(tensor=4, data=4, nodes=2), 1, ParallelConfig(tensor=4, data=4, nodes=2)),
        (
            ParallelConfig(tensor=8, pipeline=2, data=2, nodes=4),
            2,
            ParallelConfig(tensor=8, pipeline=2, data=1, nodes=2),
        ),
    ],
)
def test_a_group_has_its_share_of_the_data_ranks(
    parallel: ParallelConfig, groups: int, expected: ParallelConfig
) -> None:
    assert group_layout(parallel, groups) == expected


def test_groups_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"search.groups=3: expected a divisor of parallel.data=4"):
        group_layout(ParallelConfig(data=4), 3)
    with pytest.raises(ConfigError, match=r"a group of 6 ranks covers no whole number of nodes with 4"):
        group_layout(ParallelConfig(tensor=6, data=2, nodes=3), 2)
