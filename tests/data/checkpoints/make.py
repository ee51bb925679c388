"""Save a tiny model as one release of megatron-core does: the checkpoints that stand beside this file.

    PYTHONPATH=WHEEL[:TRITON] python tests/data/checkpoints/make.py FOLDER {dense,moe} STEP [--load]

WHEEL is an unpacked wheel of the release, which comes before the installed one; 0.18 and 0.19 import triton, which
another unpacked wheel gives. One rank, on CPU. What stands around the weights is what Megatron-LM's save_checkpoint
writes of them: its arguments, the optimizer's state, the scheduler's, random state, the tracker. Each archive beside
this file, `core_RELEASE_MODEL.tar.xz`, holds two of them, `one` of step 10 and `two` of step 20:

    for name in one:10 two:20; do python make.py core/${name%:*} dense ${name#*:}; done
    tar --sort=name --mtime=@0 --owner=0 --group=0 -cJf core_0.19.2_dense.tar.xz -C core one two

`--load` has the release load what is in FOLDER, a merge for example, and prints what it found.
"""

import argparse
import dataclasses
import importlib.abc
import os
import random
import sys
from pathlib import Path

import torch
import torch.distributed as dist

HIDDEN, HEADS, VOCABULARY, LENGTH = 16, 2, 32, 8


class Absent(importlib.abc.MetaPathFinder):
    """These are not installed: their releases here do not fit every megatron-core."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in ("nvidia_resiliency_ext", "transformer_engine", "apex", "modelopt"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("model", choices=["dense", "moe"])
    parser.add_argument("step", type=int)
    parser.add_argument("--load", action="store_true")
    options = parser.parse_args()
    set_up()
    from megatron.core import __version__

    torch.manual_seed(options.step)
    model = build(options.model)
    weights = options.folder / f"iter_{options.step:07d}"
    if options.load:
        print(__version__, load(model, weights))
        return
    weights.mkdir(parents=True)
    save(state(model, options), weights)
    (options.folder / "latest_checkpointed_iteration.txt").write_text(str(options.step))
    print(__version__, sorted(path.name for path in weights.iterdir()))


def set_up() -> None:
    """Make of this process a rank of its own, on the CPU."""
    sys.meta_path.insert(0, Absent())
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29611", RANK="0", WORLD_SIZE="1")
    torch.set_num_threads(1)
    torch.cuda.synchronize = lambda device=None: None  # the save waits for the device; there is none
    torch.cuda.current_device = lambda: torch.device("cpu")
    dist.init_process_group("gloo", rank=0, world_size=1)
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import initialize_rng_tracker

    parallel_state.initialize_model_parallel()
    initialize_rng_tracker(inference_rng_tracker=True)  # the other one asks CUDA for its state


def build(kind: str) -> torch.nn.Module:
    """Two layers; of the mixture of experts, the second has four."""
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec
    from megatron.core.transformer.transformer_config import TransformerConfig

    experts = {"num_moe_experts": 4, "moe_layer_freq": [0, 1], "moe_ffn_hidden_size": 8} if kind == "moe" else {}
    config = TransformerConfig(
        num_layers=2, hidden_size=HIDDEN, ffn_hidden_size=2 * HIDDEN, num_attention_heads=HEADS, num_query_groups=1,
        use_cpu_initialization=True, gated_linear_unit=True, activation_func=torch.nn.functional.silu,
        add_bias_linear=False, normalization="RMSNorm", params_dtype=torch.float32, pipeline_dtype=torch.float32,
        bias_activation_fusion=False, gradient_accumulation_fusion=False, persist_layer_norm=False,
        apply_rope_fusion=False, **experts,
    )  # fmt: skip
    spec = get_gpt_decoder_block_spec(config, use_transformer_engine=False)
    return GPTModel(
        config, spec, vocab_size=VOCABULARY, max_sequence_length=LENGTH, position_embedding_type="rope",
        share_embeddings_and_output_weights=kind == "dense",
    )  # fmt: skip


def state(model: torch.nn.Module, options: argparse.Namespace) -> dict[str, object]:
    """What Megatron-LM's generate_state_dict gives."""
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor, apply_factories
    from megatron.core.enums import ModelType

    shards = model.sharded_state_dict()
    apply_factories(shards)
    moments = {
        (kind, number): dataclasses.replace(
            shard, key=f"optimizer.state.{kind}.{shard.key}", data=torch.rand(shard.local_shape), dtype=torch.float32
        )
        for kind in ("exp_avg", "exp_avg_sq")
        for number, shard in enumerate(item for item in nested_values(shards) if isinstance(item, ShardedTensor))
    }
    config = model.config
    arguments = argparse.Namespace(
        num_layers=config.num_layers, hidden_size=HIDDEN, ffn_hidden_size=config.ffn_hidden_size,
        num_attention_heads=HEADS, group_query_attention=True, num_query_groups=config.num_query_groups,
        kv_channels=config.kv_channels, swiglu=True, num_experts=config.num_moe_experts,
        untie_embeddings_and_output_weights=options.model != "dense", padded_vocab_size=VOCABULARY,
        params_dtype=torch.float32, model_type=ModelType.encoder_or_decoder, ckpt_format="torch_dist",
        iteration=options.step, data_path=["1.0", Path("/data/text")],
    )  # fmt: skip
    rng = [{"random_rng_state": random.getstate(), "torch_rng_state": torch.get_rng_state()}]
    return {
        "args": arguments,
        "checkpoint_version": 3.0,
        "iteration": options.step,
        "model": model.sharded_state_dict(),
        "optimizer": {"state": moments, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.95), "step": options.step}]},
        "opt_param_scheduler": {"max_lr": 1e-3, "num_steps": options.step, "lr_decay_style": "cosine"},
        "rng_state": ShardedObject("rng_state", rng, (1, 1), (0, 0), replica_id=0),
        "num_floating_point_operations_so_far": 1000 * options.step,
    }


def save(content: dict[str, object], folder: Path) -> None:
    """By the release's own save; its default strategy."""
    from megatron.core import dist_checkpointing

    metadata = {"singleton_local_shards": False, "chained_optim_avoid_prefix": True}
    dist_checkpointing.save(content, str(folder), content_metadata=metadata)


def load(model: torch.nn.Module, folder: Path) -> dict[str, object]:
    """By the release's own load: what it holds for all ranks, and the sum of all weights."""
    from megatron.core import dist_checkpointing

    found = dist_checkpointing.load({"model": model.sharded_state_dict()}, str(folder))
    model.load_state_dict(found.pop("model"))
    total = sum(float(parameter.detach().double().sum()) for parameter in model.parameters())
    return {"common": sorted(found), "iteration": found.get("iteration"), "sum": total}


if __name__ == "__main__":
    main()
