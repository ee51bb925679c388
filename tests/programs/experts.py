"""On every rank: a small mixture-of-experts Qwen3, merged live from components with random weights, and scored.

    experts.py RUN TENSOR DATA EXPERT FOLDER

The datasets and the suite are RUN's. The components' full tensors are written to FOLDER by the first who comes.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories

from nemo_demix.artifacts import DataManifest
from nemo_demix.checkpoints.reader import CheckpointReader
from nemo_demix.config import ModelConfig, load_resolved
from nemo_demix.merging.live import LiveProxies
from nemo_demix.merging.methods.linear import Linear
from nemo_demix.runtime.model import build_model, shards
from nemo_demix.runtime.ranks import start_ranks, stop_ranks
from nemo_demix.runtime.recipe import model_shape
from nemo_demix.scoring.scorer import Scorer

SIZES = {
    "num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 128, "moe_ffn_hidden_size": 32, "num_moe_experts": 4,
    "moe_router_topk": 2, "num_attention_heads": 2, "num_query_groups": 2, "kv_channels": 32,
}  # fmt: skip
WEIGHTS = {"one": 0.5, "two": 0.3, "three": 0.2}


def main() -> None:
    run, folder = Path(sys.argv[1]), Path(sys.argv[5])
    config = load_resolved(run / "config.yaml")
    config.model = ModelConfig(
        "nemo.collections.llm.recipes.qwen3_30b_a3b.pretrain_recipe", overrides={"model": {"config": SIZES}}
    )
    config.parallel.tensor, config.parallel.data, config.parallel.expert = map(int, sys.argv[2:5])
    manifest = DataManifest.load(run / "datasets" / "manifest.json")
    ranks = start_ranks(config.parallel)
    model = build_model(config, manifest)
    components = {name: folder / name for name in WEIGHTS}
    if not folder.exists():
        write_components(model, components)
    proxies = LiveProxies(model, components, Linear())
    proxies.write(WEIGHTS)
    readers = {name: CheckpointReader(path) for name, path in components.items()}
    error = 0.0
    for shard in shards(model):
        box = tuple(slice(o, o + s) for o, s in zip(shard.offsets, shard.sizes, strict=True))
        exact = sum(weight * readers[name].read_tensor(shard.name)[box].double() for name, weight in WEIGHTS.items())
        error = max(error, float((shard.view.view(shard.sizes).double() - exact).abs().max()))
    bits_R = Scorer(config.suite, manifest, None).bits(model)
    if ranks.is_main:
        shape = model_shape(config, manifest.tokenizer["vocab_size"])
        assert shape is not None
        found = {
            "error": error,
            "bits": bits_R.tolist(),
            "resident": proxies.num_bytes,
            "held": sum(parameter.numel() for parameter in model.parameters()),
            "counted": shape.parameters_of_rank(config.parallel).total,
        }
        print(json.dumps(found), flush=True)
    stop_ranks()


def write_components(model: torch.nn.Module, components: dict[str, Path]) -> None:
    """Full tensors, random around 0 with the usual standard deviation; norms around 1."""
    state = model.sharded_state_dict(prefix="module.")
    apply_factories(state)
    items = [item for item in nested_values(state) if isinstance(item, ShardedTensor) and item.data is not None]
    shapes = {item.key: item.global_shape for item in items}
    generator = torch.Generator().manual_seed(0)
    for path in components.values():
        full = {
            name: torch.randn(shape, generator=generator) * 0.02 + (1.0 if "norm" in name else 0.0)
            for name, shape in sorted(shapes.items())
        }
        dcp.save(full, checkpoint_id=str(path))


if __name__ == "__main__":
    main()
