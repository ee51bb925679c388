"""Merging into memory, against what memory itself takes to be read and written so much: one process, one thread.

Run with a job file, it is that process: components are loaded from their checkpoints into `LiveProxies` beside a model
that holds one proxy in the checkpoints' dtype, mixtures are written one at a time and in batches; the plain reads and
writes of as many bytes are timed before. The model has no layers: only its parameters matter here.

A job may name a device (`cuda`: a GPU's memory), and ask how many values of a written mixture are the correctly rounded
float64 sums (`exact`; for checkpoints in bf16).
"""

import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from _merge_exact import correctly_rounded, megatron_tensors

_PIECE = 128 << 10  # bytes: stays in the cache of one core
BATCH = 4


def memory_limit(components: list[np.ndarray], proxy: np.ndarray) -> dict[str, float]:
    """Seconds to read the components and to write the proxy, nothing computed.

    Reading is copying, piece by piece, into a buffer that stays in the cache; writing is copying such a buffer out.
    """
    buffer = np.zeros(_PIECE, dtype=np.uint8)
    start = time.perf_counter()
    for component in components:
        for offset in range(0, component.size, _PIECE):
            piece = component[offset : offset + _PIECE]
            np.copyto(buffer[: piece.size], piece)
    middle = time.perf_counter()
    for offset in range(0, proxy.size, _PIECE):
        piece = proxy[offset : offset + _PIECE]
        np.copyto(piece, buffer[: piece.size])
    end = time.perf_counter()
    return {"read_s": middle - start, "write_s": end - middle, "phase_s": end - start}


def device_limit(num_bytes: int, num_components: int, device: str) -> dict[str, float]:
    """The same on a device: as long as its own copies take to move as many bytes."""
    source, proxy = (torch.full((num_bytes,), value, dtype=torch.uint8, device=device) for value in (1, 0))
    start = now(device)
    for _ in range(num_components):
        proxy.copy_(source)
    seconds = now(device) - start
    return {"phase_s": seconds * (num_components + 1) / (2 * num_components), "copied_bytes": num_bytes}


def now(device: str) -> float:
    """The time, once the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class Parameters(torch.nn.Module):
    """A checkpoint's tensors as parameters, whole, with the sharded state dict that Megatron's modules have."""

    def __init__(self, tensors: dict[str, Any], device: str) -> None:
        super().__init__()
        self.values = {
            name: torch.nn.Parameter(torch.ones(entry.shape, dtype=entry.dtype, device=device))
            for name, entry in tensors.items()
        }

    def sharded_state_dict(self, prefix: str) -> dict[str, Any]:
        from megatron.core.dist_checkpointing.mapping import ShardedTensor

        return {name: ShardedTensor.from_rank_offsets(name, value) for name, value in self.values.items()}


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    from nemo_demix.checkpoints.reader import CheckpointReader
    from nemo_demix.merging.live import LiveProxies
    from nemo_demix.merging.methods.linear import Linear

    paths = {name: Path(path) for name, path in job["components"].items()}
    device = job.get("device", "cpu")
    model = Parameters(CheckpointReader(next(iter(paths.values()))).tensors, device)
    num_bytes = sum(value.nbytes for value in model.values.values())
    rows: list[dict[str, Any]] = []
    if device == "cpu":
        components = [np.full(num_bytes, index, dtype=np.uint8) for index in range(len(paths))]
        proxy = np.full(num_bytes, 0xFF, dtype=np.uint8)  # written, so that its pages are there
        limits = (memory_limit(components, proxy) for _ in range(job["repeats"]))
        rows += [{"contender": "memory", "repeat": repeat, **limit} for repeat, limit in enumerate(limits)]
        del components, proxy  # both sets of components at once could be more than the machine has
    else:
        limits = (device_limit(num_bytes, len(paths), device) for _ in range(job["repeats"] + 1))
        rows += [{"contender": "memory", "repeat": repeat, **limit} for repeat, limit in enumerate(limits)][1:]
    start = now(device)
    proxies = LiveProxies(model, paths, Linear(), batch=BATCH)
    loaded_s = now(device) - start
    drawn = np.random.default_rng(0).dirichlet([1.0] * len(paths), BATCH)
    mixtures = [dict(zip(paths, row.tolist(), strict=True)) for row in drawn]
    for repeat in range(job["repeats"]):
        start = now(device)
        proxies.announce([])
        proxies.write(mixtures[0])
        rows.append({"contender": "live", "repeat": repeat, "proxies": 1, "phase_s": now(device) - start})
        proxies.announce(mixtures)
        start = now(device)
        for mixture in mixtures:
            proxies.write(mixture)
        rows.append({"contender": "live", "repeat": repeat, "proxies": BATCH, "phase_s": now(device) - start})
    if job.get("exact"):  # of the last mixture, which was merged with others from one read
        whole = {name: megatron_tensors(path)[0] for name, path in paths.items()}
        found = correctly_rounded(
            lambda name: model.values[name].detach().cpu(), whole, iter(model.values), mixtures[-1]
        )
        rows.append({"contender": "exact", **found})
    print(json.dumps({"load_s": loaded_s, "component_bytes": num_bytes, "rows": rows}))


def figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The named figures of the rows that were measured."""

    def seconds(**key: Any) -> list[float]:
        return [row["phase_s"] for row in rows if all(row.get(name) == value for name, value in key.items())]

    memory, single = seconds(contender="memory"), seconds(contender="live", proxies=1)
    batched = seconds(contender="live", proxies=BATCH)
    if not (memory and single and batched):
        return {}
    return {
        "live_limit_seconds": round(median(memory), 3),
        "live_seconds": round(median(single), 3),
        "live_ratio": round(median(single) / median(memory), 3),
        "live_seconds_batched": round(median(batched) / BATCH, 3),
    }


if __name__ == "__main__":
    main()
