"""Which agent starts which ranks, and the arithmetic in the refusals."""

import pytest

from nemo_demix.config import ParallelConfig
from nemo_demix.errors import ConfigError
from nemo_demix.ranks.placement import Placement, place
from nemo_demix.ranks.team import Member


def members(*hosts: str) -> list[Member]:
    return [Member(host, place=hosts[:number].count(host), skew_s=0.0) for number, host in enumerate(hosts)]


@pytest.mark.parametrize("team", [members("a", "b"), members("a", "a", "a", "a", "b", "b", "b", "b")])
def test_one_process_a_node_and_one_a_rank_start_the_same_ranks(team: list[Member]) -> None:
    placement = place(ParallelConfig(tensor=2, data=4, nodes=2), 2, team)
    started = [rank for agent in range(len(team)) for rank in placement.ranks_of(agent)]
    assert started == list(range(8))
    assert {team[agent].host for agent in range(len(team)) if 3 in placement.ranks_of(agent)} == {"a"}
    assert [placement.group_of(rank) for rank in started] == [0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("parallel", "team", "expected"),
    [
        (ParallelConfig(data=2, nodes=2), members("a"), "parallel.nodes=2: one process on one machine"),
        (
            ParallelConfig(tensor=2, nodes=1),
            members("a", "a", "a"),
            r"parallel.tensor=2 x pipeline=1 x data=1 = 2 ranks do not divide over the 3 processes",
        ),
        (
            ParallelConfig(data=2, nodes=1),
            members("a", "b"),
            r"parallel.nodes=1, but the 2 processes are on 2 node\(s\)",
        ),
        (ParallelConfig(data=4, nodes=2), members("a", "a"), r"on 1 node\(s\) \(a\)"),
    ],
)
def test_a_team_that_does_not_fit_is_refused(parallel: ParallelConfig, team: list[Member], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        place(parallel, 1, team)


def test_a_placement_survives_the_wire() -> None:
    placement = Placement(num_agents=2, num_ranks=8, num_groups=4)
    assert Placement(**placement.to_json()) == placement
