"""Live proxies against the components' own full tensors, and against the same merges on disk."""

import json
from pathlib import Path

import pytest
import torch

from nemo_demix.checkpoints.metadata import read_metadata
from nemo_demix.checkpoints.reader import CheckpointReader
from nemo_demix.merging.methods import METHODS
from tests.helpers import fork_run, merge_checkpoints, run_cli, run_program

MIXTURES = {
    "a": {"general": 0.2, "math_1": 0.5, "code_1": 0.3},
    "b": {"general": 0.9, "math_1": 0.1},
    "c": {"code_1": 1.0},
}
PAIR = {"a": {"general": 0.2, "math_1": 0.8}, "b": {"general": 0.9, "math_1": 0.1}}
PARAMETERS = {"ties": {"density": 0.3}, "sce": {"select_topk": 0.5}, "breadcrumbs": {"density": 0.5, "gamma": 0.1}}


@pytest.mark.parametrize(("tensor", "pipeline"), [(2, 1), (1, 2)])
def test_a_live_merge_is_exact_to_fp32_at_any_layout(smoke_run: Path, tensor: int, pipeline: int) -> None:
    found = run_program("live_merge", str(smoke_run), str(tensor), str(pipeline), ranks=tensor * pipeline)
    assert found["num_shards"] >= found["num_parameters"]
    assert found["one_hot_mismatches"] == 0
    assert found["held"] == found["counted"]  # by the rank that holds most; the memory estimate rests on it
    # Seven products and six sums, each rounded once: at most a few units in the last place of the terms' magnitude.
    assert found["worst_ulp"] < 4


CHECKPOINT = "models/component/{}/checkpoints/step_00000016"


@pytest.fixture(scope="module")
def kept_run(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke run with its components trained again, and their optimizers' state kept."""
    runs = fork_run(smoke_run, tmp_path_factory.mktemp("kept"), "models/component", "search", "final", "scores")
    run_cli("train", "--config-name", "smoke", f"runs_dir={runs}", "role=component", "components.save_optimizer=true")
    return runs / "smoke"


@pytest.mark.slow
def test_a_component_keeps_its_optimizers_state_where_asked_and_is_the_same(smoke_run: Path, kept_run: Path) -> None:
    one, kept = (CheckpointReader(run / CHECKPOINT.format("math_1")) for run in (smoke_run, kept_run))
    assert all(torch.equal(one.read_tensor(name), kept.read_tensor(name)) for name in one)
    stored = [
        set(read_metadata(run / CHECKPOINT.format("math_1") / "weights").tensors) for run in (smoke_run, kept_run)
    ]
    assert {f"optimizer.state.exp_avg_sq.{name}" for name in one} <= stored[1] - stored[0]


@pytest.mark.slow
def test_a_distributed_optimizers_moments_are_kept_by_parameter(smoke_run: Path, tmp_path: Path) -> None:
    """Megatron's default for it are flat buffers, whose order no metadata says."""
    runs = fork_run(smoke_run, tmp_path, "models", "search", "final", "scores")
    settings = [
        "--config-name", "smoke", f"runs_dir={runs}", "components.save_optimizer=true", "components.num_tokens=4096",
        f"base.checkpoint={smoke_run}/models/base/base/checkpoints/step_00000040", "train.micro_batch_size=4",
        "parallel.tensor=1", "parallel.data=2", "+model.overrides.optim.config.use_distributed_optimizer=true",
        "+model.overrides.trainer.strategy.ddp.use_distributed_optimizer=true",
    ]  # fmt: skip
    run_cli("train", *settings, "role=base")
    run_cli("train", *settings, "role=component")
    paths = {name: runs / f"smoke/models/component/{name}/checkpoints/step_00000004" for name in ("math_1", "code_1")}
    assert any(".param." in name for name in read_metadata(paths["math_1"] / "weights").tensors), "of that optimizer"
    merge_checkpoints(paths, tmp_path / "out", {"mix": {"math_1": 0.5, "code_1": 0.5}}, "fisher")
    merge_checkpoints(paths, tmp_path / "linear", {"mix": {"math_1": 0.5, "code_1": 0.5}})
    fisher, linear = (CheckpointReader(tmp_path / folder / "mix") for folder in ("out", "linear"))
    assert not any(torch.equal(fisher.read_tensor(name), linear.read_tensor(name)) for name in fisher)


@pytest.mark.slow
def test_every_method_gives_the_same_bits_live_and_on_disk(smoke_run: Path, kept_run: Path, tmp_path: Path) -> None:
    names = ("general", "math_1", "code_1")
    paths = {name: kept_run / CHECKPOINT.format(name) for name in names}
    base = smoke_run / "models/base/base/checkpoints/step_00000040"
    jobs = []
    for method, kind in METHODS.items():
        components = {name: paths[name] for name in names[: kind.num_components or 3]}
        mixtures = PAIR if len(components) == 2 else MIXTURES
        parameters = PARAMETERS.get(method, {})
        merge_checkpoints(components, tmp_path / method, mixtures, method, parameters, base, seed=3)
        jobs.append(
            {
                "method": method,
                "parameters": parameters,
                "seed": 3,
                "base": str(base),
                "mixtures": mixtures,
                "components": {name: str(path) for name, path in components.items()},
                "merged": str(tmp_path / method),
            }
        )
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    found = run_program("live_methods", str(smoke_run), "2", "1", str(tmp_path / "jobs.json"), ranks=2)
    assert set(found) == set(METHODS)
    for job in jobs:  # a mixture by itself, and announced with the others
        assert found[job["method"]] == [0] * 2 * len(job["mixtures"]), job["method"]
