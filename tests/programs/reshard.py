"""On every rank: save NeMo 2 checkpoints again, through megatron-core's own save, at another layout and split.

    reshard.py RUN TENSOR PIPELINE JOBS.json

JOBS.json is a list of {checkpoint, layout, output} with, where wanted, bf16, optimizer and release (each true or
false). What stands around the weights is what the frameworks write: Megatron-LM's generate_state_dict and
save_checkpoint, Megatron-Bridge's save_checkpoint and TrainState.
"""

import argparse
import dataclasses
import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import yaml

from nemo_demix.artifacts import DataManifest
from nemo_demix.checkpoints.reader import CheckpointReader
from nemo_demix.config import load_resolved
from nemo_demix.runtime.model import build_model, load_checkpoint
from nemo_demix.runtime.ranks import start_ranks, stop_ranks
from nemo_demix.runtime.saving import hand_over_in_process

ITERATION = 10


def main() -> None:
    run, tensor, pipeline, jobs = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    config = load_resolved(run / "config.yaml")
    config.parallel.tensor, config.parallel.pipeline = tensor, pipeline
    start_ranks(config.parallel)
    model = build_model(config, DataManifest.load(run / "datasets" / "manifest.json"))
    for job in json.loads(jobs.read_text()):
        source, output = Path(job["checkpoint"]), Path(job["output"])
        model.float()
        load_checkpoint(model, source)
        if job.get("bf16"):
            model.bfloat16()
        {"nemo2": nemo2, "megatron_lm": megatron_lm, "megatron_bridge": megatron_bridge, "torch_dcp": torch_dcp}[
            job["layout"]
        ](model, source, output, job)
        dist.barrier()
    if dist.get_rank() == 0:
        print(json.dumps({"saved": True}), flush=True)
    stop_ranks()


def nemo2(model: torch.nn.Module, source: Path, output: Path, job: dict[str, Any]) -> None:
    common = torch.load(source / "weights" / "common.pt", weights_only=True)
    content = common.pop("content_metadata")
    state = {**common, "sharded_state_dict": model.sharded_state_dict(prefix="module.")}
    if job.get("optimizer"):
        state["optimizer"] = [optimizer_state(model, "module.")]
    save(state, output / "weights", content)
    if dist.get_rank() == 0:
        shutil.copytree(source / "context", output / "context")


def megatron_lm(model: torch.nn.Module, source: Path, output: Path, job: dict[str, Any]) -> None:
    state = {"args": megatron_arguments(model), **megatron_state(model, job)}
    folder = "release" if job.get("release") else f"iter_{ITERATION:07d}"
    save(state, output / folder, {"singleton_local_shards": False, "chained_optim_avoid_prefix": True})
    if dist.get_rank() == 0:
        (output / "latest_checkpointed_iteration.txt").write_text("release" if job.get("release") else str(ITERATION))


def megatron_bridge(model: torch.nn.Module, source: Path, output: Path, job: dict[str, Any]) -> None:
    folder = output / f"iter_{ITERATION:07d}"
    save(megatron_state(model, job), folder, {"singleton_local_shards": False, "chained_optim_avoid_prefix": True})
    if dist.get_rank() != 0:
        return
    names = (
        "num_layers hidden_size ffn_hidden_size num_attention_heads num_query_groups kv_channels gated_linear_unit "
        "share_embeddings_and_output_weights num_moe_experts vocab_size layernorm_epsilon rotary_base"
    ).split()
    section = {name: getattr(model.config, name) for name in names}
    section["_target_"] = "megatron.bridge.models.qwen.qwen_provider.Qwen3ModelProvider"
    section["activation_func"] = {"_target_": "torch.nn.functional.silu", "_call_": False}
    run_config = {"model": section, "checkpoint": {"ckpt_format": "torch_dist", "save": str(output)}, "peft": None}
    (folder / "run_config.yaml").write_text(yaml.safe_dump(run_config))
    (folder / "tokenizer").mkdir()
    shutil.copy(source / "context" / "tokenizer" / "tokenizer.json", folder / "tokenizer")
    train_state = {name: torch.tensor(0, dtype=torch.int32) for name in ("skipped_train_samples",)}
    train_state["step"] = torch.tensor(ITERATION, dtype=torch.int32)
    train_state["do_train"] = torch.tensor(True)
    for path in (folder / "train_state.pt", output / "latest_train_state.pt"):
        torch.save(train_state, path)
    (output / "latest_checkpointed_iteration.txt").write_text(str(ITERATION))


def torch_dcp(model: torch.nn.Module, source: Path, output: Path, job: dict[str, Any]) -> None:
    reader = CheckpointReader(source)
    dtype = next(model.parameters()).dtype
    dcp.save({name: reader.read_tensor(name).to(dtype) for name in reader}, checkpoint_id=str(output))


def save(state: dict[str, Any], folder: Path, content: dict[str, Any]) -> None:
    from megatron.core import dist_checkpointing

    hand_over_in_process()
    if dist.get_rank() == 0:
        folder.mkdir(parents=True)
    dist.barrier()
    dist_checkpointing.save(state, str(folder), validate_access_integrity=True, content_metadata=content)


def megatron_state(model: torch.nn.Module, job: dict[str, Any]) -> dict[str, Any]:
    """Megatron-LM's and Megatron-Bridge's state; unlike NeMo's, its names have no prefix."""
    from megatron.core import parallel_state
    from megatron.core.dist_checkpointing.mapping import ShardedObject
    from megatron.core.rerun_state_machine import get_rerun_state_machine

    stage, stages = (
        parallel_state.get_pipeline_model_parallel_rank(),
        parallel_state.get_pipeline_model_parallel_world_size(),
    )
    rank, ranks = parallel_state.get_tensor_model_parallel_rank(), parallel_state.get_tensor_model_parallel_world_size()
    rng = [{"random_rng_state": random.getstate(), "torch_rng_state": torch.get_rng_state()}]
    state = {
        "checkpoint_version": 3.0,
        "iteration": ITERATION,
        "model": model.sharded_state_dict(prefix=""),
        "rng_state": ShardedObject("rng_state", rng, (stages, ranks), (stage, rank), replica_id=0),
        "num_floating_point_operations_so_far": 0,
    }
    if job.get("optimizer"):
        state["optimizer"] = optimizer_state(model, "")
        state["opt_param_scheduler"] = {"max_lr": 1e-3, "num_steps": 100, "lr_decay_style": "cosine"}
        state["rerun_state_machine"] = get_rerun_state_machine().state_dict(None, "torch_dist", force=True)
    return state


def optimizer_state(model: torch.nn.Module, prefix: str) -> dict[str, Any]:
    """Adam's moments under the names and in the shards that a Float16OptimizerWithFloat16Params saves."""
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories

    shards = model.sharded_state_dict(prefix=prefix)
    apply_factories(shards)
    state = {
        (kind, number): dataclasses.replace(
            shard, key=f"optimizer.state.{kind}.{shard.key}", data=torch.rand(shard.local_shape), dtype=torch.float32
        )
        for kind in ("exp_avg", "exp_avg_sq")
        for number, shard in enumerate(item for item in nested_values(shards) if isinstance(item, ShardedTensor))
    }
    return {"state": state, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.95), "step": ITERATION}]}


def megatron_arguments(model: torch.nn.Module) -> argparse.Namespace:
    """The part of Megatron-LM's command line that its checkpoints are read by, and some of what else it holds."""
    from megatron.core.enums import ModelType
    from megatron.core.transformer.enums import AttnBackend

    config = model.config
    return argparse.Namespace(
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        ffn_hidden_size=config.ffn_hidden_size,
        num_attention_heads=config.num_attention_heads,
        group_query_attention=config.num_query_groups != config.num_attention_heads,
        num_query_groups=config.num_query_groups if config.num_query_groups != config.num_attention_heads else 1,
        kv_channels=config.kv_channels,
        swiglu=config.gated_linear_unit,
        untie_embeddings_and_output_weights=not config.share_embeddings_and_output_weights,
        num_experts=config.num_moe_experts,
        padded_vocab_size=config.vocab_size,
        params_dtype=next(model.parameters()).dtype,
        attention_backend=AttnBackend.auto,
        model_type=ModelType.encoder_or_decoder,
        tokenizer_type="HuggingFaceTokenizer",
        ckpt_format="torch_dist",
        data_path=["1.0", Path("/data/text")],
    )


if __name__ == "__main__":
    main()
