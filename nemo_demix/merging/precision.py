"""Which tensors are averaged: weights in fp32, bf16 or fp16; neither what was quantised nor what scales it.

A mean of codes is not the code of a mean, and a scale belongs to the weights that it was worked out for. Megatron's own
checkpoints of FP8 and NVFP4 training hold weights of full precision: it converts those that it keeps in FP8 when it
saves. What scales them lies in `_extra_state`, a byte object, which no merge averages.

Source: megatron.core.dist_checkpointing.utils (force_all_tensors_to_non_fp8); Transformer Engine's and Model
Optimizer's names of tensors.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import torch

from nemo_demix.checkpoints.metadata import Stored
from nemo_demix.errors import CheckpointError

AVERAGED = (torch.float32, torch.bfloat16, torch.float16)
_CODES = ("int8", "uint8")  # as which packed weights are stored
_WEIGHT = re.compile(r"(weight|bias)_?\d*$|_(rowwise|columnwise)_data$")
_SCALE = re.compile(
    r"(_scale_inv|_amax|[._]weight_scale(_2)?|[._]input_scale|[._](weight|input|output)_quantizer[._]\w+)$"
)
_REMEDY = (
    "quantised weights and their scales are not averaged: merge the fp32, bf16 or fp16 weights that they were made "
    "from, which a Megatron checkpoint of FP8 or NVFP4 training holds, and quantise the result"
)


def check_precision(path: Path, stored: Stored) -> None:
    """Refuse a checkpoint with tensors that no sum is defined for.

    Raises:
        CheckpointError: naming the first of them.
    """
    for name, entry in stored.tensors.items():
        kind = str(entry.dtype_name)
        if kind.startswith(("float8", "float4")) or (kind in _CODES and _WEIGHT.search(name)):
            raise CheckpointError(f"{path}: {name} is {kind}; {_REMEDY}")
        if _SCALE.search(name):
            raise CheckpointError(f"{path}: {name} ({kind}) scales quantised weights; {_REMEDY}")
        if entry.dtype.is_floating_point and entry.dtype not in AVERAGED:
            raise CheckpointError(
                f"{path}: {name} is {entry.dtype}, which is not averaged; save fp32, bf16 or fp16 weights"
            )


def objects_differ(name: str, one: str, other: str) -> CheckpointError:
    """Return the refusal of byte objects that components do not agree in."""
    what = "the scales of FP8 and their history differ" if "_extra_state" in name else "it differs"
    return CheckpointError(
        f"{name}: {what} between {one} and {other}; such state is not averaged: name the component to take it from, "
        "merge.objects_from=" + (", and let Transformer Engine find new scales" if "_extra_state" in name else "")
    )


def rounded_to_fp8(names: Iterable[str]) -> str:
    """Return what is said of components whose weights were kept in FP8 while they were trained."""
    return (
        f"{', '.join(names)}: the weights were kept in FP8 while they were trained (fp8_param), so that the saved ones "
        "are rounded to it; their masters are in the optimizer's state, which a merge leaves out. Train components "
        "with fp8_param_gather=false: weights then stay in bf16, and multiplications are in FP8"
    )
