"""Checkpoints as other releases of megatron-core write them: `tests/data/checkpoints/make.py` made them with each."""

import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core import dist_checkpointing

from nemo_demix.checkpoints.common_state import load_common
from nemo_demix.checkpoints.inspect import describe
from nemo_demix.checkpoints.layouts import detect
from nemo_demix.checkpoints.metadata import read_metadata
from nemo_demix.checkpoints.objects import read_common_state
from nemo_demix.checkpoints.reader import CheckpointReader
from nemo_demix.checkpoints.vetted import vetted
from nemo_demix.errors import CheckpointError
from nemo_demix.merging.verify import verify
from tests.helpers import REPOSITORY, merge_checkpoints

ARCHIVES = sorted((REPOSITORY / "tests/data/checkpoints").glob("core_*.tar.xz"))
MIXTURES = {"mix": {"one": 0.25, "two": 0.75}}


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """The two checkpoints of each archive."""
    found = {}
    for archive in ARCHIVES:
        folder = tmp_path_factory.mktemp("release")
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        name = archive.name.removeprefix("core_").removesuffix(".tar.xz")
        found[name] = {"one": folder / "one", "two": folder / "two"}
    return found


def common(checkpoint: Path) -> dict[str, Any]:
    """What it keeps once for all ranks."""
    state = read_common_state(detect(checkpoint).weights)
    assert state is not None
    return load_common(state, megatrons=True)


@pytest.mark.parametrize("release", [archive.name[5:-7] for archive in ARCHIVES])
def test_what_every_release_writes_is_read_and_merged(
    releases: dict[str, dict[str, Path]], release: str, tmp_path: Path
) -> None:
    components = releases[release]
    summary = describe(components["one"])
    assert summary.kind == "megatron_lm"
    shape = summary.architecture
    assert (shape.num_layers, shape.hidden_size, shape.vocab_size, shape.num_experts) == (
        2, 16, 32, 4 if "moe" in release else 0,
    )  # fmt: skip
    assert summary.has_optimizer_state
    assert {"optimizer", "opt_param_scheduler", "iteration"} <= set(common(components["one"]))

    merge_checkpoints(components, tmp_path, MIXTURES)
    merged = tmp_path / "mix"
    verify(merged)
    after = describe(merged)
    assert (after.architecture, after.num_objects) == (shape, summary.num_objects)
    assert not after.has_optimizer_state
    assert after.num_training_objects == 0
    # Of what is kept once for all ranks, the first component's, without what only its own training could use.
    assert set(common(components["one"])) - set(common(merged)) == {"optimizer", "opt_param_scheduler"}
    assert common(merged)["iteration"] == 10
    assert (detect(merged).weights / "common.pt").exists() == (not release.startswith("0.19"))
    one, two, mix = (CheckpointReader(path) for path in (components["one"], components["two"], merged))
    assert list(one) == list(two) == list(mix)
    for name in mix:
        expected = 0.25 * one.read_tensor(name).double() + 0.75 * two.read_tensor(name).double()
        assert torch.allclose(mix.read_tensor(name).double(), expected, rtol=0, atol=1e-7), name


def test_components_of_two_releases_make_one_model_in_the_form_of_the_first(
    releases: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    old, new = releases["0.18.2_dense"], releases["0.19.2_dense"]
    weights = {}
    for name, pair in {
        "old": {"one": old["one"], "two": new["two"]},
        "new": {"one": new["one"], "two": old["two"]},
    }.items():
        merge_checkpoints(pair, tmp_path / name, MIXTURES)
        merged = tmp_path / name / "mix"
        assert common(merged).keys() >= {"args", "iteration"}
        assert (detect(merged).weights / "common.pt").exists() == (name == "old")
        weights[name] = {tensor: CheckpointReader(merged).read_tensor(tensor) for tensor in CheckpointReader(merged)}
    assert weights["old"].keys() == weights["new"].keys()


@pytest.fixture
def newest(releases: dict[str, dict[str, Path]], tmp_path: Path) -> dict[str, Path]:
    """Copies to change."""
    return {name: shutil.copytree(path, tmp_path / name) for name, path in releases["0.19.2_dense"].items()}


def test_a_common_state_that_is_damaged_is_named(newest: dict[str, Path], tmp_path: Path) -> None:
    weights = detect(newest["two"]).weights
    state = read_common_state(weights)
    assert state is not None
    assert common(newest["two"])["iteration"] == 20
    (shard,) = weights.glob("*.distcp")
    data = shard.read_bytes()
    place = data.index(state.data) + state.data.index(b"opt_param_scheduler")
    shard.write_bytes(data[:place] + b"X" + data[place + 1 :])
    with pytest.raises(CheckpointError, match="common_state/shard_0_1 is damaged"):
        merge_checkpoints(newest, tmp_path / "merged", MIXTURES)


def test_a_save_of_megatron_bridge_that_was_cut_off_is_not_taken_for_another_layout(newest: dict[str, Path]) -> None:
    """Its run_config.yaml comes after the shards."""
    root = newest["one"]
    assert detect(root).kind == "megatron_lm"
    torch.save({"step": torch.tensor(10)}, root / "iter_0000010/train_state.pt")
    with pytest.raises(CheckpointError, match=r"run_config\.yaml: not found, but .*its save was cut off"):
        detect(root)


def test_training_can_start_from_a_newer_release_s_checkpoint(newest: dict[str, Path], tmp_path: Path) -> None:
    """megatron-core 0.15 knows the common state as a file alone."""
    stand_in = vetted(newest["one"], tmp_path / "stand_in")
    found = dist_checkpointing.load_common_state_dict(stand_in / "weights")
    assert (found["iteration"], found["args"].hidden_size) == (10, 16)
    stored, source = (read_metadata(weights) for weights in (stand_in / "weights", detect(newest["one"]).weights))
    assert stored.tensors == source.tensors
    assert set(source.objects) - set(stored.objects) == {"common_state/shard_0_1"}


def test_weights_have_the_names_that_the_loader_of_either_back_end_asks_for(
    newest: dict[str, Path], tmp_path: Path
) -> None:
    """NeMo's begin with the module's; what is stored under them stays."""
    source = read_metadata(detect(newest["one"]).weights)
    nemo = read_metadata(vetted(newest["one"], tmp_path / "nemo", "module.") / "weights")
    bridge = read_metadata(vetted(newest["one"], tmp_path / "bridge", "") / "weights")
    weights = {name for name in source.tensors if not name.startswith("optimizer.")}
    assert {name for name in nemo.tensors if name.startswith("module.")} == {f"module.{name}" for name in weights}
    assert all(nemo.tensors[f"module.{name}"] == source.tensors[name] for name in weights)
    assert bridge.tensors == source.tensors
