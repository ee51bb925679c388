"""Component models for the merge benchmark, of random values: on disk exactly as NeMo saves them at tensor parallel 2.

The values are not trained: a base drawn with standard deviation 0.02 (norm weights around 1) and, on top of it, a small
difference for each component. What merging costs and how exactly it rounds does not depend on what a model has learned.

Run under torchrun with a shape as JSON and the components' folders, it is the program that saves the components: two
gloo ranks hand `ShardedTensor`s to megatron-core's own `dist_checkpointing.save`, through the strategy that NeMo uses.
"""

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nemo_demix.artifacts import write_json, write_text
from nemo_demix.checkpoints.reader import CheckpointReader

SEED = 0
TENSOR = 2  # tensor parallel size
BASE_STD, DELTA_STD = 0.02, 0.002
_LAYER = "module.decoder.layers."
_SHARD_NAMES = "self_attention.linear_proj self_attention.linear_qkv mlp.linear_fc1 mlp.linear_fc2".split()


@dataclasses.dataclass(frozen=True)
class Shape:
    """A Qwen3-like model with tied embeddings, in bf16."""

    num_layers: int = 28
    hidden_size: int = 1024
    ffn_hidden_size: int = 3072
    num_attention_heads: int = 16
    num_query_groups: int = 8
    kv_channels: int = 128
    vocab_size: int = 151_936
    num_moe_experts: int | None = None  # each layer's; every expert, and every layer, is then saved under its own name

    @property
    def qkv_rows(self) -> int:
        """Rows of linear_qkv: for each query group its queries, one key and one value."""
        return (self.num_attention_heads + 2 * self.num_query_groups) * self.kv_channels

    @property
    def num_elements(self) -> int:
        """Elements of all tensors."""
        h, f, experts = self.hidden_size, self.ffn_hidden_size, self.num_moe_experts
        matrices = self.qkv_rows * h + h * self.num_attention_heads * self.kv_channels + (experts or 1) * 3 * f * h
        matrices += (experts or 0) * h  # the router
        return self.vocab_size * h + h + self.num_layers * (matrices + 2 * h + 2 * self.kv_channels)


SHAPES = {
    "tiny": Shape(2, 256, 768, num_attention_heads=4, num_query_groups=2, kv_channels=64, vocab_size=1024),
    "quick": Shape(num_layers=2, vocab_size=8192),
    "0.5": Shape(num_layers=6),
    "1.2": Shape(),  # Qwen3-0.6B
    "4": Shape(num_layers=34, hidden_size=2048, ffn_hidden_size=6144),  # Qwen3-1.7B with six layers more
    "many": Shape(48, 512, 128, 8, 4, kv_channels=64, vocab_size=32_768, num_moe_experts=208),  # 20,306 tensors, 4.1 GB
}


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Components on disk, by name, in both formats."""

    shape: Shape
    megatron: dict[str, Path]  # NeMo 2 checkpoint folders
    hugging_face: dict[str, Path]  # folders of one model.safetensors each; empty where nobody asked for them
    megatron_lm: dict[str, Path]  # as `megatron`, under Megatron-LM's names; empty likewise

    @property
    def files(self) -> dict[str, list[Path]]:
        """The tensor files of each component, as Megatron wrote them."""
        return {name: sorted((path / "weights").glob("*.distcp")) for name, path in self.megatron.items()}

    @property
    def component_bytes(self) -> int:
        """Bytes of the tensors of one component: S."""
        return 2 * self.shape.num_elements


def prepare_inputs(
    folder: Path, shape: Shape, num_components: int, with_hugging_face: bool = False, with_megatron_lm: bool = False
) -> Inputs:
    """Generate what is not there yet; a component is there when the file that is written last is.

    Raises:
        RuntimeError: if the folder's disk is too small.
    """
    names = [f"c{index}" for index in range(num_components)]
    inputs = Inputs(
        shape,
        {name: folder / "megatron" / name for name in names},
        {name: folder / "hugging_face" / name for name in names} if with_hugging_face else {},
        {name: folder / "megatron_lm" / name for name in names} if with_megatron_lm else {},
    )
    saved = (*inputs.megatron.values(), *inputs.megatron_lm.values())
    missing = [path for path in saved if not (path / "context/model.yaml").exists()]
    unconverted = [name for name, path in inputs.hugging_face.items() if not (path / "config.json").exists()]
    folder.mkdir(parents=True, exist_ok=True)
    needed = (len(missing) + len(unconverted)) * inputs.component_bytes
    if (free := shutil.disk_usage(folder).free) < needed:
        raise RuntimeError(f"{folder}: {needed / 1e9:.0f} GB of inputs are wanted, {free / 1e9:.0f} GB are free")
    if missing:
        print(f"saving {len(missing)} components of {inputs.component_bytes / 1e9:.2f} GB in {folder}", flush=True)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={TENSOR}"]
        command += [__file__, json.dumps(dataclasses.asdict(shape)), *map(str, missing)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
    for name in unconverted:
        print(f"converting {name} to safetensors", flush=True)
        _save_hugging_face(inputs.megatron[name], inputs.hugging_face[name], shape)
    return inputs


def mixtures(names: list[str], number: int, prefix: str, seed: int) -> dict[str, dict[str, float]]:
    """Mixtures drawn uniformly from the simplex of the components."""
    weights_MK = np.random.default_rng(seed).dirichlet(np.ones(len(names)), number)
    return {f"{prefix}_{index}": dict(zip(names, row, strict=True)) for index, row in enumerate(weights_MK.tolist())}


def hugging_face_tensors(megatron: Any, shape: Shape) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors by their Hugging Face names, from a reader of the Megatron checkpoint."""
    read = megatron.read_tensor
    yield "model.embed_tokens.weight", read("module.embedding.word_embeddings.weight")
    yield "model.norm.weight", read("module.decoder.final_layernorm.weight")
    queries = shape.num_attention_heads // shape.num_query_groups
    names = {
        "self_attention.linear_proj.weight": "self_attn.o_proj.weight",
        "mlp.linear_fc2.weight": "mlp.down_proj.weight",
        "self_attention.linear_qkv.layer_norm_weight": "input_layernorm.weight",
        "mlp.linear_fc1.layer_norm_weight": "post_attention_layernorm.weight",
        "self_attention.q_layernorm.weight": "self_attn.q_norm.weight",
        "self_attention.k_layernorm.weight": "self_attn.k_norm.weight",
    }
    for megatron_name, name in names.items():
        for layer, tensor in enumerate(read(_LAYER + megatron_name)):
            yield f"model.layers.{layer}.{name}", tensor
    for layer, tensor in enumerate(read(_LAYER + "mlp.linear_fc1.weight")):
        gate, up = tensor.chunk(2)
        yield f"model.layers.{layer}.mlp.gate_proj.weight", gate
        yield f"model.layers.{layer}.mlp.up_proj.weight", up
    for layer, tensor in enumerate(read(_LAYER + "self_attention.linear_qkv.weight")):
        groups = tensor.view(shape.num_query_groups, queries + 2, shape.kv_channels, shape.hidden_size)
        for letter, part in (("q", groups[:, :queries]), ("k", groups[:, queries]), ("v", groups[:, queries + 1])):
            yield f"model.layers.{layer}.self_attn.{letter}_proj.weight", part.reshape(-1, shape.hidden_size)


def _save_hugging_face(checkpoint: Path, folder: Path, shape: Shape) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in hugging_face_tensors(CheckpointReader(checkpoint), shape)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.ffn_hidden_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_query_groups,
        "head_dim": shape.kv_channels,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000,
        "attention_bias": False,
        "tie_word_embeddings": True,
    }
    write_json(folder / "config.json", config)


@dataclasses.dataclass(frozen=True)
class _Piece:
    """What one rank saves of a tensor."""

    name: str
    sizes: tuple[int, ...]
    split: tuple[int, int, int] | None  # (axis, piece, pieces) of the tensor; None where every rank holds it whole
    layer: tuple[int, int] | None = None  # (layer, layers), where layers are one tensor along a first axis of their own

    @property
    def offsets(self) -> list[tuple[int, int, int]]:
        """(axis, piece, pieces) by axis of the tensor as it is saved."""
        own = [self.split] if self.split else []
        if self.layer is None:
            return own
        return [(0, *self.layer), *((axis + 1, piece, pieces) for axis, piece, pieces in own)]


def _pieces(shape: Shape, rank: int) -> Iterator[_Piece]:
    """This rank's pieces.

    Layers that are alike are one tensor. With experts, each layer and each expert has tensors of its own, as
    megatron-core saves layers that may differ and single experts.
    """
    h, layers = shape.hidden_size, shape.num_layers
    yield _Piece("module.embedding.word_embeddings.weight", (shape.vocab_size // TENSOR, h), (0, rank, TENSOR))
    for layer in range(layers):
        for name, sizes, split in _layer_pieces(shape, rank):
            if shape.num_moe_experts:
                yield _Piece(f"{_LAYER}{layer}.{name}", sizes, split)
            else:
                yield _Piece(_LAYER + name, sizes, split, (layer, layers))
    yield _Piece("module.decoder.final_layernorm.weight", (h,), None)


def _layer_pieces(shape: Shape, rank: int) -> Iterator[tuple[str, tuple[int, ...], tuple[int, int, int] | None]]:
    """This rank's pieces of a layer: name, local shape, split."""
    h, f = shape.hidden_size, shape.ffn_hidden_size // TENSOR
    attention = shape.num_attention_heads * shape.kv_channels // TENSOR
    yield "self_attention.linear_proj.weight", (h, attention), (1, rank, TENSOR)
    yield "self_attention.linear_qkv.weight", (shape.qkv_rows // TENSOR, h), (0, rank, TENSOR)
    experts = shape.num_moe_experts
    for mlp in [f"mlp.experts.experts.{expert}." for expert in range(experts)] if experts else ["mlp."]:
        for half in range(2):  # gate and up are chunks of their own
            yield mlp + "linear_fc1.weight", (f, h), (0, half * TENSOR + rank, 2 * TENSOR)
        yield mlp + "linear_fc2.weight", (h, f), (1, rank, TENSOR)
    if experts:
        yield "mlp.router.weight", (experts, h), None
    yield "self_attention.linear_qkv.layer_norm_weight", (h,), None
    yield "pre_mlp_layernorm.weight" if experts else "mlp.linear_fc1.layer_norm_weight", (h,), None
    yield "self_attention.q_layernorm.weight", (shape.kv_channels,), None
    yield "self_attention.k_layernorm.weight", (shape.kv_channels,), None


def _values(index: int, rank: int, piece: _Piece, component: int | None) -> torch.Tensor:
    """A piece's random values; all ranks draw the same for what each holds whole. Norm weights are around one."""
    key = (SEED, index, 0 if piece.split is None else rank, 0 if component is None else 1 + component)
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
    values = torch.randn(piece.sizes, generator=generator).mul_(BASE_STD if component is None else DELTA_STD)
    return values.add_(1.0) if len(piece.sizes) == 1 and component is None else values


def _save_components(shape: Shape, checkpoints: list[Path]) -> None:
    """Save the components. Collective: both ranks. Memory: a rank's base, one component and Megatron's copy of it."""
    from megatron.core.dist_checkpointing import ShardedTensor, save
    from megatron.core.dist_checkpointing.mapping import ShardedObject
    from megatron.core.dist_checkpointing.serialization import get_default_save_sharded_strategy
    from megatron.core.dist_checkpointing.strategies.fully_parallel import FullyParallelSaveStrategyWrapper

    from nemo_demix.runtime import cpu_alias

    cpu_alias.install()
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    pieces = list(_pieces(shape, rank))
    base = [_values(index, rank, piece, None).bfloat16() for index, piece in enumerate(pieces)]
    for checkpoint in checkpoints:
        prefix = "module." if checkpoint.parent.name == "megatron_lm" else ""  # that Megatron-LM's names lack
        state: dict[str, Any] = {"epoch": 0, "global_step": 16, "pytorch-lightning_version": "2.4.0", "state_dict": {}}
        for index, piece in enumerate(pieces):
            values = _values(index, rank, piece, int(checkpoint.name[1:])).add_(base[index]).bfloat16()
            state[f"{index}"] = ShardedTensor.from_rank_offsets(
                piece.name.removeprefix(prefix),
                values,
                *piece.offsets,
                replica_id=(0, rank if piece.split is None else 0, 0),
                prepend_axis_num=int(piece.layer is not None),
            )
        for layer in range(shape.num_layers):
            for module in _SHARD_NAMES:
                key = f"{_LAYER}{module}._extra_state".removeprefix(prefix)
                state[f"{key}{layer}"] = ShardedObject(key, None, (shape.num_layers,), (layer,), (0, rank, 0))
        if rank == 0:
            shutil.rmtree(checkpoint, ignore_errors=True)
            (checkpoint / "weights").mkdir(parents=True)
        torch.distributed.barrier()
        strategy = FullyParallelSaveStrategyWrapper(get_default_save_sharded_strategy("torch_dist", 1))
        content = {"singleton_local_shards": False, "chained_optim_avoid_prefix": True}
        save(state, str(checkpoint / "weights"), strategy, content_metadata=content)
        if rank == 0:
            _write_context(checkpoint / "context", shape)
            print(f"saved {checkpoint}", flush=True)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _write_context(folder: Path, shape: Shape) -> None:
    """The part of NeMo's model.yaml that says which architecture it is."""
    config = {
        "_target_": "nemo.collections.llm.gpt.model.qwen3.Qwen3Config600M",
        "add_bias_linear": False,
        "add_qkv_bias": False,
        "bf16": True,
        "gated_linear_unit": True,
        "layernorm_epsilon": 1e-6,
        "make_vocab_size_divisible_by": 128,
        "max_position_embeddings": 40960,
        "normalization": "RMSNorm",
        "pipeline_model_parallel_size": 1,
        "position_embedding_type": "rope",
        "qk_layernorm": True,
        "rotary_base": 1_000_000.0,
        "seq_length": 4096,
        "share_embeddings_and_output_weights": True,
        "tensor_model_parallel_size": TENSOR,
        **dataclasses.asdict(shape),
    }
    folder.mkdir(parents=True, exist_ok=True)
    model = {"_target_": "nemo.collections.llm.gpt.model.qwen3.Qwen3Model", "config": config}
    write_json(folder / "io.json", {})
    write_text(folder / "model.yaml", json.dumps(model, indent=2) + "\n")  # JSON is YAML


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("shape")
    parser.add_argument("checkpoints", type=Path, nargs="+")
    arguments = parser.parse_args()
    _save_components(Shape(**json.loads(arguments.shape)), arguments.checkpoints)
