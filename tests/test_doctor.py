"""The doctor's verdicts: machines are described as records, files are real, and this machine is looked at for real."""

import dataclasses
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nemo_demix.config import (
    BaseConfig,
    ComponentsConfig,
    DatasetConfig,
    DemixConfig,
    FinalConfig,
    ModelConfig,
    ParallelConfig,
    ReferenceConfig,
    SourceConfig,
    TokenizerConfig,
    TrainConfig,
)
from nemo_demix.doctor import doctor, judge, render
from nemo_demix.machine import DATA_PACKAGES, Gpu, Machine, collect

CPU = Machine(
    python="3.11.7",
    torch="2.13.0+cpu",
    torch_build="CPU",
    gpus=(),
    has_nccl=False,
    has_gloo=True,
    transformer_engine=None,
    transformer_engine_fault=None,
    apex=None,
    packages={"nemo_toolkit": "2.7.3"},
    data_packages=dict.fromkeys(DATA_PACKAGES, "1.0"),
    stack_problems=(),
    backends=("nemo",),
    python_warning=None,
    slurm=None,
    slurm_job=None,
    slurm_nodes=None,
    num_cores=2,
    memory_gib=8.0,
    disk_path="/",
    disk_free_gib=100.0,
)
H100 = Gpu("NVIDIA H100 80GB HBM3", 79.6, has_fp8=True)
A100 = Gpu("NVIDIA A100-SXM4-80GB", 79.1, has_fp8=False)
GPU = dataclasses.replace(
    CPU, torch_build="CUDA 13.0", gpus=(H100,) * 8, has_nccl=True, transformer_engine="2.9.0", num_cores=112
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def config_with(tmp_path: Path, **changes: Any) -> DemixConfig:
    """A recipe that runs anywhere, with `section=value` changed."""
    (tmp_path / "text.txt").write_text("text")
    config = DemixConfig(
        name="try",
        runs_dir=str(tmp_path / "runs"),
        datasets={"general": DatasetConfig("general", [SourceConfig(path=str(tmp_path / "*.txt"))])},
        tokenizer=TokenizerConfig("train_bpe", vocab_size=512),
        model=ModelConfig("nemo.collections.llm.recipes.qwen3_1p7b.pretrain_recipe"),
        train=TrainConfig(global_batch_size=8, micro_batch_size=4, seq_length=128, precision="32"),
        base=BaseConfig(1000, 1e-3),
        components=ComponentsConfig(1000, 1e-3),
        final=FinalConfig(1000, 1e-3),
        reference=ReferenceConfig(0, 0.0, name=""),
    )
    return dataclasses.replace(config, **changes)


def only_problem(config: DemixConfig, machine: Machine) -> str:
    problems = judge(config, machine).problems
    assert len(problems) == 1, problems
    return problems[0]


def train_with(**changes: Any) -> TrainConfig:
    values: dict[str, Any] = {"global_batch_size": 8, "micro_batch_size": 1, "seq_length": 128, "precision": "32"}
    return TrainConfig(**(values | changes))


def test_a_cpu_recipe_runs_on_a_cpu_with_gloo_and_local_layers(tmp_path: Path) -> None:
    verdict = judge(config_with(tmp_path, parallel=ParallelConfig(tensor=2)), CPU)
    assert verdict.problems == ()
    assert verdict.warnings == ()
    assert verdict.used["process groups"] == "gloo"
    assert verdict.used["layer spec"].startswith("local")
    assert verdict.used["ranks"].startswith("2 = tensor 2")


def test_more_gloo_ranks_than_cores_run_with_a_warning(tmp_path: Path) -> None:
    verdict = judge(config_with(tmp_path, parallel=ParallelConfig(tensor=2, data=2)), CPU)
    assert verdict.problems == ()
    assert verdict.warnings == ("4 ranks share 2 core(s): it runs, each rank slower",)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"train": train_with(precision="bf16-mixed")}, "train.precision=bf16-mixed needs a GPU"),
        ({"parallel": ParallelConfig(tensor=2, sequence=True)}, "parallel.sequence=true needs a GPU"),
        ({"model": ModelConfig("a.b", overrides={"trainer": {"plugins": {"fp8": "hybrid"}}})}, "fp8 needs a GPU"),
    ],
)
def test_what_a_cpu_cannot_do_is_named_by_its_key(tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    config = config_with(tmp_path, **changes)
    assert only_problem(config, CPU).startswith(key)
    assert judge(config, GPU).problems == ()


def test_a_login_node_is_told_to_look_from_inside_an_allocation(tmp_path: Path) -> None:
    config = config_with(tmp_path, train=train_with(precision="bf16-mixed"))
    login = dataclasses.replace(CPU, slurm="slurm 24.05.2")
    assert "inside an allocation" in only_problem(config, login)


def test_a_gpu_machine_uses_nccl_and_transformer_engine(tmp_path: Path) -> None:
    verdict = judge(config_with(tmp_path, parallel=ParallelConfig(data=8), train=train_with()), GPU)
    assert verdict.problems == ()
    assert verdict.used["device"] == "8 x NVIDIA H100 80GB HBM3"
    assert (verdict.used["process groups"], verdict.used["layer spec"]) == ("nccl", "Transformer Engine")


def test_more_ranks_than_gpus_cannot_run(tmp_path: Path) -> None:
    config = config_with(tmp_path, parallel=ParallelConfig(tensor=2, data=8), train=train_with())
    assert "16 ranks a node, but there are 8 GPU(s)" in only_problem(config, GPU)


def test_sequence_parallel_and_fp8_need_a_transformer_engine_that_imports(tmp_path: Path) -> None:
    broken = dataclasses.replace(GPU, transformer_engine_fault="OSError: libcudnn.so.9: cannot open")
    config = config_with(tmp_path, parallel=ParallelConfig(tensor=2, sequence=True))
    verdict = judge(config, broken)
    assert "needs Transformer Engine" in verdict.problems[0]
    assert "libcudnn" in verdict.warnings[0]
    assert verdict.used["layer spec"].startswith("local")


def test_fp8_is_refused_on_a_gpu_without_it(tmp_path: Path) -> None:
    config = config_with(tmp_path, model=ModelConfig("a.b", overrides={"trainer": {"plugins": {"fp8": "hybrid"}}}))
    assert "8.9 or later" in only_problem(config, dataclasses.replace(GPU, gpus=(A100,) * 8))


def test_several_nodes_need_a_slurm_job_of_that_size(tmp_path: Path) -> None:
    config = config_with(tmp_path, parallel=ParallelConfig(data=8, nodes=2), train=train_with())
    assert "outside a Slurm job" in only_problem(config, GPU)
    job = dataclasses.replace(GPU, slurm="slurm 24.05.2", slurm_job="17", slurm_nodes=2)
    assert judge(config, job).problems == ()
    assert judge(config, job).used["started by"] == "srun"
    assert "Slurm job 17 has 4" in only_problem(config, dataclasses.replace(job, slurm_nodes=4))


def test_the_rendered_page_shows_what_is_here_used_and_missing(tmp_path: Path) -> None:
    config = config_with(tmp_path, train=train_with(precision="bf16-mixed"))
    machine = dataclasses.replace(CPU, apex="impostor", stack_problems=("apex is not NVIDIA's: pip uninstall apex",))
    page = io.StringIO()
    render(config, machine, judge(config, machine), Console(file=page, width=200))
    for expected in ("2.13.0+cpu (CPU)", "an unrelated package of that name", "gloo", "missing: apex is not NVIDIA's"):
        assert expected in page.getvalue()
    assert "missing: train.precision=bf16-mixed" in page.getvalue()


def test_this_machine_is_described_as_it_is(tmp_path: Path) -> None:
    machine = collect(tmp_path / "runs" / "not" / "yet")
    import torch

    assert machine.torch == torch.__version__
    assert len(machine.gpus) == torch.cuda.device_count()
    assert machine.disk_path == str(tmp_path)
    assert machine.disk_free_gib > 0
    assert machine.packages["megatron-core"].startswith("0.15")


def test_the_back_end_that_fits_is_named_where_the_recipe_asks_for_another(tmp_path: Path) -> None:
    config = config_with(tmp_path, backend="bridge")
    machine = collect(tmp_path, "bridge")
    assert machine.backends == ("nemo",)
    problem = judge(config, machine).problems[0]
    assert problem.startswith("megatron-bridge is not installed")
    assert judge(config, machine).problems[-1].endswith("what is installed here fits backend=nemo")
    page = io.StringIO()
    render(config, machine, judge(config, machine), Console(file=page, width=200))
    assert re.search(r"back ends that fit *│ nemo", page.getvalue())


def test_the_exit_code_says_whether_the_recipe_can_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(config_with(tmp_path)) == 0
    assert "can run here" in capsys.readouterr().out
    assert doctor(config_with(tmp_path, parallel=ParallelConfig(data=2, nodes=2), train=train_with())) == 1
    assert "outside a Slurm job" in capsys.readouterr().out


def test_the_doctor_works_where_torch_is_absent(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"  # how Python itself marks a module that cannot be imported
        "from pathlib import Path; from nemo_demix.doctor import judge\n"
        "from nemo_demix.machine import collect\n"
        "from nemo_demix.config import DemixConfig, ParallelConfig, TrainConfig\n"
        "machine = collect(Path('.')); assert machine.torch is None\n"
        "verdict = judge(DemixConfig(train=TrainConfig(1, 1, 1)), machine)\n"
        "print(verdict.problems[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("torch ")
    assert "pip install torch" in done.stdout
