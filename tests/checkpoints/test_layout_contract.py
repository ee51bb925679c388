"""The contract of a checkpoint layout: what each in the registry has to be, held on a small checkpoint of it.

A new layout gets a line in `MAKERS`. `test_layouts.py` has the four as their frameworks write a real model.
"""

import shutil
import tarfile
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
import yaml

import nemo_demix.checkpoints.layouts as registry
from nemo_demix.checkpoints.architecture import Architecture
from nemo_demix.checkpoints.layouts import Layout, detect, locate
from nemo_demix.checkpoints.reader import CheckpointReader
from nemo_demix.merging.verify import verify
from tests.helpers import REPOSITORY, merge_checkpoints

ARCHIVE = REPOSITORY / "tests/data/checkpoints/core_0.18.2_dense.tar.xz"  # of megatron-core's own save
CONFIG = {"num_layers": 2, "hidden_size": 16}


def _nemo2(saved: Path, folder: Path) -> None:
    shutil.copytree(saved / "iter_0000010", folder / "weights")
    (folder / "context").mkdir()
    (folder / "context/model.yaml").write_text(yaml.safe_dump({"_target_": "a.Model", "config": CONFIG}))


def _megatron_lm(saved: Path, folder: Path) -> None:
    shutil.copytree(saved, folder)


def _megatron_bridge(saved: Path, folder: Path) -> None:
    shutil.copytree(saved, folder)
    (folder / "iter_0000010/run_config.yaml").write_text(yaml.safe_dump({"model": CONFIG}))
    for path in (folder / "iter_0000010/train_state.pt", folder / "latest_train_state.pt"):
        torch.save({"step": torch.tensor(10)}, path)


def _torch_dcp(saved: Path, folder: Path) -> None:
    reader = CheckpointReader(saved)
    dcp.save({name: reader.read_tensor(name) for name in reader}, checkpoint_id=folder, no_dist=True)


# Given a checkpoint of Megatron-LM's and a folder that does not exist yet: makes the same model's in the layout.
MAKERS: dict[str, Callable[[Path, Path], None]] = {
    "nemo2": _nemo2,
    "megatron_lm": _megatron_lm,
    "megatron_bridge": _megatron_bridge,
    "torch_dcp": _torch_dcp,
}
Pairs = dict[str, dict[str, Path]]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    """Two components in every layout. Tests must not change them."""
    return make_pairs(tmp_path_factory.mktemp("layouts"))


def make_pairs(folder: Path) -> Pairs:
    with tarfile.open(ARCHIVE) as tar:
        tar.extractall(folder / "saved", filter="data")
    saved = folder / "saved/one"
    (iteration,) = (folder / "saved/two").glob("iter_*")
    iteration.rename(iteration.with_name("iter_0000010"))
    (folder / "saved/two/latest_checkpointed_iteration.txt").write_text("10")
    found: Pairs = {}
    for layout in registry.LAYOUTS:
        found[layout.kind] = {name: folder / layout.kind / name for name in ("one", "two")}
        (folder / layout.kind).mkdir()
        for name, path in found[layout.kind].items():
            MAKERS[layout.kind](saved.with_name(name), path)
    return found


every_layout = pytest.mark.parametrize("layout", registry.LAYOUTS, ids=lambda layout: layout.kind)


@every_layout
def test_its_checkpoint_is_found_whichever_way_the_registry_is_asked(
    pairs: Pairs, layout: type[Layout], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pairs[layout.kind]["one"]
    found = locate(path)
    assert type(found) is layout
    assert found.root == path
    assert (found.weights / ".metadata").is_file()
    assert detect(found.weights) == found, "the torch_dist folder stands for its checkpoint"
    layouts = registry.LAYOUTS
    before = layouts[: layouts.index(layout)]
    assert not [one.kind for one in before if one.matches(path)], "one that is asked before takes it for its own"
    also = {one for one in layouts if one.matches(path)} - {layout}
    for order in permutations(layouts):
        if all(order.index(layout) < order.index(one) for one in also):
            monkeypatch.setattr(registry, "LAYOUTS", order)
            assert locate(path) == found


def test_the_first_four_are_told_apart_in_any_order(pairs: Pairs) -> None:
    four = [
        layout for layout in registry.LAYOUTS if layout.kind in ("nemo2", "megatron_lm", "megatron_bridge", "torch_dcp")
    ]
    for one in four:
        assert [layout for layout in four if layout.matches(pairs[one.kind]["one"])] == [one]


@every_layout
def test_it_says_what_its_model_is_or_that_it_does_not_know(pairs: Pairs, layout: type[Layout]) -> None:
    said = detect(pairs[layout.kind]["one"]).architecture
    assert said == Architecture() or (said.num_layers, said.hidden_size) == (2, 16)
    assert isinstance(said, Architecture)


@every_layout
def test_a_merge_is_of_the_same_layout_and_has_its_companions(
    pairs: Pairs, layout: type[Layout], tmp_path: Path
) -> None:
    components = pairs[layout.kind]
    merge_checkpoints(components, tmp_path, {"mix": {"one": 0.25, "two": 0.75}})
    verify(tmp_path / "mix")
    one, mix = detect(components["one"]), detect(tmp_path / "mix")
    assert type(mix) is layout
    assert mix.architecture == one.architecture
    assert mix.weights_relative == one.weights_relative
    assert set(mix.companions) == set(one.companions)
    for path in one.companions:
        if path.name != "common.pt":  # which loses its training state
            assert mix.read(path) == one.read(path), path
    readers = [CheckpointReader(path) for path in (components["one"], components["two"], tmp_path / "mix")]
    assert list(readers[0]) == list(readers[2])
    for name in readers[2]:
        first, second, merged = (reader.read_tensor(name).double() for reader in readers)
        assert torch.allclose(merged, 0.25 * first + 0.75 * second, rtol=0, atol=1e-6), name


def test_every_layout_has_a_name_of_its_own() -> None:
    assert len({layout.kind for layout in registry.LAYOUTS}) == len(registry.LAYOUTS)
    assert set(MAKERS) == {layout.kind for layout in registry.LAYOUTS}
