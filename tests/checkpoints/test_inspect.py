"""What `merge inspect` says is what is on disk."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_demix.checkpoints.inspect import describe, print_summary
from nemo_demix.checkpoints.reader import CheckpointReader


@pytest.mark.slow
def test_tensors_and_their_grid_are_those_of_the_save(smoke_run: Path, layouts: dict[str, Path]) -> None:
    trained = describe(smoke_run / "models/component/math_1/checkpoints/step_00000016")  # tensor 2, pipeline 1
    resharded = describe(layouts["nemo2"])  # tensor 1, pipeline 2
    reader = CheckpointReader(layouts["nemo2"])
    assert [tensor.name for tensor in resharded.tensors] == list(reader)
    grids = []
    for summary in (trained, resharded):
        tensors = {tensor.name.removeprefix("module."): tensor for tensor in summary.tensors}
        fc1 = tensors["decoder.layers.mlp.linear_fc1.weight"]
        assert (fc1.shape, fc1.dtype, fc1.num_bytes) == ((2, 256, 64), "float32", 2 * 256 * 64 * 4)
        embedding = tensors["embedding.word_embeddings.weight"]
        grids.append((fc1.grid, embedding.grid))
    # Layers are stacked on the first axis; gate and up are stored apart, on each tensor-parallel rank.
    assert grids == [((2, 4, 1), (2, 1)), ((2, 2, 1), (1, 1))]


def test_training_state_is_counted_apart(layouts: dict[str, Path]) -> None:
    with_optimizer, without = describe(layouts["megatron_lm"]), describe(layouts["release"])
    assert with_optimizer.has_optimizer_state
    assert not without.has_optimizer_state
    assert with_optimizer.num_training_tensors == 2 * len(with_optimizer.tensors)
    assert with_optimizer.training_bytes == 2 * 4 * with_optimizer.num_parameters  # two moments in fp32
    assert with_optimizer.num_second_moments == len(with_optimizer.tensors)
    assert (without.num_training_tensors, without.training_bytes, without.num_second_moments) == (0, 0, 0)
    assert without.num_training_objects == 2  # random state of two pipeline stages
    assert with_optimizer.num_objects == without.num_objects == 8  # extra states of four linear layers, twice
    assert with_optimizer.model_bytes == 2 * with_optimizer.num_parameters == without.model_bytes / 2


def test_whether_a_merge_by_second_moments_could_use_it_is_shown(
    layouts: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    summary = describe(layouts["megatron_lm"])
    print_summary(summary)
    assert f"which merge.method=fisher uses: {len(summary.tensors)}." in capsys.readouterr().out
    print_summary(replace(summary, num_second_moments=0))  # flat buffers alone
    assert "which merge.method=fisher uses: none." in capsys.readouterr().out


def test_files_are_this_checkpoints_alone(layouts: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(layouts["megatron_bridge"], tmp_path / "c")
    shutil.copytree(tmp_path / "c/iter_0000010", tmp_path / "c/iter_0000020")
    summary = describe(tmp_path / "c")
    expected = {
        str(path.relative_to(layouts["megatron_bridge"])): path.stat().st_size
        for path in layouts["megatron_bridge"].rglob("*")
        if path.is_file()
    }
    assert summary.files == expected
    assert summary.total_bytes == sum(expected.values())


def test_a_merge_record_is_shown_and_all_of_it_is_json(
    layouts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(layouts["nemo2"], tmp_path / "c")
    assert describe(tmp_path / "c").merge is None
    (tmp_path / "c/merge.json").write_text('{"method": "linear", "weights": {"a": 0.25, "b": 0.75}}')
    summary = describe(tmp_path / "c")
    value = json.loads(json.dumps(summary.as_json()))
    assert value["kind"] == "nemo2"
    assert value["architecture"]["num_layers"] == 2
    assert value["merge"]["weights"] == {"a": 0.25, "b": 0.75}
    assert value["num_parameters"] == sum(tensor.numel() for tensor in _tensors(tmp_path / "c"))
    print_summary(summary)
    shown = capsys.readouterr().out
    for expected in (
        "nemo2",
        "hidden size",
        "2 x 256 x 64",
        "2 x 2 x 1",
        "float32",
        "linear",
        "without optimizer state",
    ):
        assert expected in shown


def _tensors(checkpoint: Path) -> list:
    reader = CheckpointReader(checkpoint)
    return [reader.read_tensor(name) for name in reader]
