"""How many merged bf16 values are the correctly rounded weighted sum of the components' values."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from nemo_demix.checkpoints.reader import CheckpointReader

_CHUNK = 1 << 17  # elements: float64 sums stay in the cache
_DROPPED = 52 - 7  # mantissa bits of float64 less those of bf16
_SMALLEST_NORMAL = 2.0**-126
_SUBNORMAL_STEP = 2.0**-133

Tensors = Callable[[str], torch.Tensor]


def round_to_bf16(values: torch.Tensor) -> torch.Tensor:
    """float64 rounded once, to nearest even, to what bf16 can hold; the result is float64.

    torch's own conversion goes through float32 and so rounds twice, which is wrong for sums just beside a tie.
    """
    bits = values.view(torch.int64)
    odd = (bits >> _DROPPED) & 1
    rounded = (((bits + (1 << (_DROPPED - 1)) - 1 + odd) >> _DROPPED) << _DROPPED).view(torch.float64)
    small = values.abs() < _SMALLEST_NORMAL
    return torch.where(small, (values / _SUBNORMAL_STEP).round() * _SUBNORMAL_STEP, rounded)


def correctly_rounded(
    merged: Tensors, components: dict[str, Tensors], names: Iterator[str], weights: dict[str, float]
) -> dict[str, Any]:
    """Compare every element of every tensor; sums are float64, over the weights as they are in the file.

    Returns:
        num_elements, num_correct and share.
    """
    num_elements = num_correct = 0
    for name in names:
        result = merged(name).flatten()
        parts = {component: read(name).flatten() for component, read in components.items()}
        if result.dtype != torch.bfloat16:
            raise RuntimeError(f"{name}: expected bf16, found {result.dtype}")
        for start in range(0, result.numel(), _CHUNK):
            piece = slice(start, start + _CHUNK)
            exact = torch.zeros(result[piece].numel(), dtype=torch.float64)
            for component, weight in weights.items():
                exact.add_(parts[component][piece].double(), alpha=weight)
            num_correct += int((result[piece].double() == round_to_bf16(exact)).sum())
        num_elements += result.numel()
    return {"num_elements": num_elements, "num_correct": num_correct, "share": num_correct / num_elements}


def megatron_tensors(checkpoint: Path) -> tuple[Tensors, list[str]]:
    """How to read a tensor of a Megatron checkpoint, and which there are."""
    reader = CheckpointReader(checkpoint)
    return reader.read_tensor, list(reader)


def hugging_face_tensors(folder: Path) -> tuple[Tensors, list[str]]:
    """How to read a tensor of a folder of safetensors, and which there are."""
    from safetensors import safe_open

    files = [safe_open(path, "pt") for path in sorted(folder.glob("*.safetensors"))]
    where = {name: file for file in files for name in file.keys()}  # noqa: SIM118  (it is no dict)
    return lambda name: where[name].get_tensor(name), sorted(where)
