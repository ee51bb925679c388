"""One mixture of experts in every form that Megatron stores it in: each method merges it to the same values."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
import yaml
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from nemo_demix.checkpoints.reader import CheckpointReader
from tests.helpers import merge_checkpoints
from tests.merging.grids import write_checkpoint
from tests.merging.test_methods import PARAMETERS

LAYERS, EXPERTS, HIDDEN, FFN = 2, 4, 6, 8
CONFIG = {
    "num_layers": LAYERS, "hidden_size": HIDDEN, "num_moe_experts": EXPERTS, "num_attention_heads": 2,
    "num_query_groups": 2, "kv_channels": 3, "gated_linear_unit": True,
}  # fmt: skip
Tensors = dict[str, torch.Tensor]
# One layer's own tensors, and one expert's.
LAYER = {
    "input_layernorm.weight": (HIDDEN,),
    "self_attention.linear_qkv.weight": (18, HIDDEN),
    "self_attention.linear_qkv.bias": (18,),
    "mlp.router.weight": (EXPERTS, HIDDEN),
    "mlp.router.expert_bias": (EXPERTS,),
    "mlp.shared_experts.linear_fc1.weight": (2 * FFN, HIDDEN),
    "self_attention.scale": (),
}
EXPERT = {"linear_fc1.weight": (2 * FFN, HIDDEN), "linear_fc1.bias": (2 * FFN,), "linear_fc2.weight": (HIDDEN, FFN)}


def model(seed: int) -> Tensors:
    """Each layer's and each expert's tensors by their own names."""
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {"final_layernorm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in LAYER.items()}
        for expert in range(EXPERTS):
            shapes |= {f"layers.{layer}.mlp.experts.experts.{expert}.{name}": shape for name, shape in EXPERT.items()}
    # Coarse, so that magnitudes tie.
    return {name: torch.randint(-8, 9, shape, generator=generator) / 4 for name, shape in shapes.items()}


def per_layer(tensors: Tensors) -> Tensors:
    """Experts stacked, layers by number: what a list of `moe_layer_freq` makes of it."""
    found = {name: value for name, value in tensors.items() if ".experts.experts." not in name}
    for layer in range(LAYERS):
        for name in EXPERT:
            place = f"layers.{layer}.mlp.experts.experts."
            found[place + name] = torch.stack([tensors[f"{place}{expert}.{name}"] for expert in range(EXPERTS)])
    return found


def stacked(tensors: Tensors) -> Tensors:
    """Both stacked: Megatron's default."""
    single = per_layer(tensors)
    found = {"final_layernorm.weight": single["final_layernorm.weight"]}
    for name in (name.removeprefix("layers.0.") for name in single if name.startswith("layers.0.")):
        found[f"layers.{name}"] = torch.stack([single[f"layers.{layer}.{name}"] for layer in range(LAYERS)])
    return found


def singleton(tensors: Tensors) -> Tensors:
    """Each expert by number, gate and up apart: `singleton_local_shards`."""
    found = {}
    for name, value in tensors.items():
        if "linear_fc1." in name:
            found[f"{name}_w"], found[f"{name}_v"] = value.chunk(2)
        else:
            found[name] = value
    return found


FORMS: dict[str, Callable[[Tensors], Tensors]] = {"stacked": stacked, "per layer": per_layer, "singleton": singleton}


def units(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """The same values by layer, expert and half, whatever form they come in."""
    for name, value in tensors.items():
        name = name.removeprefix("module.").removeprefix("decoder.")
        some = [(name, value)]
        if name.startswith("layers.") and not name[7].isdecimal():
            some = [(name.replace("layers.", f"layers.{i}.", 1), one) for i, one in enumerate(value)]
        for name, value in some:
            parts = [(name, value)]
            if ".experts.experts.linear" in name:
                parts = [(name.replace("experts.linear", f"experts.{i}.linear"), one) for i, one in enumerate(value)]
            for name, value in parts:
                if name.rpartition(".")[0].endswith("linear_fc1") and name[-2] != "_":
                    yield from zip((f"{name}_w", f"{name}_v"), value.chunk(2), strict=True)
                else:
                    yield name, value


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """Three models in every form; stacked also as two expert-parallel ranks write it, and as one chunk elsewhere."""
    folder = tmp_path_factory.mktemp("forms")
    found: dict[str, dict[str, Path]] = {}
    for form, store, expert in [*((*item, 1) for item in FORMS.items()), ("on two ranks", stacked, 2)]:
        found[form] = {}
        for seed, name in enumerate(("a", "b", "base")):
            values = {f"module.decoder.{key}": value for key, value in store(model(seed)).items()}
            found[form][name] = write_checkpoint(folder / form / name, values, config=CONFIG, expert=expert)
    found["in one chunk"] = {}
    for seed, name in enumerate(("a", "b", "base")):
        root = found["in one chunk"][name] = folder / "chunk" / name
        values = {f"decoder.{key}": value for key, value in stacked(model(seed)).items()}
        dcp.save(values, storage_writer=FileSystemWriter(root / "weights"), no_dist=True)
        (root / "weights/metadata.json").write_text('{"sharded_backend": "torch_dist", "sharded_backend_version": 1}')
        (root / "context").mkdir()
        (root / "context/model.yaml").write_text(yaml.safe_dump({"_target_": "tests.Model", "config": CONFIG}))
    return found


# One of each way to look at matrices: not at all, by inner products, magnitudes, at random, by rows, by sums.
CASES = [(name, PARAMETERS[name][0]) for name in ("linear", "slerp", "ties", "dare_linear", "della", "sce")]


@pytest.mark.parametrize(("method", "parameters"), CASES, ids=[name for name, _ in CASES])
def test_every_form_merges_to_the_same_values(
    stored: dict[str, dict[str, Path]], tmp_path: Path, method: str, parameters: dict[str, Any]
) -> None:
    found = {}
    for form, paths in stored.items():
        components = {name: paths[name] for name in ("a", "b")}
        merge_checkpoints(
            components, tmp_path / form, {"m": {"a": 0.25, "b": 0.75}}, method=method, parameters=parameters,
            base=paths["base"],
        )  # fmt: skip
        reader = CheckpointReader(tmp_path / form / "m")
        found[form] = dict(units({name: reader.read_tensor(name) for name in reader}))
    first = found.pop("singleton")
    assert len(first) > 20
    for form, values in found.items():
        assert set(values) == set(first), form
        odd = [name for name in first if not torch.equal(values[name], first[name])]
        assert not odd, (form, odd)
