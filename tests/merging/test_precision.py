"""FP8 and NVFP4: weights are averaged where they are whole, and neither codes nor scales ever are."""

import json
import logging
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from nemo_demix.checkpoints.inspect import describe
from nemo_demix.checkpoints.reader import CheckpointReader
from nemo_demix.config import DemixConfig, ModelConfig
from nemo_demix.merging.sources import open_sources
from nemo_demix.runtime.backend import backend_errors
from tests.merging.faults import nothing_published, plan_of, refused, run_merge

MIXTURES = {"mix": {"one": 0.5, "two": 0.5}}
WEIGHT = "module.decoder.layers.0.mlp.linear_fc2.weight"
SCALES = "module.decoder.layers.0.mlp.linear_fc2._extra_state"


def save(root: Path, seed: int, config: str = "", **more: object) -> Path:
    """A NeMo 2 checkpoint of one bf16 weight, and of what else is given by name."""
    weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(seed)).bfloat16()
    named = {name.replace("__", "."): value for name, value in more.items()}
    dcp.save({WEIGHT: weight, **named}, checkpoint_id=root / "weights", no_dist=True)
    torch.save({}, root / "weights/common.pt")
    (root / "weights/metadata.json").write_text('{"sharded_backend": "torch_dist", "sharded_backend_version": 1}')
    (root / "context").mkdir()
    (root / "context/io.json").write_text("{}")
    (root / "context/model.yaml").write_text(f"config: {{num_layers: 1{config}}}\n")
    return root


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("fc2.weight", torch.zeros(8, 8).to(torch.float8_e4m3fn), r"fc2\.weight is float8_e4m3fn; quantised weights"),
        ("fc2.weight", torch.zeros(8, 4, dtype=torch.uint8), r"fc2\.weight is uint8; quantised weights"),
        ("fc2._rowwise_data", torch.zeros(8, 8, dtype=torch.uint8), "_rowwise_data is uint8; quantised"),
        ("fc2.weight_scale", torch.ones(8).to(torch.float8_e4m3fn), r"weight_scale is float8_e4m3fn"),
        ("fc2.weight_scale_2", torch.ones(1), r"weight_scale_2 \(float32\) scales quantised weights"),
        ("fc2._rowwise_scale_inv", torch.ones(8), r"_rowwise_scale_inv \(float32\) scales quantised weights"),
        ("fc2.weight_quantizer._amax", torch.ones(8), r"weight_quantizer\._amax \(float32\) scales quantised weights"),
        ("fc2.weight", torch.zeros(8, 8, dtype=torch.float64), r"is torch\.float64, which is not averaged"),
    ],
)
def test_quantised_weights_and_scales_are_refused_whichever_component_has_them(
    name: str, value: torch.Tensor, message: str, tmp_path: Path
) -> None:
    pair = {one: save(tmp_path / one, number, **{name: value}) for number, one in enumerate(("one", "two"))}
    refused(pair, tmp_path / "output", message, MIXTURES)
    refused(pair, tmp_path / "output", message, MIXTURES, objects_from="one")  # which lets integers be taken over
    whole = save(tmp_path / "whole", 5, **{name: torch.ones(8, 8).bfloat16()})
    refused({"one": whole, "two": pair["two"]}, tmp_path / "output", "are not averaged|is not averaged", MIXTURES)
    nothing_published(tmp_path / "output")


@pytest.mark.parametrize("kind", ["float8_e8m0fnu", "float4_e2m1fn_x2"])
def test_a_dtype_of_scales_or_packed_weights_is_known_by_its_name(kind: str, tmp_path: Path) -> None:
    odd = torch.zeros(8, 8, dtype=torch.uint8).view(getattr(torch, kind))
    found = save(tmp_path / "one", 0, **{"fc2.weight": odd})
    assert {tensor.name: tensor.dtype for tensor in describe(found).tensors}["fc2.weight"] == kind
    refused({"one": found, "two": found}, tmp_path / "output", rf"fc2\.weight is {kind}; quantised", MIXTURES)


def test_scales_are_taken_over_whole_or_not_at_all(tmp_path: Path) -> None:
    """What Transformer Engine keeps in FP8 training: bytes that no average is made of."""
    state = [b"amax history of " + name for name in (b"one", b"two")]
    pair = {
        name: save(tmp_path / name, number, **{f"{SCALES}/shard_0_1": [state[number]]})
        for number, name in enumerate(("one", "two"))
    }
    message = r"_extra_state/shard_0_1: the scales of FP8 .* differ between one and two; .* merge\.objects_from="
    refused(pair, tmp_path / "output", message, MIXTURES)
    run_merge(plan_of(pair, MIXTURES, objects_from="two"), tmp_path / "chosen")
    merged = CheckpointReader(tmp_path / "chosen/mix")
    halves = [CheckpointReader(path).read_tensor(WEIGHT).double() for path in pair.values()]
    assert torch.equal(merged.read_tensor(WEIGHT), (sum(halves) / 2).bfloat16())
    files = b"".join(path.read_bytes() for path in (tmp_path / "chosen/mix/weights").glob("*.distcp"))
    assert b"amax history of two" in files
    assert b"amax history of one" not in files
    open_sources(pair, None, None)  # as a live merge does, which never asks what they are: the live model has its own


def test_weights_that_were_kept_in_fp8_are_merged_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair = {"one": save(tmp_path / "one", 0, ", fp8: hybrid, fp8_param: true"), "two": save(tmp_path / "two", 1)}
    with caplog.at_level(logging.WARNING):
        run_merge(plan_of(pair, MIXTURES), tmp_path / "output")
    assert "one: the weights were kept in FP8 while they were trained (fp8_param)" in caplog.text
    assert json.loads((tmp_path / "output/mix/merge.json").read_text())["dtypes"] == ["bfloat16"]
    caplog.clear()
    whole = {"one": save(tmp_path / "three", 2, ", fp8: hybrid, fp8_param: false"), "two": pair["two"]}
    run_merge(plan_of(whole, MIXTURES), tmp_path / "whole")
    assert "FP8" not in caplog.text


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ({"trainer": {"plugins": {"fp8_param_gather": True}}}, "trainer.plugins.fp8_param_gather=True"),
        ({"mixed_precision": {"fp4_param": True}}, "mixed_precision.fp4_param=True"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("backend", ["nemo", "bridge"])
def test_a_recipe_that_keeps_weights_in_fp8_is_refused(backend: str, overrides: dict, key: str) -> None:
    (error,) = backend_errors(DemixConfig(backend=backend, model=ModelConfig("a.b", overrides=overrides)))
    assert str(error).startswith(f"model.overrides.{key}: weights would be kept in FP8 or FP4")
    fine = {"trainer": {"plugins": {"fp8": "hybrid", "fp8_param_gather": False}}}
    assert not list(backend_errors(DemixConfig(backend=backend, model=ModelConfig("a.b", overrides=fine))))
