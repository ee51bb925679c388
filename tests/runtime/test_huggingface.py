"""What an export reads of a checkpoint: one layer's and one expert's tensors apart, in one dtype."""

from pathlib import Path

import pytest
import torch

from nemo_demix.runtime.connector_names import unstacked
from nemo_demix.runtime.huggingface import read_state
from tests.merging.grids import random_model, write_checkpoint
from tests.merging.test_stored_forms import EXPERTS, FORMS, LAYERS, model


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
