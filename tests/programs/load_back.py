"""On every rank: load checkpoints as the framework of their layout does, and compare with what they should hold.

    load_back.py RUN TENSOR PIPELINE JOBS.json

JOBS.json is a list of {checkpoint, reference}; where the reference (a checkpoint too) is left out, the checkpoint is
its own, and what is shown is that Megatron reads what our reader reads. The last line on rank 0 is
{"results": [{checkpoint, iteration, missing, unexpected, num_mismatched, max_difference, loss}]}.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from nemo_demix.artifacts import DataManifest
from nemo_demix.checkpoints.layouts import detect
from nemo_demix.checkpoints.layouts.training_folder import TRACKER
from nemo_demix.checkpoints.reader import CheckpointReader
from nemo_demix.config import load_resolved
from nemo_demix.runtime.model import build_model, shards
from nemo_demix.runtime.ranks import start_ranks, stop_ranks


def main() -> None:
    run, tensor, pipeline, jobs = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    config = load_resolved(run / "config.yaml")
    config.parallel.tensor, config.parallel.pipeline = tensor, pipeline
    start_ranks(config.parallel)
    model = build_model(config, DataManifest.load(run / "datasets" / "manifest.json"))
    results = []
    for job in json.loads(jobs.read_text()):
        layout = detect(Path(job["checkpoint"]))
        dtype = next(iter(CheckpointReader(layout.root).tensors.values())).dtype
        model.to(dtype)
        model.config.params_dtype = model.config.pipeline_dtype = dtype  # what pipeline stages send each other
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(float("nan"))
        found = {"nemo2": nemo2, "torch_dcp": torch_dcp}.get(layout.kind, megatron_lm)(model, layout)
        difference = compare(model, CheckpointReader(Path(job.get("reference", job["checkpoint"]))))
        results.append({"checkpoint": job["checkpoint"], **found, **difference, "loss": loss(model)})
    if dist.get_rank() == 0:
        print(json.dumps({"results": results}), flush=True)
    stop_ranks()


def megatron_lm(model: torch.nn.Module, layout: Any) -> dict[str, Any]:
    """Megatron-LM's load_checkpoint: tracker, folder, common state, then the shards; Megatron-Bridge does the same."""
    from megatron.core import dist_checkpointing

    tracked = (layout.root / TRACKER).read_text().strip()
    name = layout.root / ("release" if tracked == "release" else f"iter_{int(tracked):07d}")
    assert dist_checkpointing.check_is_distributed_checkpoint(str(name))
    common = dist_checkpointing.load_common_state_dict(str(name))  # rank 0's pass, for the arguments
    assert common["checkpoint_version"] == 3.0
    if "args" in common:
        assert common["args"].num_layers == model.config.num_layers
    state, mismatches = load(name, {"model": model.sharded_state_dict(prefix="")})
    model.load_state_dict(state["model"], strict=True)
    return {"iteration": common["iteration"], **mismatches}


def nemo2(model: torch.nn.Module, layout: Any) -> dict[str, Any]:
    """NeMo's MegatronStrategy.load_checkpoint, weights only."""
    from megatron.core import dist_checkpointing

    content = dist_checkpointing.load_content_metadata(str(layout.weights))
    shards = model.sharded_state_dict(prefix="module.", metadata=content)
    state, mismatches = load(layout.weights, {"state_dict": shards})
    weights = {name.removeprefix("module."): value for name, value in state["state_dict"].items()}
    model.load_state_dict(weights, strict=True)
    return {"iteration": state["global_step"], **mismatches}


def load(folder: Path, state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """dist_checkpointing.load, which raises on nothing here but says what did not match, optimizer aside."""
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.validation import StrictHandling

    found, missing, unexpected = dist_checkpointing.load(
        state, str(folder), validate_access_integrity=True, strict=StrictHandling.RETURN_ALL
    )
    known = ("optimizer.", "rng_state", "rerun_state_machine")
    return found, {
        "missing": sorted(name for name in missing if not name.startswith(known)),
        "unexpected": sorted(unexpected),
    }


def torch_dcp(model: torch.nn.Module, layout: Any) -> dict[str, Any]:
    """torch.distributed.checkpoint.load of full tensors."""
    entries = CheckpointReader(layout.root).tensors
    state = {name: torch.empty(entry.shape, dtype=entry.dtype) for name, entry in entries.items()}
    dcp.load(state, checkpoint_id=layout.weights)
    for shard in shards(model):
        shard.view.view(shard.sizes).copy_(state[shard.name][_box(shard)])
    return {"iteration": None, "missing": [], "unexpected": []}


def _box(shard: Any) -> tuple[slice, ...]:
    return tuple(slice(o, o + s) for o, s in zip(shard.offsets, shard.sizes, strict=True))


def compare(model: torch.nn.Module, reader: CheckpointReader) -> dict[str, Any]:
    """Elements that differ in their bits, over all shards of all ranks, and by how much."""
    mismatched, largest = 0, 0.0
    for shard in shards(model):
        name = shard.name if shard.name in reader.tensors else shard.name.removeprefix("module.")
        expected = reader.read_tensor(name)[_box(shard)].to(shard.view.dtype)
        found = shard.view.view(shard.sizes)
        mismatched += int((found != expected).sum())
        largest = max(largest, float((found.double() - expected.double()).abs().max()))
    totals = torch.tensor([mismatched, largest], dtype=torch.float64)
    dist.all_reduce(totals[:1])
    dist.all_reduce(totals[1:], op=dist.ReduceOp.MAX)
    return {"num_mismatched": int(totals[0]), "max_difference": float(totals[1])}


@torch.no_grad()
def loss(model: torch.nn.Module) -> float:
    """Mean nats per token of one fixed batch; the same on every layout, up to the order of sums."""
    from megatron.core import parallel_state
    from megatron.core.pipeline_parallel import get_forward_backward_func

    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 512, (2, 33), generator=generator)
    outputs = get_forward_backward_func()(
        forward_step_func=partial(_forward, tokens=tokens), data_iterator=None, model=model, num_microbatches=1,
        seq_length=32, micro_batch_size=2, forward_only=True, collect_non_loss_data=True,
    )  # fmt: skip
    reports = parallel_state.is_pipeline_last_stage() and parallel_state.get_tensor_model_parallel_rank() == 0
    total = torch.tensor([outputs[0] if reports else 0.0], dtype=torch.float64)
    dist.all_reduce(total)
    return float(total)


def _forward(data_iterator: Any, model: torch.nn.Module, tokens: torch.Tensor) -> tuple[Any, Any]:
    positions = torch.arange(32).expand(2, 32)
    nats = model(tokens[:, :-1], positions, None, labels=tokens[:, 1:])
    return nats, lambda values, non_loss_data=True: float(values.double().mean())


if __name__ == "__main__":
    main()
