"""The names that NeMo's connectors know tensors by: those of a live model with Transformer Engine, each layer's and
each expert's apart.

Checkpoints name them otherwise. Layers and experts are stacked, or have numbers, which Megatron's own options decide;
the halves of a gated MLP may be two tensors; and without Transformer Engine the norm before a mixture of experts is
saved under the name of a layer that is not there.
"""

import itertools
import re
from collections.abc import Collection, Mapping, Sequence

import torch

_STACKED = re.compile(r"^decoder\.layers\.(?!\d)")
_EXPERT = re.compile(r"\.experts\.experts\.(\d+\.)?(linear_fc[12]\.(?:weight|bias))(_[wv])?$")
_HALVES = ("_w", "_v")  # gate, up
_FUSED_NORM = ".mlp.linear_fc1.layer_norm_"


def connector_name(name: str, place: Sequence[int], stored: Collection[str]) -> tuple[str, int]:
    """Return the name of one layer's (and expert's) tensor, and how many axes before it are those of layers and
    experts.

    Args:
        name: Name of the stored tensor.
        place: Where on its first axes the layer, and the expert, is.
        stored: The names of all tensors beside it.
    """
    found, axes = name.removeprefix("module."), 0
    norm, _, kind = found.partition(_FUSED_NORM)
    if kind and not any(other.removeprefix("module.") == f"{norm}.mlp.linear_fc1.weight" for other in stored):
        found = f"{norm}.pre_mlp_layernorm.{kind}"
    if _STACKED.search(found):
        found = f"decoder.layers.{place[axes]}.{found.removeprefix('decoder.layers.')}"
        axes += 1
    if expert := _EXPERT.search(found):
        number = expert[1].removesuffix(".") if expert[1] else str(place[axes])
        axes += expert[1] is None
        found = f"{found[: expert.start()]}.experts.{expert[2]}{number}{expert[3] or ''}"
    return found, axes


def unstacked(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a checkpoint's tensors by the connectors' names, each of one layer's (and expert's) shape.

    They are views, but where the halves of a gated MLP are joined.
    """
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        axes = connector_name(name, (0, 0), tensors)[1]
        for place in itertools.product(*map(range, tensor.shape[:axes])):
            found[connector_name(name, place, tensors)[0]] = tensor[place]
    gate, up = _HALVES
    for name in [name for name in found if name.endswith(gate) and name.removesuffix(gate) + up in found]:
        whole = name.removesuffix(gate)
        found[whole] = torch.cat([found.pop(whole + half) for half in _HALVES])
    return found
