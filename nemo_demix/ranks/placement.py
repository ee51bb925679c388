"""Which agent starts which ranks, and which ranks work together."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from nemo_demix.config import ParallelConfig
from nemo_demix.errors import ConfigError
from nemo_demix.ranks.team import Member
from nemo_demix.runtime.ranks import world_size


@dataclass(frozen=True)
class Placement:
    """Ranks in agent order; groups of consecutive ranks, each a world of its own."""

    num_agents: int
    num_ranks: int  # of all groups
    num_groups: int

    @property
    def group_size(self) -> int:
        """Ranks of a group."""
        return self.num_ranks // self.num_groups

    def ranks_of(self, agent: int) -> range:
        """Return the ranks that an agent starts, counted over all groups."""
        each = self.num_ranks // self.num_agents
        return range(agent * each, (agent + 1) * each)

    def group_of(self, rank: int) -> int:
        """Return the group that a rank is in."""
        return rank // self.group_size

    def to_json(self) -> dict[str, int]:
        """Turn it into what is sent to the agents."""
        return asdict(self)


def place(parallel: ParallelConfig, num_groups: int, members: Sequence[Member]) -> Placement:
    """Spread the ranks of a configuration over a team.

    Raises:
        ConfigError: if they do not divide, or the team's hosts are not the configured nodes; with the arithmetic.
    """
    num_ranks = world_size(parallel)
    layout = f"parallel.tensor={parallel.tensor} x pipeline={parallel.pipeline} x data={parallel.data} = {num_ranks}"
    if len(members) == 1 and parallel.nodes > 1:
        raise ConfigError(
            f"parallel.nodes={parallel.nodes}: one process on one machine starts one node's ranks; start this stage by "
            f"`srun --nodes={parallel.nodes} --ntasks-per-node=1 nemo-demix ...` (slurm/*.sbatch do), or set "
            "parallel.nodes=1"
        )
    if num_ranks % len(members):
        raise ConfigError(
            f"{layout} ranks do not divide over the {len(members)} processes that srun or torchrun started; start one "
            f"process a node, or one a rank ({num_ranks})"
        )
    hosts = {member.host for member in members}
    if len(members) > 1 and len(hosts) != parallel.nodes:
        raise ConfigError(
            f"parallel.nodes={parallel.nodes}, but the {len(members)} processes are on {len(hosts)} node(s) "
            f"({', '.join(sorted(hosts)[:4])}{', ...' if len(hosts) > 4 else ''}); {layout} ranks: set "
            f"parallel.nodes={len(hosts)} and the layout for it, or ask for {parallel.nodes} node(s)"
        )
    return Placement(len(members), num_ranks, num_groups)
