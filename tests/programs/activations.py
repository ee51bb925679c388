"""What a small dense Qwen3 keeps for its backward pass, beside the estimate of `nemo_demix.memory`; on one rank.

The last line is JSON: bytes of {"kept", "estimated", "scores", "logits"}. Attention is not fused on a CPU: `scores` is
what it keeps on top (softmax of heads x sequence^2), and what flash attention would not.
"""

import json

import torch

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import DemixConfig, ModelConfig, ParallelConfig, TrainConfig
from nemo_demix.memory import activation_bytes, logit_bytes
from nemo_demix.runtime.model import build_model
from nemo_demix.runtime.ranks import start_ranks, stop_ranks
from nemo_demix.runtime.recipe import model_shape

SIZES = {
    "num_layers": 4, "hidden_size": 256, "ffn_hidden_size": 768, "num_attention_heads": 4, "num_query_groups": 2,
    "kv_channels": 64,
}  # fmt: skip
ROWS, LENGTH = 8, 64


def main() -> None:
    parallel = ParallelConfig()
    config = DemixConfig(
        name="activations",
        model=ModelConfig(
            "nemo.collections.llm.recipes.qwen3_1p7b.pretrain_recipe",
            overrides={"model": {"config": SIZES}},
            vocab_size=1024,
        ),
        parallel=parallel,
        train=TrainConfig(ROWS, ROWS, LENGTH, precision="32"),
    )
    start_ranks(parallel)
    model = build_model(config, DataManifest({"vocab_size": 1024}, {}, {}, "m")).train()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    owned = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = torch.randint(0, 1024, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(tokens, torch.arange(LENGTH).expand_as(tokens), None, labels=tokens)
    loss.sum().backward()

    shape = model_shape(config, None)
    assert shape is not None
    found = {
        "kept": sum(kept.values()),
        "estimated": activation_bytes(shape, parallel, ROWS * LENGTH, 1, 4),
        "scores": 4 * shape.num_layers * shape.num_heads * ROWS * LENGTH**2,
        "logits": logit_bytes(shape, parallel, ROWS * LENGTH, 4),
        "layers": shape.num_layers,
    }
    print(json.dumps(found), flush=True)
    stop_ranks()


if __name__ == "__main__":
    main()
