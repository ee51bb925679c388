"""A live model's tensors as a conversion gives them: whole, each layer's and each expert's apart."""

from typing import Any

import torch

from nemo_demix.runtime.connector_names import connector_name
from nemo_demix.runtime.model import Shard, shards


class AsSaved(torch.nn.Module):
    """The tensors of a live model under the names they are saved by, as NeMo's importers expect them.

    Without Transformer Engine the live names differ. The parameters start without storage; NeMo's conversion replaces
    each and asserts that none was left out.
    """

    def __init__(self, live: torch.nn.Module, config: Any) -> None:
        super().__init__()
        self.config = config
        self._shards: dict[str, list[tuple[Shard, tuple[slice, ...]]]] = {}
        sizes: dict[str, tuple[torch.dtype, list[int]]] = {}
        found = list(shards(live))
        stored = {shard.name for shard in found}
        for shard in found:
            name, axes = connector_name(shard.name, shard.offsets, stored)
            pairs = zip(shard.offsets[axes:], shard.sizes[axes:], strict=True)
            box = tuple(slice(offset, offset + size) for offset, size in pairs)
            self._shards.setdefault(name, []).append((shard, box))
            _, ends = sizes.setdefault(name, (shard.view.dtype, [0] * len(box)))
            ends[:] = [max(end, piece.stop) for end, piece in zip(ends, box, strict=True)]
        for name, (dtype, ends) in sizes.items():
            *parents, last = name.split(".")
            module: torch.nn.Module = self
            for parent in parents:
                if not hasattr(module, parent):
                    module.add_module(parent, torch.nn.Module())
                module = getattr(module, parent)
            empty = torch.empty(ends, dtype=dtype, device="meta")
            module.register_parameter(last, torch.nn.Parameter(empty, requires_grad=False))

    def write(self) -> None:
        """Copy every tensor into the live model."""
        for name, parameter in self.named_parameters():
            self.fill(name, parameter.data)

    def fill(self, name: str, tensor: torch.Tensor) -> None:
        """Copy one tensor into the live model."""
        for shard, box in self._shards[name]:
            shard.view.copy_(tensor[box].view(shard.view.shape))
