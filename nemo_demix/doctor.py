"""What is installed here, what a recipe would use of it, and what it lacks: `nemo-demix doctor`.

Three steps: `machine.collect` looks at the machine, `judge` holds the recipe against what was found, `render` prints
both. What is wrong on every machine is told before, by `nemo_demix/check`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nemo_demix.config import DemixConfig
from nemo_demix.machine import Machine, collect
from nemo_demix.memory_check import judge_memory
from nemo_demix.runtime.ranks import world_size
from nemo_demix.sandbox import available_isolation


@dataclass(frozen=True)
class Verdict:
    """What a run would use, and what stands in its way."""

    used: dict[str, str]
    problems: tuple[str, ...]  # the recipe cannot run here
    warnings: tuple[str, ...]


def doctor(config: DemixConfig, search_config: DemixConfig | None = None) -> int:
    """Print what is here, what this recipe would use and what it lacks.

    Args:
        search_config: The configuration that the search's jobs have, where it is another.
    Returns:
        The exit code: 0, or 1 where the recipe cannot run here.
    """
    machine = collect(config.run_dir, config.backend)
    verdict = judge(config, machine)
    if not machine.stack_problems:  # the back end can be asked for the model
        gpu_gib = min((gpu.memory_gib for gpu in machine.gpus), default=None)
        memory = judge_memory(config, search_config or config, gpu_gib, machine.memory_gib)
        more = [problem for problem in memory.problems if problem not in verdict.problems]
        verdict = Verdict(verdict.used | memory.used, (*verdict.problems, *more), (*verdict.warnings, *memory.warnings))
    render(config, machine, verdict, Console())
    return 1 if verdict.problems else 0


def judge(config: DemixConfig, machine: Machine) -> Verdict:
    """Hold a recipe that `nemo-demix check` finds nothing wrong with against a machine."""
    problems, warnings = list(machine.stack_problems), []
    has_te = machine.transformer_engine is not None and machine.transformer_engine_fault is None
    used = {
        "back end": config.backend,
        "device": f"{len(machine.gpus)} x {machine.gpus[0].name}" if machine.gpus else "CPU",
        "process groups": "nccl" if machine.gpus else "gloo",
        "layer spec": "Transformer Engine" if has_te else "local (megatron-core's own layers)",
        "optimizer": "fused Adam" if machine.gpus and (has_te or machine.apex == "nvidia") else "torch AdamW",
        "precision": config.train.precision,
    }
    if machine.python_warning:
        warnings.append(machine.python_warning)
    if machine.transformer_engine_fault:
        warnings.append(f"Transformer Engine is installed but does not import: {machine.transformer_engine_fault}")
    if machine.torch is None:
        return Verdict(used, tuple(problems), tuple(warnings))
    ranks = world_size(config.parallel)
    per_node = ranks // config.parallel.nodes
    used["ranks"] = (
        f"{ranks} = tensor {config.parallel.tensor} x pipeline {config.parallel.pipeline} x "
        f"data {config.parallel.data}; {per_node} a node on {config.parallel.nodes} node(s)"
        + (f"; experts over {config.parallel.expert} of them" if config.parallel.expert > 1 else "")
    )
    used["started by"] = "srun" if machine.slurm_job else "the command itself, on this machine"
    if config.suite.allow_code_execution:
        used["programs of models"] = available_isolation().describe()
    problems += list(_node_problems(config, machine))
    if machine.gpus:
        problems += list(_gpu_problems(config, machine, per_node, has_te))
        if config.parallel.sequence and config.parallel.tensor == 1:
            warnings.append("parallel.sequence=true does nothing at parallel.tensor=1")
    else:
        problems += list(_cpu_problems(config, machine))
        if per_node > machine.num_cores:
            warnings.append(f"{per_node} ranks share {machine.num_cores} core(s): it runs, each rank slower")
    if machine.disk_free_gib < 5:
        warnings.append(f"{machine.disk_path}: {machine.disk_free_gib:.1f} GiB free; a run keeps several checkpoints")
    return Verdict(used, tuple(problems), tuple(warnings))


def _node_problems(config: DemixConfig, machine: Machine) -> Iterator[str]:
    nodes = config.parallel.nodes
    if machine.slurm_job and machine.slurm_nodes and machine.slurm_nodes != nodes:
        yield (
            f"parallel.nodes={nodes}, but Slurm job {machine.slurm_job} has {machine.slurm_nodes}: "
            "set parallel.nodes, or ask sbatch for as many"
        )
    if nodes > 1 and not machine.slurm_job:
        where = "submit slurm/run.sbatch, and run the doctor inside an allocation" if machine.slurm else "use a cluster"
        yield f"parallel.nodes={nodes}, but this is one machine outside a Slurm job: {where}, or set parallel.nodes=1"


def _gpu_problems(config: DemixConfig, machine: Machine, per_node: int, has_te: bool) -> Iterator[str]:
    if per_node > len(machine.gpus):
        yield (
            f"parallel asks for {per_node} ranks a node, but there are {len(machine.gpus)} GPU(s): "
            "lower parallel.tensor, pipeline or data, or raise nodes"
        )
    if not machine.has_nccl:
        yield "this torch has no NCCL: install a CUDA build of torch"
    if config.parallel.sequence and not has_te:
        yield "parallel.sequence=true needs Transformer Engine: install it, or set parallel.sequence=false"
    if _asks_for_fp8(config):
        if not has_te:
            yield "fp8 needs Transformer Engine: install it, or take fp8 out of model.overrides"
        if not all(gpu.has_fp8 for gpu in machine.gpus):
            yield f"fp8 needs compute capability 8.9 or later; {machine.gpus[0].name} has less"


def _cpu_problems(config: DemixConfig, machine: Machine) -> Iterator[str]:
    hint = "; a login node? run the doctor inside an allocation" if machine.slurm and not machine.slurm_job else ""
    if config.train.precision != "32":
        yield f"train.precision={config.train.precision} needs a GPU: set train.precision=32{hint}"
    if config.parallel.sequence:
        yield f"parallel.sequence=true needs a GPU and Transformer Engine: set parallel.sequence=false{hint}"
    if _asks_for_fp8(config):
        yield f"fp8 needs a GPU and Transformer Engine: take it out of model.overrides{hint}"
    if machine.torch is not None and not machine.has_gloo:
        yield "this torch has no gloo: install a build of torch with torch.distributed"


def _asks_for_fp8(config: DemixConfig) -> bool:
    def found(value: Any) -> bool:
        if isinstance(value, dict):
            return any((key in ("fp8", "fp8_param") and bool(item)) or found(item) for key, item in value.items())
        return False

    return found(config.model.overrides) or found(config.model.recipe_args)


def render(config: DemixConfig, machine: Machine, verdict: Verdict, console: Console) -> None:
    """Print the findings, what would be used and what is missing."""
    here = Table(title="What is here", title_justify="left", show_header=False)
    for name, value in _findings(machine).items():
        here.add_row(name, escape(value))
    console.print(here)
    used = Table(title=f"What {config.name} will use", title_justify="left", show_header=False)
    for name, value in verdict.used.items():
        used.add_row(name, escape(value))
    console.print(used)
    for line in verdict.warnings:
        console.print(f"warning: {line}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    for line in verdict.problems:
        console.print(f"missing: {line}", style="red", markup=False, highlight=False, soft_wrap=True)
    if not verdict.problems:
        console.print(f"Nothing is missing: {config.name} can run here.", style="green", highlight=False)


def _findings(machine: Machine) -> dict[str, str]:
    apex = {"nvidia": "NVIDIA's", "impostor": "an unrelated package of that name", None: "absent (optional)"}
    te = machine.transformer_engine or "absent (needed for sequence parallelism and fp8)"
    findings = {
        "Python": machine.python,
        "torch": f"{machine.torch} ({machine.torch_build})" if machine.torch else "absent",
        "GPUs": ", ".join(f"{gpu.name} {gpu.memory_gib:.0f} GiB" for gpu in machine.gpus) or "none",
        "process groups": ", ".join(
            f"{name} {'yes' if there else 'no'}"
            for name, there in (("nccl", machine.has_nccl), ("gloo", machine.has_gloo))
        ),
        "Transformer Engine": f"{te} (does not import)" if machine.transformer_engine_fault else te,
        "apex": apex[machine.apex],
    }
    findings["back ends that fit"] = ", ".join(machine.backends) or "none: see docs/bridge.md"
    findings |= {name: version or "absent" for name, version in (machine.packages | machine.data_packages).items()}
    job = f", job {machine.slurm_job}" if machine.slurm_job else ""
    return findings | {
        "Slurm": (machine.slurm or "sbatch, srun, squeue not on PATH") + job,
        "cores, memory": f"{machine.num_cores}, {machine.memory_gib:.1f} GiB",
        "free disk": f"{machine.disk_free_gib:.1f} GiB at {machine.disk_path}",
    }
