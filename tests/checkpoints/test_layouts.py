"""Every layout that is read, as its framework writes it; every other is refused, with the way out."""

import argparse
import json
import logging
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from nemo_demix.checkpoints.architecture import Architecture
from nemo_demix.checkpoints.layouts import detect
from nemo_demix.checkpoints.reader import CheckpointReader
from nemo_demix.checkpoints.saved import find_weights
from nemo_demix.errors import CheckpointError
from tests.helpers import fork_run, losses, merge_checkpoints, other, run_cli, run_program

KINDS = ("nemo2", "megatron_lm", "megatron_bridge", "torch_dcp")
SMOKE = Architecture(
    num_layers=2, hidden_size=64, ffn_hidden_size=128, num_attention_heads=2, num_query_groups=2, kv_channels=32,
    gated_linear_unit=True, tied_embeddings=True, num_experts=0, vocab_size=1024,
)  # fmt: skip


def _base(run: Path) -> Path:
    return run / "models/base/base/checkpoints/step_00000040"


@pytest.mark.parametrize("kind", KINDS)
def test_a_layout_is_known_by_its_content_and_holds_the_models_bits(
    smoke_run: Path, layouts: dict[str, Path], kind: str
) -> None:
    layout = detect(layouts[kind])
    assert (layout.kind, layout.root) == (kind, layouts[kind])
    relative = {"nemo2": "weights", "torch_dcp": "."}.get(kind, "iter_0000010")
    assert layout.weights_relative == Path(relative)
    assert layout.weights == find_weights(layouts[kind]) == layouts[kind] / relative
    reader, source = CheckpointReader(layouts[kind]), CheckpointReader(_base(smoke_run))
    names = {name: name if name in reader.tensors else name.removeprefix("module.") for name in source}
    assert sorted(names.values()) == list(reader)
    for name, here in names.items():
        found = reader.read_tensor(here)
        assert found.dtype == (torch.bfloat16 if kind == "megatron_lm" else torch.float32)
        assert torch.equal(found, source.read_tensor(name).to(found.dtype)), name


def test_the_architecture_is_what_each_framework_wrote_down(layouts: dict[str, Path]) -> None:
    found = {kind: detect(layouts[kind]).architecture for kind in KINDS}
    classes = {
        "nemo2": "nemo.collections.llm.gpt.model.qwen3.Qwen3Model",
        "megatron_bridge": "megatron.bridge.models.qwen.qwen_provider.Qwen3ModelProvider",
        "megatron_lm": None,
    }
    said = {"nemo2": False}  # that no weights were kept in FP8: these files of the others do not say
    for kind, model_class in classes.items():
        expected = {**asdict(SMOKE), "model_class": model_class, "fp8_weights": said.get(kind)}
        assert asdict(found[kind]) == expected, kind
    assert found["torch_dcp"] == Architecture()


def test_companions_are_all_files_but_shards_and_training_state(layouts: dict[str, Path], tmp_path: Path) -> None:
    for kind in ("nemo2", "megatron_lm", "megatron_bridge"):
        root = tmp_path / kind
        shutil.copytree(layouts[kind], root)
        files = {path.relative_to(root) for path in root.rglob("*") if path.is_file()}
        (detect(root).weights / "layer_wise_optimizer_0.pt").touch()
        (detect(root).weights / "model.safetensors").touch()
        shards = {path for path in files if path.suffix == ".distcp" or path.name == ".metadata"}
        assert set(detect(root).companions) == files - shards, kind
    assert detect(layouts["torch_dcp"]).companions == ()


@pytest.mark.parametrize("kind", ["nemo2", "megatron_lm", "megatron_bridge", "release"])
def test_the_torch_dist_folder_itself_stands_for_its_checkpoint(layouts: dict[str, Path], kind: str) -> None:
    layout = detect(layouts[kind])
    assert detect(layout.weights) == layout


def test_the_tracker_says_which_iteration(layouts: dict[str, Path], tmp_path: Path) -> None:
    assert detect(layouts["release"]).weights.name == detect(layouts["release"]).tracker == "release"
    assert detect(layouts["megatron_lm"]).tracker == "10"
    root = tmp_path / "run"
    shutil.copytree(layouts["megatron_bridge"], root)
    shutil.copytree(root / "iter_0000010", root / "iter_0000020")
    other = detect(root / "iter_0000020")  # the trackers name the tenth, so they are not this one's
    assert (other.root, other.tracker) == (root, "20")
    assert Path("latest_checkpointed_iteration.txt") not in other.companions
    (root / "latest_checkpointed_iteration.txt").unlink()  # early Megatron-Bridge wrote only its own tracker
    assert detect(root).weights.name == "iter_0000010"
    (root / "latest_checkpointed_iteration.txt").write_text("30")
    with pytest.raises(
        CheckpointError, match=r"names iter_0000030, which is not there; found iter_0000010, iter_0000020"
    ):
        detect(root)
    (root / "latest_checkpointed_iteration.txt").write_text("latest")
    with pytest.raises(CheckpointError, match="expected an iteration number or `release`, found 'latest'"):
        detect(root)


def test_a_renamed_folder_is_known_by_what_is_in_it(layouts: dict[str, Path], tmp_path: Path) -> None:
    for kind in ("megatron_lm", "megatron_bridge"):
        shutil.copytree(layouts[kind] / "iter_0000010", tmp_path / kind)
        layout = detect(tmp_path / kind)
        assert (layout.kind, layout.root, layout.tracker) == (kind, tmp_path / kind, None)
        assert asdict(layout.architecture) == asdict(detect(layouts[kind]).architecture)


@pytest.mark.parametrize(("tensor", "pipeline"), [(1, 2), (2, 2)])
def test_megatron_loads_what_we_read_and_what_we_merge(
    smoke_run: Path, layouts: dict[str, Path], merges: dict[str, Path], tmp_path: Path, tensor: int, pipeline: int
) -> None:
    """Every layout as saved, which shows that the comparison holds, and as merged."""
    jobs = [{"checkpoint": str(path), "reference": str(_base(smoke_run))} for path in layouts.values()]
    jobs += [{"checkpoint": str(path)} for path in merges.values()]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    arguments = (str(smoke_run), str(tensor), str(pipeline), str(tmp_path / "jobs.json"))
    results = run_program("load_back", *arguments, ranks=tensor * pipeline)["results"]
    saved, merged = results[: len(layouts)], results[len(layouts) :]
    for names, some in ((layouts, saved), (merges, merged)):
        for kind, result in zip(names, some, strict=True):
            assert not result["missing"], kind
            assert not result["unexpected"], kind
            assert result["num_mismatched"] == 0, kind
            tolerance = 2e-3 if kind == "megatron_lm" else 1e-6  # it is saved in bf16
            assert result["loss"] == pytest.approx(some[0]["loss"], rel=tolerance), kind
    assert merged[0]["loss"] != pytest.approx(saved[0]["loss"], rel=1e-4), "a merge is another model"


@pytest.mark.slow
def test_nemo_trains_on_from_a_merge(smoke_run: Path, layouts: dict[str, Path], tmp_path: Path) -> None:
    """NeMo's own restore of weights alone, from a merge that is the base again: every loss is the original's."""
    merge_checkpoints({"base": layouts["nemo2"], "code": other(layouts["nemo2"])}, tmp_path / "m", {"m": {"base": 1.0}})
    runs = fork_run(smoke_run, tmp_path, "models/component/code_1", "models/base")
    settings = ("--config-name", "smoke", f"runs_dir={runs}", f"base.checkpoint={tmp_path / 'm/m'}")
    run_cli("train", *settings, "role=base", "parallel.tensor=1")  # takes it over; nothing is trained
    run_cli("train", *settings, "role=component", "component=code_1")
    assert losses(runs / "smoke/models/component/code_1") == losses(smoke_run / "models/component/code_1")


def test_io_json_stands_in_for_model_yaml(layouts: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(layouts["nemo2"], tmp_path / "c")
    (tmp_path / "c/context/model.yaml").unlink()
    found = detect(tmp_path / "c").architecture
    assert found.model_class == "nemo.collections.llm.gpt.model.qwen3.Qwen3Model"
    assert (found.num_layers, found.hidden_size, found.vocab_size) == (2, 64, 1024)
    assert found.gated_linear_unit is None  # a default of the class, which io.json does not repeat
    (tmp_path / "c/context/io.json").write_text('{"root": {}}')
    assert detect(tmp_path / "c").architecture == Architecture()


class _Hostile:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.witness}",)


def test_a_hostile_common_state_runs_nothing(
    layouts: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(layouts["megatron_lm"], tmp_path / "c")
    witness = tmp_path / "ran"
    torch.save({"args": _Hostile(witness)}, tmp_path / "c/iter_0000010/common.pt")
    with caplog.at_level(logging.WARNING):
        assert detect(tmp_path / "c").architecture == Architecture()
    assert "common.pt: not read safely" in caplog.text
    assert "system" in caplog.text
    assert not witness.exists()


def test_hostile_yaml_runs_nothing(layouts: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(layouts["megatron_bridge"], tmp_path / "c")
    witness = tmp_path / "ran"
    (tmp_path / "c/iter_0000010/run_config.yaml").write_text(
        f"model:\n  num_layers: 2\n  hidden_size: !!python/object/apply:os.system ['touch {witness}']\n"
    )
    assert detect(tmp_path / "c").architecture == Architecture(num_layers=2)
    assert not witness.exists()


def test_reading_the_arguments_leaves_megatrons_own_list_alone(layouts: dict[str, Path]) -> None:
    # Not `torch.serialization.safe_globals`: leaving it would take the class from Megatron, if it is imported already.
    torch.serialization.add_safe_globals([argparse.Namespace])
    before = torch.serialization.get_safe_globals()
    detect(layouts["megatron_lm"])
    assert set(torch.serialization.get_safe_globals()) == set(before)


def _refused(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        detect(path)
    with pytest.raises(CheckpointError, match=message):
        CheckpointReader(path)


def test_legacy_checkpoints_are_refused_with_their_converter(tmp_path: Path) -> None:
    for number, rank in enumerate(("mp_rank_00", "mp_rank_01_003", "mp_rank_00_001_002")):
        folder = tmp_path / str(number) / "iter_0000100" / rank
        folder.mkdir(parents=True)
        (folder / "model_optim_rng.pt").touch()
        (tmp_path / str(number) / "latest_checkpointed_iteration.txt").write_text("100")
        _refused(
            tmp_path / str(number), rf"{rank}: the legacy format .* tools/checkpoint/convert\.py .*--ckpt-convert-form"
        )
        _refused(tmp_path / str(number) / "iter_0000100", "the legacy format")


def test_zarr_is_refused(tmp_path: Path) -> None:
    weights = tmp_path / "nemo" / "weights"
    weights.mkdir(parents=True)
    (weights / "metadata.json").write_text('{"sharded_backend": "zarr", "sharded_backend_version": 1}')
    _refused(tmp_path / "nemo", "the zarr format.*--ckpt-convert-format torch_dist")
    tensor = tmp_path / "iter_0000100" / "decoder.layers.mlp.linear_fc1.weight"
    tensor.mkdir(parents=True)
    (tensor / ".zarray").write_text("{}")
    _refused(tmp_path / "iter_0000100", "the zarr format")


def test_another_backend_and_damaged_json_are_named(layouts: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(layouts["megatron_lm"], tmp_path / "c")
    (tmp_path / "c/iter_0000010/metadata.json").write_text('{"sharded_backend": "other"}')
    _refused(tmp_path / "c", r"metadata\.json: sharded_backend is 'other', expected 'torch_dist'")
    (tmp_path / "c/iter_0000010/metadata.json").write_text("{")
    _refused(tmp_path / "c", r"metadata\.json: expected JSON, .*copy the checkpoint again")


def test_hugging_face_models_are_sent_to_import(tmp_path: Path) -> None:
    for name in ("model-00001-of-00002.safetensors", "pytorch_model.bin"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / name).touch()
        _refused(folder, "a Hugging Face model.*nemo-demix import")


def _state(gated: bool) -> dict[str, object]:
    halves = ("weight_w", "weight_v") if gated else ("weight",)
    model = {f"module.decoder.layers.0.mlp.linear_fc1.{half}": torch.ones(8, 4) for half in halves}
    return {"model": {**model, "module.decoder.final_layernorm.weight": torch.ones(4)}}


def test_megatron_fsdp_is_refused_with_its_converter(tmp_path: Path) -> None:
    """Saved as Megatron-LM, Megatron-Bridge and NeMo save it: torch.distributed.checkpoint of a nested state."""
    message = "Megatron-FSDP.*convert-fsdp-dtensor-to-torch-dist"
    state = {
        **_state(gated=False),
        "args": argparse.Namespace(num_layers=1),
        "checkpoint_version": 3.0,
        "iteration": 10,
    }
    for folder in ("renamed", "run/iter_0000010"):
        dcp.save(state, checkpoint_id=tmp_path / folder, no_dist=True)
        _refused(tmp_path / folder, message)
    (tmp_path / "run/latest_checkpointed_iteration.txt").write_text("10")
    _refused(tmp_path / "run", message)
    dcp.save(_state(gated=False), checkpoint_id=tmp_path / "nemo", no_dist=True)  # its common state stands in a file
    torch.save({"global_step": 10}, tmp_path / "nemo/common.pt")
    _refused(tmp_path / "nemo", message)
    dcp.save(_state(gated=True), checkpoint_id=tmp_path / "halves", no_dist=True)  # nothing else says it
    _refused(tmp_path / "halves", message)


def test_other_programs_names_may_begin_with_model_too(tmp_path: Path) -> None:
    dcp.save({"model": {"layers.0.weight": torch.ones(4)}}, checkpoint_id=tmp_path / "c", no_dist=True)
    assert detect(tmp_path / "c").kind == "torch_dcp"
    assert list(CheckpointReader(tmp_path / "c")) == ["model.layers.0.weight"]


@pytest.mark.parametrize("kind", ["nemo2", "megatron_lm", "megatron_bridge"])
def test_a_save_that_was_cut_off_is_refused(layouts: dict[str, Path], tmp_path: Path, kind: str) -> None:
    shutil.copytree(layouts[kind], tmp_path / "c")
    weights = detect(tmp_path / "c").weights
    (weights / "metadata.json").unlink()
    _refused(tmp_path / "c", r"cut off \(metadata\.json, which is written last, is missing\)")
    (weights / ".metadata").unlink()
    _refused(tmp_path / "c", r"cut off \(\.distcp files without \.metadata\)")


def test_nemos_marker_of_an_unfinished_save_counts(layouts: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(layouts["nemo2"], tmp_path / "c")
    (tmp_path / "c-unfinished").touch()
    _refused(tmp_path / "c", "cut off.*c-unfinished stands beside it")
    _refused(tmp_path / "c/weights", "cut off.*c-unfinished stands beside it")


def test_what_is_no_checkpoint_is_named_with_what_is_there(smoke_run: Path, tmp_path: Path) -> None:
    _refused(tmp_path / "nothing", "not found; expected a checkpoint folder")
    _refused(tmp_path, r"expected weights/\.metadata .* found nothing")
    _refused(_base(smoke_run).parent, "found step_00000040")


def test_the_folder_one_stands_in_is_a_checkpoint_too(
    layouts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(layouts["nemo2"] / "weights")
    assert detect(Path()) == detect(layouts["nemo2"])
    assert detect(Path("..")) == detect(layouts["nemo2"])
