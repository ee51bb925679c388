"""The second moments that Adam kept of each component's gradients, where its checkpoint holds the optimizer's state.

Megatron saves them a parameter at a time, under the parameter's name, unless its distributed optimizer saves its flat
buffers, see `weight_of_moments`.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from nemo_demix.checkpoints.layouts import Layout
from nemo_demix.checkpoints.metadata import Stored, TensorEntry, dtype_name, weight_of_moments
from nemo_demix.errors import CheckpointError
from nemo_demix.merging.precision import AVERAGED

if TYPE_CHECKING:
    from nemo_demix.merging.sources import Source

logger = logging.getLogger(__name__)
_BUFFERS = ".exp_avg_sq"  # how a buffer's name ends
_REMEDY = (
    "train the components with components.save_optimizer=true, bring checkpoints that hold it (NeMo's "
    "ckpt_optim_fully_reshardable=true, Megatron-Bridge's dist_ckpt_optim_fully_reshardable=true), or merge with linear"
)


@dataclass(frozen=True)
class Moments:
    """Second moments of one component, by the names of its weights."""

    name: str
    path: Path
    layout: Layout
    tensors: Mapping[str, TensorEntry]

    def of(self, name: str, weight: TensorEntry) -> TensorEntry:
        """Return the second moments of a weight: without chunks where it was not trained."""
        return self.tensors.get(name) or TensorEntry(weight.shape, dtype_name(torch.float32), ())


def moments_in(stored: Stored) -> dict[str, TensorEntry]:
    """Return the second moments that a checkpoint holds, by the names of its weights."""
    named = ((weight_of_moments(name), entry) for name, entry in stored.tensors.items())
    return {weight: entry for weight, entry in named if weight in stored.tensors}


def second_moments(components: Sequence["Source"]) -> tuple[Moments, ...]:
    """Return the second moments of components that were opened with them.

    Raises:
        CheckpointError: if one has none, or not those that another has; or their shape or type is not the weight's.
    """
    found = tuple(_of(component) for component in components)
    first = found[0]
    dtype = next(iter(first.tensors.values())).dtype
    for component, moments in zip(components, found, strict=True):
        for name in sorted(set(first.tensors) ^ set(moments.tensors)):
            has = first if name in first.tensors else moments
            raise CheckpointError(
                f"{first.path} and {moments.path}: only {has.path} has second moments of {name}; {_REMEDY}"
            )
        for name, entry in moments.tensors.items():
            weight = component.stored.tensors[name]
            if entry.shape != weight.shape or entry.dtype != dtype or dtype not in AVERAGED:
                expected = dtype if dtype in AVERAGED else "fp32, bf16 or fp16"
                raise CheckpointError(
                    f"{component.path}: the second moments of {name} are {entry.dtype} of shape {entry.shape}, "
                    f"expected {expected} of shape {weight.shape}; {_REMEDY}"
                )
    weights = components[0].stored.tensors
    without = sorted(name for name in set(weights) - set(first.tensors) if weights[name].dtype.is_floating_point)
    if without:
        logger.warning("no second moments of %d tensors (%s, ...): averaged as linear does", len(without), without[0])
    return found


def _of(component: "Source") -> Moments:
    if not component.moments:
        buffers = any(name.endswith(_BUFFERS) for name in component.left_out)
        what = "only those of a distributed optimizer's flat buffers" if buffers else "none"
        raise CheckpointError(
            f"{component.path}: merge.method=fisher weighs elements by the second moments of the optimizer, and this "
            f"checkpoint holds {what}; {_REMEDY}"
        )
    return Moments(f"{component.name}: second moments", component.path, component.layout, component.moments)
