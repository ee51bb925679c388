"""What an export reads of a checkpoint: one layer's and one expert's tensors apart, in one dtype."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from nemo_demix.config import DemixConfig
from nemo_demix.errors import CheckpointError
from nemo_demix.runtime.connector_names import unstacked
from nemo_demix.runtime.context import ModelContext
from nemo_demix.runtime.huggingface import export_checkpoint, load_config_folder, read_state
from nemo_demix.stages.convert import _tensors, import_stage
from tests.merging.grids import VOCAB, random_model, write_checkpoint
from tests.merging.test_stored_forms import EXPERTS, FORMS, LAYERS, model
from tests.test_tokenizer import write_with_gaps


def test_every_form_that_a_model_is_stored_in_has_the_same_tensors() -> None:
    found = {form: unstacked({f"module.decoder.{k}": v for k, v in store(model(0)).items()}) for form, store in
             FORMS.items()}  # fmt: skip
    first = found.pop("stacked")
    assert first["decoder.layers.1.mlp.experts.linear_fc1.weight3"].shape == (16, 6)
    assert len([name for name in first if ".experts.linear_fc2.weight" in name]) == LAYERS * EXPERTS
    for form, tensors in found.items():
        assert tensors.keys() == first.keys(), form
        assert all(torch.equal(tensors[name], first[name]) for name in first), form


def test_a_norm_has_the_name_of_a_fused_layer_only_where_that_layer_is() -> None:
    norm, layer = "decoder.layers.mlp.linear_fc1.layer_norm_weight", "decoder.layers.mlp.linear_fc1.weight"
    tensors = {norm: torch.ones(2, 4), layer: torch.ones(2, 8, 4)}
    assert "decoder.layers.1.mlp.linear_fc1.layer_norm_weight" in unstacked(tensors)
    del tensors[layer]  # as a mixture of experts is saved without Transformer Engine
    assert set(unstacked(tensors)) == {f"decoder.layers.{layer}.pre_mlp_layernorm.weight" for layer in range(2)}


@pytest.mark.parametrize(
    ("one", "other", "widest"),
    [
        (torch.float32, torch.bfloat16, torch.float32),
        (torch.bfloat16, torch.float16, torch.float32),
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
    ],
)
def test_several_precisions_become_the_one_that_keeps_all_values(
    tmp_path: Path, one: torch.dtype, other: torch.dtype, widest: torch.dtype
) -> None:
    tensors = {name: value.to(one if "norm" in name else other) for name, value in random_model(0).items()}
    state = read_state(write_checkpoint(tmp_path / "mixed", tensors))
    assert {tensor.dtype for tensor in state.values()} == {widest}
    whole = unstacked(tensors)
    assert state.keys() == whole.keys()
    assert all(torch.equal(state[name].double(), whole[name].double()) for name in whole)


def write_folder(folder: Path, rows: int, *dtypes: torch.dtype, **config: object) -> Path:
    """A Hugging Face folder: its embedding, in as many tensors as there are dtypes, and a tokenizer of ids up to 9."""
    write_with_gaps(folder)
    (folder / "config.json").write_text(json.dumps({"vocab_size": rows, **config}))
    save_file(
        {f"w{n}": torch.zeros(rows, 4, dtype=dtype) for n, dtype in enumerate(dtypes)}, folder / "model.safetensors"
    )
    return folder


def test_an_import_has_a_row_for_every_token(tmp_path: Path) -> None:
    config = DemixConfig(name="x", runs_dir=str(tmp_path / "runs"))
    config.convert.output = str(tmp_path / "out")
    config.convert.source = str(write_folder(tmp_path / "short", 9, torch.float32))
    with pytest.raises(CheckpointError, match="its tokenizer has 10 tokens, its embedding 9 rows"):
        import_stage(config)
    config.convert.source = str(write_folder(tmp_path / "unknown", 10, torch.float32, vocab_size="10"))
    with pytest.raises(CheckpointError, match="vocab_size: expected a whole number, found '10'"):
        import_stage(config)
    assert not (tmp_path / "out").exists()


def test_an_export_has_a_row_for_every_token(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "model", {
        name: value[:9] if name.endswith("embeddings.weight") else value for name, value in random_model(0).items()
    })  # fmt: skip
    assert VOCAB > 9
    context = ModelContext(object, object, {}, None)
    with pytest.raises(CheckpointError, match="its embedding has 9 rows, the tokenizer 10 tokens; give the tokenizer"):
        export_checkpoint(checkpoint, context, write_with_gaps(tmp_path / "tokenizer"), tmp_path / "out")


def test_a_folder_of_several_precisions_is_read_as_the_widest_where_it_says_so(tmp_path: Path) -> None:
    mixed = write_folder(tmp_path / "mixed", 10, torch.float32, torch.bfloat16)
    files = {name: mixed / "model.safetensors" for name in ("w0", "w1")}
    assert _tensors(mixed, {"dtype": "float32"}) == (files, torch.float32)
    for stated in ({}, {"dtype": "bfloat16"}):  # transformers would round the others
        with pytest.raises(CheckpointError, match=r"the tensors are BF16, F32; all values are kept as float32: say so"):
            _tensors(mixed, stated)
    whole = write_folder(tmp_path / "whole", 10, torch.bfloat16, torch.bfloat16)
    assert _tensors(whole, {})[1] == torch.bfloat16


ODD_VALUES: dict[str, list[Any]] = {
    "rope_scaling": ["x", {"type": "yarn"}],
    "layer_types": [7, ["none"]],
    "quantization_config": ["x"],
    "dtype": ["nonsense"],
    "id2label": [{"a": "b"}],
    "num_labels": ["q"],
    "pruned_heads": [{"a": 1}],
    "num_hidden_layers": ["two", -1],
    "model_type": [3, None],
}


@pytest.mark.parametrize("key", ODD_VALUES)
def test_a_configuration_that_transformers_trips_over_is_refused_in_one_line(tmp_path: Path, key: str) -> None:
    good = {"model_type": "qwen3", "num_hidden_layers": 1, "layer_types": ["full_attention"]}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**good, "auto_map": {"AutoConfig": "evil.Config"}}))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert load_config_folder(tmp_path).num_hidden_layers == 1
    for value in ODD_VALUES[key]:
        path.write_text(json.dumps({**good, key: value}))
        with pytest.raises(
            CheckpointError, match=r"config\.json: expected what transformers can read, found"
        ) as caught:
            load_config_folder(tmp_path)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
