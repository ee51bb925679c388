"""Which ranks score which proxies: the same ranks as train, in groups that each hold one proxy."""

from dataclasses import replace

from nemo_demix.config import DemixConfig, ParallelConfig
from nemo_demix.errors import ConfigError, refuse
from nemo_demix.runtime.ranks import layout_errors, world_size
from nemo_demix.search.strategies import strategy_of


def proxy_layout(config: DemixConfig) -> ParallelConfig:
    """Return how all ranks are laid out while proxies are scored: `search.tensor` of them hold a layer's matrices.

    Raises:
        ConfigError: if they do not divide so.
    """
    parallel, tensor = config.parallel, config.search.tensor
    if tensor in (0, parallel.tensor):
        return parallel
    ranks = parallel.tensor * parallel.data
    if ranks % tensor:
        raise ConfigError(
            f"search.tensor={tensor}: expected a divisor of parallel.tensor={parallel.tensor} x "
            f"parallel.data={parallel.data} = {ranks} ranks; 0 stands for parallel.tensor"
        )
    layout = replace(parallel, tensor=tensor, data=ranks // tensor, sequence=parallel.sequence and tensor > 1)
    refuse(layout_errors(layout))
    return layout


def proxy_groups(config: DemixConfig) -> int:
    """Return how many groups of ranks score proxies: as many as there can be unless `search.groups` says otherwise.

    Raises:
        ConfigError: if so many groups do not divide the ranks.
    """
    layout = proxy_layout(config)
    # Experts beyond the tensor ranks are spread over data ranks, which must then stay together.
    num_groups = config.search.groups or layout.data // max(1, layout.expert // layout.tensor)
    group_layout(layout, num_groups)
    return num_groups


def search_groups(config: DemixConfig) -> int:
    """Return how many groups of ranks the search has; a proxy that is trained needs all ranks together."""
    return 1 if strategy_of(config.search).trains_proxies() else proxy_groups(config)


def group_layout(parallel: ParallelConfig, num_groups: int) -> ParallelConfig:
    """Return the layout of one of so many groups: tensor and pipeline as they are, data divided between the groups.

    Raises:
        ConfigError: if the groups do not divide the data-parallel ranks, or a group would share a node unevenly.
    """
    if num_groups < 1 or parallel.data % num_groups:
        raise ConfigError(
            f"search.groups={num_groups}: expected a divisor of parallel.data={parallel.data}; each group has "
            f"tensor {parallel.tensor} x pipeline {parallel.pipeline} x data/groups ranks"
        )
    per_node = world_size(parallel) // parallel.nodes
    group = replace(parallel, data=parallel.data // num_groups, nodes=1)
    size = world_size(group)
    if size > per_node:
        if size % per_node:
            raise ConfigError(
                f"search.groups={num_groups}: a group of {size} ranks covers no whole number of nodes with {per_node} "
                "ranks each; choose another number of groups"
            )
        group = replace(group, nodes=size // per_node)
    return group
