"""The one slow thing: a whole run of the smoke recipe, trained once for the session."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.helpers import merge_checkpoints, other, run_fresh, run_program

# No test here is about time, and the machines that run them may be busy.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`runs/smoke`, finished. Tests must not change it: `fork_run` makes a copy."""
    runs = tmp_path_factory.mktemp("runs")
    run_fresh("run", "--config-name", "smoke", f"runs_dir={runs}", timeout=580)
    return runs / "smoke"


@pytest.fixture(scope="session")
def layouts(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The smoke run's base model, trained at tensor 2, saved by megatron-core at pipeline 2 in every layout, by kind.

    `megatron_lm` is in bf16 and has optimizer state; `release` is Megatron-LM's layout too. Beside each stands the
    component code_1, saved in the same way: `other` finds it. Tests must not change them.
    """
    folder = tmp_path_factory.mktemp("layouts")
    kinds: dict[str, dict[str, object]] = {
        "nemo2": {"layout": "nemo2"},
        "megatron_lm": {"layout": "megatron_lm", "optimizer": True, "bf16": True},
        "release": {"layout": "megatron_lm", "release": True},
        "megatron_bridge": {"layout": "megatron_bridge"},
        "torch_dcp": {"layout": "torch_dcp"},
    }
    models = {"": "base/base/checkpoints/step_00000040", "_other": "component/code_1/checkpoints/step_00000016"}
    jobs = [
        {**job, "checkpoint": str(smoke_run / "models" / model), "output": str(folder / (name + suffix))}
        for name, job in kinds.items()
        for suffix, model in models.items()
    ]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    run_program("reshard", str(smoke_run), "1", "2", str(folder / "jobs.json"), ranks=2)
    return {name: folder / name for name in kinds}


@pytest.fixture(scope="session")
def merges(smoke_run: Path, layouts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A merge of 0.25 base and 0.75 code_1 in every layout; `mixed` is of two grids. Tests must not change them."""
    folder = tmp_path_factory.mktemp("merges")
    pairs = {name: (path, other(path)) for name, path in layouts.items()}
    code = smoke_run / "models/component/code_1/checkpoints/step_00000016"
    pairs["mixed"] = (layouts["nemo2"], code)  # one saved at pipeline 2, one at tensor 2
    for name, (one, two) in pairs.items():
        merge_checkpoints({"one": one, "two": two}, folder / name, {"mix": {"one": 0.25, "two": 0.75}})
    return {name: folder / name / "mix" for name in pairs}
