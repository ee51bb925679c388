"""Every recipe composes, and every NeMo recipe object that it names builds, for every role."""

import pytest
from hydra import compose, initialize_config_dir

from nemo_demix.cli import recipes_folder
from nemo_demix.config import DemixConfig, register_schema, to_dataclasses
from tests.helpers import run_program

RECIPES = sorted(path.stem for path in recipes_folder().glob("*.yaml"))


@pytest.fixture(autouse=True)
def data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMIX_DATA", "/data")


def composed(name: str) -> DemixConfig:
    register_schema()
    with initialize_config_dir(str(recipes_folder()), version_base="1.3"):
        return to_dataclasses(compose(name, overrides=["hydra.searchpath=[pkg://nemo_demix.conf]"]))


@pytest.mark.parametrize("name", RECIPES)
def test_it_composes(name: str) -> None:
    config = composed(name)
    assert config.name == name
    assert len(config.datasets) == 7
    assert len(config.suite.benchmarks) == 9
    assert {dataset.capability for dataset in config.datasets.values()} == {"general", "math", "code"}


def test_its_nemo_objects_build() -> None:
    built = run_program("build_recipes", *RECIPES)
    for name in RECIPES:
        config = composed(name)
        roles = {"base/base": config.base, "component/math_1": config.components, "final/mixture": config.final}
        for key, role in roles.items():
            found = built[f"{name}/{key}"]
            assert found["max_lr"] == role.max_lr
            assert found["min_lr"] == pytest.approx(role.max_lr * role.min_lr_ratio)
            assert found["max_steps"] == role.num_tokens // (found["global_batch_size"] * found["seq_length"])
            assert found["tensor"] == config.parallel.tensor
        assert built[f"{name}/component/math_1"]["paths"] == ["0.5", "/general", "0.5", "/math_1"]


def test_the_papers_setup() -> None:
    """DeMix §3: 30B tokens a component, half general, batches of 512 x 8192, 3e-4 by a cosine to 20 %."""
    config = composed("qwen3_1p7b")
    assert config.components.num_tokens == 30_000_000_000
    assert (config.components.beta, config.components.max_lr, config.components.min_lr_ratio) == (0.5, 3e-4, 0.2)
    assert (config.train.global_batch_size, config.train.seq_length) == (512, 8192)
    found = run_program("build_recipes", "qwen3_1p7b")["qwen3_1p7b/component/code_1"]
    assert found["num_layers"] == 28
