"""Every recipe composes, and every recipe object of NeMo or Megatron-Bridge that it names builds, for every role."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from nemo_demix.command_line import recipes_folder
from nemo_demix.config import DemixConfig, register_schema, to_dataclasses
from nemo_demix.config.overrides import stage_config
from nemo_demix.runtime.ranks import world_size
from nemo_demix.training.jobs import reference_settings
from tests.bridge import Bridge, needs_bridge
from tests.helpers import run_program

ALL = sorted(path.stem for path in recipes_folder().glob("*.yaml"))
BY_BRIDGE = [name for name in ALL if name.startswith("bridge_")]
BY_NEMO = [name for name in ALL if name not in BY_BRIDGE]
RECIPES = [*BY_NEMO, *(pytest.param(name, marks=needs_bridge) for name in BY_BRIDGE)]
ON_GPUS = ["llama3_8b", "qwen3_1p7b", "qwen3_30b_a3b", "qwen3_8b_final", *BY_BRIDGE]


@pytest.fixture(autouse=True, scope="module")
def data_root() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEMIX_DATA", "/data")
        patch.delenv("DEMIX_RUNS", raising=False)
        yield


@pytest.fixture(scope="module")
def by_nemo(data_root: None) -> dict[str, Any]:
    """What NeMo and Megatron made of its recipes, by `<recipe>/<role>/<model>`."""
    return run_program("build_recipes", "nemo", *BY_NEMO)


@pytest.fixture(scope="module")
def by_bridge(data_root: None, bridge: Bridge) -> dict[str, Any]:
    """The same of Megatron-Bridge's."""
    return bridge.run_program("build_recipes", "bridge", *BY_BRIDGE)


@pytest.fixture
def built(request: pytest.FixtureRequest, name: str) -> dict[str, Any]:
    return request.getfixturevalue("by_bridge" if name in BY_BRIDGE else "by_nemo")  # type: ignore[no-any-return]


def composed(name: str, *overrides: str) -> DemixConfig:
    register_schema()
    with initialize_config_dir(str(recipes_folder()), version_base="1.3"):
        return to_dataclasses(compose(name, overrides=["hydra.searchpath=[pkg://nemo_demix.conf]", *overrides]))


@pytest.mark.parametrize("name", ALL)
def test_it_composes(name: str) -> None:
    config = composed(name)
    assert config.name == name
    assert len(config.datasets) == 7
    assert len(config.suite.benchmarks) == 9
    assert {dataset.capability for dataset in config.datasets.values()} == {"general", "math", "code"}


@pytest.mark.parametrize("name", RECIPES)
def test_its_objects_build(built: dict[str, Any], name: str) -> None:
    config = composed(name)
    roles = {
        "base/base": config.base,
        "component/math_1": config.components,
        "reference/r_0": reference_settings(config),
        "final/mixture": config.final,
    }
    for key, role in roles.items():
        found = built[f"{name}/{key}"]
        assert found["max_lr"] == role.max_lr
        assert found["min_lr"] == pytest.approx(role.max_lr * role.min_lr_ratio)
        assert found["max_steps"] == role.num_tokens // (found["global_batch_size"] * found["seq_length"])
        assert found["layout"].items() <= asdict(config.parallel).items()
        assert found.get("ranks") in (None, world_size(config.parallel))  # Bridge takes those that there are
        assert found["context"] == 1  # Llama's factory sets 2, for which no process groups are made
        assert (found["optimizer"], found["weight_decay"]) == ("adam", 0.033 if name in BY_BRIDGE else 0.1)
        assert found["precision"] == (None if config.train.precision == "32" else config.train.precision)
    beta = config.components.beta
    assert built[f"{name}/component/math_1"]["paths"] == [str(beta), "/general", str(1 - beta), "/math_1"]


@pytest.mark.parametrize("name", RECIPES)
def test_parameters_are_counted_as_megatron_has_them(built: dict[str, Any], name: str) -> None:
    found = built[f"{name}/parameters"]
    assert found["counted"] == found["built"]


PUBLISHED = {  # parameters of the checkpoints on Hugging Face
    "qwen3_1p7b": 1_720_574_976,
    "qwen3_8b_final": 8_190_735_360,
    "llama3_8b": 8_030_261_248,
    "qwen3_30b_a3b": 30_532_122_624,
}


@pytest.mark.parametrize("name", [one for one in RECIPES if one not in ("decision", "fidelity", "quickstart", "smoke")])
def test_the_models_are_the_published_ones(built: dict[str, Any], name: str) -> None:
    assert built[f"{name}/parameters"]["built"] == PUBLISHED[name.removeprefix("bridge_")]


@pytest.mark.parametrize("name", ON_GPUS)
def test_it_fills_whole_nodes_of_eight_gpus(name: str) -> None:
    config = composed(name)
    for stage in ("base", "search", "final"):
        parallel = stage_config(config, stage).parallel
        assert world_size(parallel) == 8 * parallel.nodes
        assert max(parallel.tensor, parallel.expert) <= 8  # these talk most, and are ranks in a row: one node's


def test_the_papers_setup(by_nemo: dict[str, Any]) -> None:
    """DeMix §3: 30B tokens a component, half general, batches of 512 x 8192, 3e-4 by a cosine to 20 %."""
    config = composed("qwen3_1p7b")
    assert config.components.num_tokens == 30_000_000_000
    assert (config.components.beta, config.components.max_lr, config.components.min_lr_ratio) == (0.5, 3e-4, 0.2)
    assert (config.train.global_batch_size, config.train.seq_length) == (512, 8192)
    assert by_nemo["qwen3_1p7b/component/code_1"]["num_layers"] == 28


def test_the_final_run_at_8b_takes_the_mixture_that_1p7b_found() -> None:
    config = composed("qwen3_8b_final", "runs_dir=/shared/runs")
    assert config.search.strategy == "heuristic"
    assert config.search.heuristic_from == str(
        composed("qwen3_1p7b", "runs_dir=/shared/runs").run_dir / "search/mixture.json"
    )
    assert set(config.datasets) == set(composed("qwen3_1p7b").datasets)
