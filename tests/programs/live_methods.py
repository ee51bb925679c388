"""On every rank: merge live by every method, and compare bit for bit with what the same merge wrote to disk.

    live_methods.py RUN TENSOR PIPELINE JOBS.json

JOBS.json is a list of {method, parameters, seed, components, base, merged, mixtures}: checkpoints by name, and the
folder whose <mixture>/ the merge on disk wrote.
"""

import json
import sys
from pathlib import Path

import torch

from nemo_demix.artifacts import DataManifest
from nemo_demix.checkpoints.reader import CheckpointReader
from nemo_demix.config import load_resolved
from nemo_demix.merging.live import LiveProxies
from nemo_demix.merging.methods import build_method
from nemo_demix.runtime.model import build_model, shards
from nemo_demix.runtime.ranks import start_ranks, stop_ranks


def mismatches(model: torch.nn.Module, merged: Path) -> int:
    """Elements of this rank's shards whose bits differ from the checkpoint's."""
    reader = CheckpointReader(merged)
    count = 0
    for shard in shards(model):
        box = tuple(slice(o, o + s) for o, s in zip(shard.offsets, shard.sizes, strict=True))
        expected = reader.read_tensor(shard.name)[box].contiguous()
        count += int((shard.view.view(shard.sizes).view(torch.int32) != expected.view(torch.int32)).sum())
    return count


def main() -> None:
    config = load_resolved(Path(sys.argv[1]) / "config.yaml")
    config.parallel.tensor, config.parallel.pipeline = int(sys.argv[2]), int(sys.argv[3])
    start_ranks(config.parallel)
    model = build_model(config, DataManifest.load(Path(sys.argv[1]) / "datasets" / "manifest.json"))
    found: dict[str, list[int]] = {}
    for job in json.loads(Path(sys.argv[4]).read_text()):
        components = {name: Path(path) for name, path in job["components"].items()}
        method = build_method(job["method"], job["parameters"], job["seed"], len(components), has_base=True)
        proxies = LiveProxies(model, components, method, Path(job["base"]), batch=2)
        for announced in (False, True):
            if announced:
                proxies.announce(list(job["mixtures"].values()))
            for name, weights in job["mixtures"].items():
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter.fill_(float("nan"))
                proxies.write(weights)
                total = torch.tensor([mismatches(model, Path(job["merged"]) / name)])
                torch.distributed.all_reduce(total)
                found.setdefault(job["method"], []).append(int(total))
    if torch.distributed.get_rank() == 0:
        print(json.dumps(found), flush=True)
    stop_ranks()


if __name__ == "__main__":
    main()
