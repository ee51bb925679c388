"""What a user writes with torch.distributed.checkpoint: load all components whole, merge in fp32, save each mixture.

Tensors only (no `_extra_state`, `common.pt` or `context/`), loaded once for all mixtures, saved with fsync.
Megatron's `.metadata` names its own classes, so reading it imports megatron-core: that is in the time.
"""

import json
import sys
import time
from pathlib import Path

import torch
from torch.distributed import checkpoint as dcp


def load(folder: Path) -> dict[str, torch.Tensor]:
    reader = dcp.FileSystemReader(folder)
    state = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in reader.read_metadata().state_dict_metadata.items()
        if isinstance(entry, dcp.metadata.TensorStorageMetadata)
    }
    dcp.load(state, storage_reader=reader, no_dist=True)
    return state


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    start = time.perf_counter()
    components = {name: load(Path(path) / "weights") for name, path in job["components"].items()}
    load_s, merge_s, save_s = time.perf_counter() - start, 0.0, 0.0
    for mixture, weights in job["mixtures"].items():
        start = time.perf_counter()
        merged = {}
        for name, first in next(iter(components.values())).items():
            total = torch.zeros(first.shape, dtype=torch.float32)
            for component, weight in weights.items():
                total.add_(components[component][name], alpha=weight)
            merged[name] = total.to(first.dtype)
        middle = time.perf_counter()
        folder = Path(job["output"]) / mixture / "weights"
        dcp.save(merged, storage_writer=dcp.FileSystemWriter(folder, sync_files=True), no_dist=True)
        merge_s += middle - start
        save_s += time.perf_counter() - middle
    phase_s = load_s + merge_s + save_s
    print(json.dumps({"phase_s": phase_s, "load_s": load_s, "merge_s": merge_s, "save_s": save_s}))


if __name__ == "__main__":
    main()
