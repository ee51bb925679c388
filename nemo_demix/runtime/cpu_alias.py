"""Lets CUDA code of megatron-core and its frameworks run on a machine without CUDA, by treating `cuda` as `cpu`.

Installed only where CUDA is absent, and said so in the log. Nothing of NeMo or megatron-core is edited. Each piece was
switched off in turn and found necessary. It exists so that the whole pipeline can be tried and tested anywhere; what it
does not show are Transformer Engine and fused kernels, bf16, NCCL, sequence parallelism and asynchronous saves.

What Megatron-Bridge needs besides is in `runtime/bridge/stand_ins.py`.
"""

import contextlib
import logging
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

logger = logging.getLogger(__name__)
_CPU = torch.device("cpu")
_active: list[TorchFunctionMode] = []


def _is_cuda(device: Any) -> bool:
    return (isinstance(device, str) and device.startswith("cuda")) or (
        isinstance(device, torch.device) and device.type == "cuda"
    )


class _CudaAsCpu(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if kwargs:
            if _is_cuda(kwargs.get("device")):
                kwargs = {**kwargs, "device": _CPU}
            if kwargs.get("pin_memory"):
                kwargs = {**kwargs, "pin_memory": False}
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.Tensor.to and len(args) > 1 and _is_cuda(args[1]):
            args = (args[0], _CPU, *args[2:])
        if func is torch.Tensor.type and len(args) == 1 and not kwargs:
            # megatron-core's gradient buckets compare these names with "torch.cuda.FloatTensor" and its like.
            return func(*args).replace("torch.", "torch.cuda.", 1)
        return func(*args, **(kwargs or {}))


class _Stream:
    """A CUDA stream where there is none: whatever it is asked to do is done already."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


def alias_cuda() -> bool:
    """Alias CUDA to the CPU in this process, for as long as it lives; a second call does nothing.

    Returns:
        Whether this call did it.
    Raises:
        RuntimeError: where CUDA is present; there is nothing to stand in for.
    """
    if torch.cuda.is_available():
        raise RuntimeError("the CPU alias is for machines without CUDA")
    if _active:
        return False
    torch.cuda.current_device = lambda: _CPU  # type: ignore[assignment,return-value]
    torch.cuda.synchronize = lambda *args, **kwargs: None
    torch.cuda.Stream = _Stream  # type: ignore[assignment,misc]
    torch.cuda.stream = lambda stream: contextlib.nullcontext()  # type: ignore[assignment,return-value]
    mode = _CudaAsCpu()
    mode.__enter__()
    _active.append(mode)

    from megatron.core.tensor_parallel.random import initialize_rng_tracker

    # A tracker whose fork() does nothing; frameworks' own later calls then return early.
    initialize_rng_tracker(inference_rng_tracker=True)
    logger.info("no CUDA here: device 'cuda' stands for the CPU; Transformer Engine, NCCL and bf16 are not exercised")
    return True


def install() -> None:
    """Do what `alias_cuda` does, and what NeMo and its megatron-core need besides; a second call does nothing.

    Raises:
        RuntimeError: as `alias_cuda`.
    """
    if not alias_cuda():
        return
    import nemo.lightning.io.pl as nemo_checkpoint_io
    from megatron.core.transformer.moe import moe_utils

    # It asserts that torch.cuda is initialised, only to move tensors to the device they are on.
    nemo_checkpoint_io._fix_tensors_device = lambda checkpoint: checkpoint
    # The router of a mixture-of-experts model asks for this name, which is only imported with Transformer Engine.
    if not hasattr(moe_utils, "te_general_gemm"):
        moe_utils.te_general_gemm = None
