"""Merged proxies in memory: theta(alpha) = sum_i alpha_i theta_i, straight into a live, sharded model.

Each rank reads its own shards of every component once. A proxy is then one weighted sum over resident shards: no proxy
on disk, no gather, no communication.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from nemo_demix.checkpoints.reader import CheckpointReader
from nemo_demix.mixture import check_simplex
from nemo_demix.runtime.model import Shard, shards

_CHUNK = 131_072  # elements: the running sum of one chunk stays in the cache while the components stream past


@dataclass(frozen=True)
class _Resident:
    shard: Shard
    values_CN: torch.Tensor  # (components, elements), in the components' stored dtype


class LiveProxies:
    """K component models resident beside one live model.

    Args:
        model: This rank's part of the model; its parameters are overwritten by `write`.
        components: Checkpoint of each component, by component name.
    Raises:
        CheckpointError: if a component is of another architecture than the model.
    Memory: K shards of the model in the stored dtype, plus one tensor in fp32.
    """

    def __init__(self, model: torch.nn.Module, components: Mapping[str, Path]) -> None:
        self.names = list(components)
        readers = [CheckpointReader(path) for path in components.values()]
        self._residents = []
        for shard in shards(model):
            dtype = readers[0].tensors[shard.name].dtype if shard.name in readers[0].tensors else shard.view.dtype
            values_CN = torch.empty((len(readers), shard.view.numel()), dtype=dtype)
            for row, reader in zip(values_CN, readers, strict=True):
                reader.read_slice(shard.name, shard.offsets, shard.sizes, row.view(shard.sizes))
            self._residents.append(_Resident(shard, values_CN.to(shard.view.device)))

    @property
    def num_bytes(self) -> int:
        """Bytes of component weights this rank holds."""
        return sum(resident.values_CN.nbytes for resident in self._residents)

    @torch.no_grad()
    def write(self, merge_weights: Mapping[str, float]) -> None:
        """Overwrite the model's parameters with the weighted sum of the components.

        Sums in fp32, in the components' order, whatever the dtypes; a one-hot mixture is a copy, bit for bit.

        Raises:
            MixtureError: if the weights are not on the simplex of the components.
        """
        weights = check_simplex(merge_weights, self.names, "merge weights")
        active = [(index, weight) for index, weight in enumerate(weights.values()) if weight != 0.0]
        for resident in self._residents:
            view, values_CN = resident.shard.view, resident.values_CN
            if len(active) == 1 and active[0][1] == 1.0:
                view.copy_(values_CN[active[0][0]].view(view.shape))
                continue
            view.copy_(_weighted_sum(values_CN, active).view(view.shape))


def _weighted_sum(values_CN: torch.Tensor, active: list[tuple[int, float]]) -> torch.Tensor:
    """sum_i weight_i values_i in fp32, shape (N,); components of weight 0 are not read."""
    total_N = torch.empty(values_CN.shape[1], dtype=torch.float32, device=values_CN.device)
    for start in range(0, total_N.numel(), _CHUNK):
        chunk = total_N[start : start + _CHUNK]
        (first, weight), *rest = active
        torch.mul(values_CN[first, start : start + _CHUNK].float(), weight, out=chunk)
        for index, weight in rest:
            chunk.add_(values_CN[index, start : start + _CHUNK], alpha=weight)
    return total_N
