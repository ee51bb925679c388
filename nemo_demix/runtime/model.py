"""A live model of the run's recipe, sharded over the run's ranks, without optimizer; for merging into and scoring."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import DemixConfig
from nemo_demix.errors import CheckpointError
from nemo_demix.runtime.backend import backend_of

_VOCABULARY = ("word_embeddings.weight", "output_layer.weight")


@dataclass(frozen=True)
class Shard:
    """One tensor of the checkpoint as this rank holds it."""

    name: str  # the checkpoint's name
    view: torch.Tensor  # a view into a live parameter: writing here changes the model
    offsets: tuple[int, ...]  # of the view in the global tensor
    sizes: tuple[int, ...]  # of the view, with the global tensor's number of axes
    global_sizes: tuple[int, ...]  # of the global tensor

    def check(self, found: tuple[int, ...], checkpoint: Path) -> None:
        """Refuse a checkpoint whose tensor of this name is of another shape: a larger one would give a corner of it.

        Raises:
            CheckpointError: if it is.
        """
        if found == self.global_sizes:
            return
        if self.name.endswith(_VOCABULARY) and found[1:] == self.global_sizes[1:]:
            raise CheckpointError(
                f"{checkpoint}: its vocabulary has {found[0]} rows, this run's tokenizer makes {self.global_sizes[0]}: "
                "it was trained with another tokenizer; set tokenizer.* to that one, and prepare again"
            )
        raise CheckpointError(
            f"{checkpoint}: {self.name} has shape {found}, the recipe's model {self.global_sizes}; it is of another "
            "architecture"
        )


def build_model(config: DemixConfig, manifest: DataManifest) -> torch.nn.Module:
    """Return this rank's part of the model, in evaluation mode, with weights not yet set.

    Collective: every rank.
    Memory: one shard of the model.
    """
    return backend_of(config).build_model(config, manifest)


def shards(model: torch.nn.Module) -> Iterator[Shard]:
    """Yield what of each checkpoint tensor this rank holds, with views into the live parameters.

    Megatron's own sharded state dict says it, so any layout it can save is covered: fused gate and up halves come as
    two shards, stacked layers as slices of one tensor, tied embeddings once for every copy.
    """
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories

    state = model.sharded_state_dict(prefix="module.")  # type: ignore[operator]
    apply_factories(state)
    for item in nested_values(state):
        if not isinstance(item, ShardedTensor) or item.data is None:
            continue
        assert item.flattened_range is None, f"{item.key}: flattened shards belong to optimizer state only"
        sizes = (1,) * item.prepend_axis_num + tuple(item.local_shape)
        yield Shard(item.key, item.data.detach(), tuple(item.global_offset), sizes, tuple(item.global_shape))


def load_checkpoint(model: torch.nn.Module, checkpoint: Path) -> None:
    """Fill the live model from a checkpoint saved at any parallel layout.

    Raises:
        CheckpointError: if it is of another architecture, or damaged.
    """
    from nemo_demix.checkpoints.reader import CheckpointReader, stored_name

    reader = CheckpointReader(checkpoint)
    for shard in shards(model):
        if (entry := reader.tensors.get(stored_name(shard.name, reader.tensors))) is not None:
            shard.check(tuple(entry.shape), checkpoint)
        reader.read_slice(shard.name, shard.offsets, shard.sizes, shard.view.view(shard.sizes))
