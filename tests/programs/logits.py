"""On every rank: the logits of checkpoints for given tokens, gathered over the tensor-parallel ranks.

The request is a JSON file: run, tensor, tokens (batch, sequence), models {name: {checkpoint, overrides, vocab_size}},
output (an .npz). The model is built as scoring and the search build it.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import load_resolved
from nemo_demix.runtime.model import build_model, load_checkpoint
from nemo_demix.runtime.ranks import start_ranks, stop_ranks


@torch.no_grad()
def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text())
    config = load_resolved(Path(request["run"]) / "config.yaml")
    config.parallel.tensor = request["tensor"]
    ranks = start_ranks(config.parallel)
    tokens = torch.tensor(request["tokens"])
    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    logits = {}
    for name, asked in request["models"].items():
        config.model.overrides = {"model": {"config": asked["overrides"]}}
        config.model.vocab_size = asked["vocab_size"]
        manifest = DataManifest({"vocab_size": asked["vocab_size"]}, {}, {}, "m")
        model = build_model(config, manifest)
        load_checkpoint(model, Path(asked["checkpoint"]))
        local = model(tokens, positions, None).contiguous()
        parts = [torch.empty_like(local) for _ in range(ranks.world_size)]
        torch.distributed.all_gather(parts, local)
        logits[name] = torch.cat(parts, dim=-1).numpy()
    if ranks.is_main:
        np.savez(request["output"], **logits)
        print(json.dumps({name: list(value.shape) for name, value in logits.items()}), flush=True)
    stop_ranks()


if __name__ == "__main__":
    main()
