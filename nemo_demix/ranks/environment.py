"""A rank's process: the settings that libraries read when they are loaded, and what a fork has to have of its own."""

import gc
import os
import sys

from nemo_demix.stack import has_gpu_driver
from nemo_demix.uncompiled import uncompiled

OFF = "NEMO_DEMIX_FORK"  # 0: no rank is forked
TEMPORARIES = "NEMO_DEMIX_TEMPORARIES"  # where imports may leave files; the agent removes it
# What Slurm says about the agents' own step; libraries in a rank would take themselves for srun's tasks.
STEP_VARIABLES = ("SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NTASKS_PER_NODE", "SLURM_PROCID", "SLURM_LOCALID")
_DEFAULTS = {
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",  # as torchrun does; a pool of threads would not survive a fork
    "OPENBLAS_NUM_THREADS": "1",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asking whether there is a GPU then leaves CUDA to the forks
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # pyarrow's allocator
}


def load_torch() -> None:
    """Import torch and nothing else of size, with the settings of a rank; what the user has set wins."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    import torch

    if torch.cuda.is_available():
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")  # Megatron's overlap of communication needs the order
    else:
        os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")  # megatron-core's fused helpers would each be compiled
    if os.environ.get("TORCH_COMPILE_DISABLE") == "1":
        torch.compile = uncompiled  # type: ignore[assignment]


def why_not_forkable() -> str | None:
    """Return what this process has that a fork of it could not use; None where there is nothing."""
    import torch

    tasks = os.listdir("/proc/self/task")
    if len(tasks) > 1:
        names = []
        for task in tasks:
            with open(f"/proc/self/task/{task}/comm", encoding="utf-8") as file:
                names.append(file.read().strip())
        return f"libraries have started threads ({', '.join(names)})"
    if torch.cuda.is_initialized():
        return "a library has initialised CUDA"
    return None


def why_not_a_fork() -> str | None:
    """Return what this fork cannot use because its parent has touched it unnoticed; None where there is nothing."""
    import torch

    if not has_gpu_driver():  # builds of torch for CUDA count devices all the same
        return None
    return "a library has asked CUDA for its devices" if torch.cuda._is_in_bad_fork() else None


def renew_after_fork(rank: int, local_rank: int) -> None:
    """Give a forked rank what it would have if it had imported everything itself: all forks share it otherwise.

    Python's own random state renews itself; torch's begins anew with the seed that the imports left.
    """
    import numpy as np
    import torch

    np.random.seed()  # noqa: NPY002  # the global generator, which libraries use
    torch.default_generator.manual_seed(torch.default_generator.initial_seed())
    # Both read the environment when they were imported, with NeMo, and no rank was known.
    if "lightning_utilities" in sys.modules:
        from lightning_utilities.core.rank_zero import rank_zero_only
        from torchmetrics.utilities.prints import rank_zero_only as torchmetrics_rank_zero_only

        rank_zero_only.rank = rank  # type: ignore[attr-defined]
        torchmetrics_rank_zero_only.rank = local_rank  # type: ignore[attr-defined]
    gc.enable()
