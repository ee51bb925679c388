"""Every merge method against mergekit 0.1.5's own, in fp32, on the same tensors.

Random models of one small Llama layer (a base, and components 0.02 away from it in every element) are written as
safetensors, merged by mergekit through its own pipeline in its own environment, and merged here. A row says how far
apart they are, element by element, or why they cannot agree.

    python -m venv MK; MK/bin/pip install mergekit==0.1.5
    python benchmarks/mergekit_methods.py --mergekit-python MK/bin/python
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _provenance import finish
from safetensors.torch import load_file, save_file

from nemo_demix.merging.methods import Block, BlockMethod, LinearMethod, build_method
from nemo_demix.merging.statistics import collect

_PEER = """
import importlib.metadata, json, sys
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
options = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True, random_seed=0)
for config, folder in json.load(open(sys.argv[1])):
    run_merge(MergeConfiguration.model_validate(config), folder, options)
print(json.dumps({name: importlib.metadata.version(name) for name in ("mergekit", "torch")}))
"""
_WEIGHTS = {2: (0.7, 0.3), 3: (0.5, 0.3, 0.2)}
_EQUAL = {2: (0.5, 0.5), 3: (1 / 3, 1 / 3, 1 / 3)}


@dataclass(frozen=True)
class Case:
    """One method with the same meaning on both sides."""

    method: str
    num_components: int = 3
    parameters: dict[str, Any] = field(default_factory=dict)
    peer: dict[str, Any] = field(default_factory=dict)  # mergekit's parameters
    weights: tuple[float, ...] | None = None
    peer_base: bool | None = None  # whether mergekit is given the base; None: where the method uses one
    note: str = ""


_FULL = "at density 1: masks are drawn at random, and differ"
CASES = (
    Case("linear"),
    Case("linear", parameters={"normalize": False}, peer={"normalize": False}, weights=(0.5, 0.5, 0.5)),
    Case("task_arithmetic", parameters={"scale": 0.7}, peer={"lambda": 0.7}),
    Case("slerp", 2, peer={"t": 0.3}, note="mergekit: a straight line where the cosine is above 0.9995"),
    Case("nuslerp", 2),
    Case("nuslerp", 2, {"task_vectors": True}, peer_base=True),
    Case("multislerp", note="mergekit's tangents at the mean sum to 0; so does this definition"),
    Case("multislerp", parameters={"task_vectors": True}, peer_base=True),
    Case("karcher", weights=_EQUAL[3], note="at equal weights: mergekit's ignores them; it stops at 1e-5"),
    Case("karcher", 3, {}, {"max_iter": 50, "tol": 1e-7}, _EQUAL[3], note="at equal weights, and to the end"),
    Case("model_stock", weights=_EQUAL[3], note="at equal weights: mergekit's has none"),
    Case("model_stock", 2, weights=_EQUAL[2], note="at equal weights: mergekit's has none"),
    Case("ties", peer={"density": 0.9}),
    Case("ties", 2, {"density": 0.3}, {"density": 0.3}),
    Case("ties", parameters={"normalize": False}, peer={"density": 0.9, "normalize": False}),
    Case("dare_linear", parameters={"density": 1}, peer={"density": 1.0}, note=_FULL),
    Case("dare_linear", peer={"density": 0.9}, note="other masks; mergekit rescales by the ratio of L1 norms"),
    Case("dare_ties", parameters={"density": 1}, peer={"density": 1.0, "normalize": True}, note=_FULL),
    Case("della_linear", parameters={"density": 1, "epsilon": 0}, peer={"density": 1.0}, note=_FULL),
    Case("della", parameters={"density": 1, "epsilon": 0}, peer={"density": 1.0}, note=_FULL),
    Case("breadcrumbs", peer={"density": 0.9, "gamma": 0.01}),
    Case("breadcrumbs_ties", peer={"density": 0.9, "gamma": 0.01, "normalize": True}),
    Case("sce", weights=_EQUAL[3], note="at equal weights: mergekit's has none"),
    Case("sce", 3, {"select_topk": 0.3}, {"select_topk": 0.3}, _EQUAL[3], note="at equal weights: mergekit's has none"),
)


def write_models(folder: Path, hidden: int) -> list[dict[str, torch.Tensor]]:
    """Three components that share half of their task vectors, then their base, each a model folder; the tensors."""
    inner, vocabulary = 2 * hidden, 4 * hidden
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary}
    config |= {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": 1, "num_attention_heads": 4}
    config |= {"num_key_value_heads": 4, "torch_dtype": "float32", "tie_word_embeddings": False}
    layer = {f"self_attn.{name}_proj.weight": (hidden, hidden) for name in "qkvo"}
    layer |= {"mlp.gate_proj.weight": (inner, hidden), "mlp.up_proj.weight": (inner, hidden)}
    layer |= {"mlp.down_proj.weight": (hidden, inner), "input_layernorm.weight": (hidden,)}
    layer |= {"post_attention_layernorm.weight": (hidden,)}
    shapes = {f"model.layers.0.{name}": shape for name, shape in layer.items()} | {"model.norm.weight": (hidden,)}
    shapes |= {"model.embed_tokens.weight": (vocabulary, hidden), "lm_head.weight": (vocabulary, hidden)}
    generator = np.random.default_rng(0)
    models: list[dict[str, torch.Tensor]] = [{} for _ in range(4)]
    for name, shape in shapes.items():
        base, shared, *own = (generator.normal(size=shape) for _ in range(5))
        for model, noise in zip(models, [*own, None], strict=True):
            theta = 0.1 * base if noise is None else 0.1 * base + 0.01 * shared + 0.01 * noise
            model[name] = torch.from_numpy(theta).float()
    for name, model in zip(("c0", "c1", "c2", "base"), models, strict=True):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
        save_file(model, folder / name / "model.safetensors", {"format": "pt"})
    return models


def peer_config(case: Case, folder: Path) -> dict[str, Any]:
    """The case as mergekit's configuration."""
    weights = case.weights or _WEIGHTS[case.num_components]
    components = [str(folder / f"c{index}") for index in range(case.num_components)]
    base = case.peer_base
    if base is None:
        base = build_method(case.method, case.parameters, 0, case.num_components, True).uses_base
    config: dict[str, Any] = {"merge_method": case.method, "dtype": "float32", "parameters": case.peer}
    if case.method == "slerp":
        return config | {"base_model": components[0], "models": [{"model": model} for model in components]}
    weighted = [
        {"model": model, "parameters": {"weight": weight}} for model, weight in zip(components, weights, strict=True)
    ]
    return config | {"models": weighted} | ({"base_model": str(folder / "base")} if base else {})


def merge(case: Case, models: list[dict[str, torch.Tensor]], name: str) -> torch.Tensor:
    """The tensor as it is merged here, in two blocks."""
    method = build_method(case.method, case.parameters, 0, case.num_components, True)
    used = [model[name] for model in models[: case.num_components]] + ([models[-1][name]] if method.uses_base else [])
    sources_TRC = torch.stack([tensor.reshape(-1, tensor.shape[-1]) for tensor in used])
    cut = sources_TRC.shape[1] // 3 * sources_TRC.shape[2]
    components = tuple(f"c{index}" for index in range(case.num_components))
    rows_TRC = torch.tensor_split(sources_TRC, [sources_TRC.shape[1] // 3], dim=1)
    blocks = [Block(part, components, name, name, first) for part, first in zip(rows_TRC, (0, cut), strict=True)]
    blocks = [block for block in blocks if block.sources_TRC.numel()]
    statistics = collect(method, lambda: iter(blocks), sources_TRC[0].numel())
    weights_1K = np.array([case.weights or _WEIGHTS[case.num_components]])
    if isinstance(method, LinearMethod):
        (coefficients_T,) = method.coefficients(weights_1K, statistics).tolist()
        merged = sum(c * source_RC for c, source_RC in zip(coefficients_T, sources_TRC, strict=True))
        return torch.as_tensor(merged).reshape(used[0].shape)
    assert isinstance(method, BlockMethod)
    parts = [method.mix(method.prepare(block, statistics), weights_1K, statistics)[0] for block in blocks]
    return torch.cat(parts).reshape(used[0].shape)


def compare(case: Case, models: list[dict[str, torch.Tensor]], peer: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The largest differences over all tensors."""
    worst, worst_task, apart, lengths = 0.0, 0.0, 0, np.zeros(2)
    for name, theirs in peer.items():
        base = models[-1][name].double()
        ours, theirs = merge(case, models, name).double(), theirs.double()
        difference = (ours - theirs).abs()
        worst = max(worst, float(difference.max() / theirs.abs().max()))
        worst_task = max(worst_task, float(difference.max() / (theirs - base).abs().max()))
        apart += int((difference > 1e-5 * theirs.abs().max()).sum())
        lengths += [float((ours - base).square().sum()), float((theirs - base).square().sum())]
    row: dict[str, Any] = {"method": case.method, "num_components": case.num_components, "parameters": case.parameters}
    row |= {"mergekit_parameters": case.peer, "weights": case.weights or _WEIGHTS[case.num_components]}
    row |= {"max_relative_difference": worst, "max_difference_relative_to_task_vector": worst_task}
    row |= {"elements_apart": apart, "elements": sum(tensor.numel() for tensor in peer.values())}
    return row | {"task_vector_length_ratio": float(np.sqrt(lengths[0] / lengths[1])), "note": case.note}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mergekit-python", type=Path, help="the interpreter of mergekit's environment")
    parser.add_argument("--quick", action="store_true", help="smaller matrices")
    arguments = parser.parse_args()
    if arguments.mergekit_python is None:
        print("not run: --mergekit-python is missing, see --help")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = write_models(folder, 32 if arguments.quick else 128)
        outputs = [folder / f"merged_{index}" for index in range(len(CASES))]
        jobs = [(peer_config(case, folder), str(output)) for case, output in zip(CASES, outputs, strict=True)]
        (folder / "jobs.json").write_text(json.dumps(jobs))
        command = [str(arguments.mergekit_python.absolute()), "-c", _PEER, str(folder / "jobs.json")]
        output = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout
        versions = json.loads(output.strip().splitlines()[-1])
        rows = []
        for case, merged in zip(CASES, outputs, strict=True):
            rows.append(compare(case, models, load_file(merged / "model.safetensors")))
            print(case.method, case.parameters, f"{rows[-1]['max_relative_difference']:.2e}", rows[-1]["note"])
    agreeing = [row for row in rows if "other masks" not in row["note"]]
    worst: dict[str, float] = {}
    for row in agreeing:
        worst[row["method"]] = max(worst.get(row["method"], 0.0), row["max_relative_difference"])
    # Where that environment lies on this machine is no part of the record.
    sys.argv = [argument.replace(str(arguments.mergekit_python), "MK/bin/python") for argument in sys.argv]
    finish("mergekit_methods", arguments.quick, [0], rows, {"peer": versions, "max_relative_difference": worst})


if __name__ == "__main__":
    main()
