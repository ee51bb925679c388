"""On every rank: merge live, and compare with float64 arithmetic on the checkpoints' own full tensors."""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from nemo_demix.artifacts import DataManifest
from nemo_demix.checkpoints.reader import CheckpointReader
from nemo_demix.config import load_resolved
from nemo_demix.merging.live import LiveProxies
from nemo_demix.merging.methods.linear import Linear
from nemo_demix.prepared import PreparedRun
from nemo_demix.runtime.model import build_model, shards
from nemo_demix.runtime.ranks import start_ranks, stop_ranks
from nemo_demix.runtime.recipe import model_shape


def box(reader: CheckpointReader, shard) -> torch.Tensor:
    """The shard's part of the full tensor."""
    full = reader.read_tensor(shard.name)
    return full[tuple(slice(o, o + s) for o, s in zip(shard.offsets, shard.sizes, strict=True))]


def main() -> None:
    config = load_resolved(Path(sys.argv[1]) / "config.yaml")
    config.parallel.tensor, config.parallel.pipeline = int(sys.argv[2]), int(sys.argv[3])
    manifest = DataManifest.load(Path(sys.argv[1]) / "datasets" / "manifest.json")
    start_ranks(config.parallel)
    paths = {job.name: job.checkpoint for job in PreparedRun(config, manifest).components}
    model = build_model(config, manifest)
    proxies = LiveProxies(model, paths, Linear())
    readers = {name: CheckpointReader(path) for name, path in paths.items()}
    held = list(shards(model))
    covered = {id(parameter) for parameter in model.parameters()}

    one_hot_mismatches = 0
    for name in paths:
        proxies.write({name: 1.0})
        for shard in held:
            same = torch.equal(
                shard.view.view(shard.sizes).view(torch.int32), box(readers[name], shard).contiguous().view(torch.int32)
            )
            one_hot_mismatches += not same

    rng = np.random.default_rng(0)
    worst_ulp = worst_absolute = 0.0
    for _ in range(3):
        weights = dict(zip(paths, rng.dirichlet(np.ones(len(paths))), strict=True))
        proxies.write(weights)
        for shard in held:
            exact = sum(weight * box(readers[name], shard).double() for name, weight in weights.items())
            magnitude = sum(weight * box(readers[name], shard).double().abs() for name, weight in weights.items())
            error = (shard.view.view(shard.sizes).double() - exact).abs()
            worst_absolute = max(worst_absolute, float(error.max()))
            worst_ulp = max(worst_ulp, float((error / (magnitude * torch.finfo(torch.float32).eps + 1e-45)).max()))
    held_elements = sum(parameter.numel() for parameter in model.parameters())
    shape = model_shape(config, manifest.tokenizer["vocab_size"])
    assert shape is not None
    totals = torch.tensor([one_hot_mismatches, worst_ulp, worst_absolute, held_elements], dtype=torch.float64)
    torch.distributed.all_reduce(totals, op=torch.distributed.ReduceOp.MAX)
    if torch.distributed.get_rank() == 0:
        print(
            json.dumps(
                {
                    "one_hot_mismatches": int(totals[0]),
                    "worst_ulp": float(totals[1]),
                    "worst_absolute": float(totals[2]),
                    "held": int(totals[3]),
                    "resident_bytes": proxies.num_bytes,
                    "num_components": len(paths),
                    "counted": shape.parameters_of_rank(config.parallel).total,
                    "num_shards": len(held),
                    "num_parameters": len(covered),
                }
            ),
            flush=True,
        )
    stop_ranks()


if __name__ == "__main__":
    main()
