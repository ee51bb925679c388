"""Small checkpoints as Megatron saves them at any tensor x pipeline layout, written without starting ranks.

tests/merging/test_grids.py compares what megatron-core itself saves; this is for the many cases that need no training.
"""

import io
import itertools
import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.distributed.checkpoint.metadata as dcp
import yaml
from torch.distributed.checkpoint.filesystem import _StorageInfo

HEADS, GROUPS, CHANNELS, HIDDEN, FFN, LAYERS, VOCAB = 4, 2, 8, 32, 48, 2, 64
QKV = (HEADS + 2 * GROUPS) * CHANNELS
LAYER = "module.decoder.layers."
SHAPES: dict[str, tuple[int, ...]] = {
    "module.embedding.word_embeddings.weight": (VOCAB, HIDDEN),
    LAYER + "self_attention.linear_qkv.layer_norm_weight": (LAYERS, HIDDEN),
    LAYER + "self_attention.linear_qkv.weight": (LAYERS, QKV, HIDDEN),
    LAYER + "self_attention.linear_proj.weight": (LAYERS, HIDDEN, HEADS * CHANNELS),
    LAYER + "mlp.linear_fc1.weight": (LAYERS, 2 * FFN, HIDDEN),
    LAYER + "mlp.linear_fc2.weight": (LAYERS, HIDDEN, FFN),
    "module.decoder.final_layernorm.weight": (HIDDEN,),
}
_ROW_PARALLEL = ("linear_proj.weight", "linear_fc2.weight")  # Megatron's word: the input axis is split
_COLUMN_PARALLEL = ("linear_qkv.weight", "linear_fc1.weight", "word_embeddings.weight")


def random_model(seed: int, near: Mapping[str, torch.Tensor] | None = None, dtype: torch.dtype = torch.float32):
    """A model, or one a small step away from another; a share of the steps is exactly zero."""
    generator = torch.Generator().manual_seed(seed)
    if near is None:
        return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()}
    return {
        name: (value + 0.1 * torch.randn(value.shape, generator=generator).relu().sub(0.3).relu()).to(dtype)
        for name, value in near.items()
    }


def boxes(name: str, shape: tuple[int, ...], tensor: int, pipeline: int, expert: int = 1):
    """(rank, offsets, sizes) of every chunk at a layout."""
    stacked = bool(re.search(r"\.layers\.(?!\d)", name)) and bool(shape)
    own = shape[1:] if stacked else shape
    halves = 2 if name.endswith("linear_fc1.weight") else 1
    split = tensor if name.endswith(_ROW_PARALLEL + _COLUMN_PARALLEL) else 1
    groups = expert if re.search(r"\.experts\.experts\.(?!\d)", name) else 1
    for layer, half, rank, group in itertools.product(
        range(shape[0] if stacked else 1), range(halves), range(split), range(groups)
    ):
        stage = layer * pipeline // shape[0] if stacked else (0 if "embedding" in name else pipeline - 1)
        lead = ((layer,), (1,)) if stacked else ((), ())
        offsets, sizes = [0] * len(own), list(own)
        axis = -1 if name.endswith(_ROW_PARALLEL) else -2
        if split > 1 or halves > 1:
            sizes[axis] = own[axis] // halves // split
            offsets[axis] = half * (own[axis] // halves) + rank * sizes[axis]
        if groups > 1:
            sizes[0] = own[0] // groups
            offsets[0] = group * sizes[0]
        yield stage * tensor + rank + group, lead[0] + tuple(offsets), lead[1] + tuple(sizes)


def write_checkpoint(
    root: Path,
    tensors: Mapping[str, torch.Tensor],
    tensor: int = 1,
    pipeline: int = 1,
    objects: Mapping[str, bytes] | None = None,
    config: Mapping[str, object] | None = None,
    expert: int = 1,
) -> Path:
    """A NeMo 2 checkpoint folder."""
    weights = root / "weights"
    weights.mkdir(parents=True)
    (root / "context").mkdir()
    model = {
        "num_layers": LAYERS, "hidden_size": HIDDEN, "ffn_hidden_size": FFN, "num_attention_heads": HEADS,
        "num_query_groups": GROUPS, "kv_channels": CHANNELS, "gated_linear_unit": True, "vocab_size": VOCAB,
        "share_embeddings_and_output_weights": True, **(config or {}),
    }  # fmt: skip
    (root / "context/model.yaml").write_text(yaml.safe_dump({"_target_": "tests.Model", "config": model}))
    state, storage, files = {}, {}, {}
    for name, value in tensors.items():
        chunks = []
        for rank, offsets, sizes in boxes(name, tuple(value.shape), tensor, pipeline, expert):
            piece = torch.empty(sizes, dtype=value.dtype)  # with its own strides: a slice keeps the whole tensor's
            piece.copy_(value[tuple(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True))])
            blob = io.BytesIO()
            torch.save(piece, blob)
            _store(
                files, storage, f"__{rank}_{len(chunks) % 2}.distcp", dcp.MetadataIndex(name, torch.Size(offsets)), blob
            )
            chunks.append(dcp.ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)))
        properties = dcp.TensorProperties(dtype=value.dtype)
        state[name] = dcp.TensorStorageMetadata(properties, value.size(), chunks)
    for name, content in (objects or {}).items():
        _store(files, storage, "__0_0.distcp", dcp.MetadataIndex(name), io.BytesIO(content))
        state[name] = dcp.BytesStorageMetadata()
    for file, content in files.items():
        (weights / file).write_bytes(content)
    (weights / ".metadata").write_bytes(pickle.dumps(dcp.Metadata(state, storage_data=storage)))
    torch.save({"global_step": 3}, weights / "common.pt")
    (weights / "metadata.json").write_text(json.dumps({"sharded_backend": "torch_dist", "sharded_backend_version": 1}))
    return root


def _store(files: dict[str, bytes], storage: dict, file: str, index: dcp.MetadataIndex, blob: io.BytesIO) -> None:
    old = files.get(file, b"")
    storage[index] = _StorageInfo(file, len(old), len(blob.getvalue()))
    files[file] = old + blob.getvalue()


def logical(name: str, value: np.ndarray) -> dict[tuple, np.ndarray]:
    """A stored tensor's matrices, as Hugging Face names them: {selector: rows x columns}."""
    if name.endswith("linear_qkv.weight"):
        grouped = value.reshape(LAYERS, GROUPS, HEADS // GROUPS + 2, CHANNELS, HIDDEN)
        parts = {"q": grouped[:, :, :-2], "k": grouped[:, :, -2:-1], "v": grouped[:, :, -1:]}
        return {(layer, p): x[layer].reshape(-1, HIDDEN) for layer in range(LAYERS) for p, x in parts.items()}
    if name.endswith("linear_fc1.weight"):
        return {
            (layer, part): value[layer, half * FFN : (half + 1) * FFN]
            for layer in range(LAYERS)
            for half, part in enumerate(("gate", "up"))
        }
    if ".layers." in name:
        return {(layer,): value[layer].reshape(-1, value.shape[-1]) for layer in range(LAYERS)}
    return {(): value.reshape(-1, value.shape[-1])}


def assemble(name: str, parts: Mapping[tuple, np.ndarray]) -> np.ndarray:
    """The stored tensor again, from its matrices."""
    shape = SHAPES[name]
    if name.endswith("linear_qkv.weight"):
        groups = {"q": HEADS // GROUPS, "k": 1, "v": 1}
        layers = [
            np.concatenate([parts[layer, p].reshape(GROUPS, n, CHANNELS, HIDDEN) for p, n in groups.items()], axis=1)
            for layer in range(LAYERS)
        ]
        return np.stack(layers).reshape(shape)
    if name.endswith("linear_fc1.weight"):
        return np.stack([np.concatenate([parts[i, "gate"], parts[i, "up"]]) for i in range(LAYERS)]).reshape(shape)
    if ".layers." in name:
        return np.stack([parts[(layer,)] for layer in range(LAYERS)]).reshape(shape)
    return parts[()].reshape(shape)
