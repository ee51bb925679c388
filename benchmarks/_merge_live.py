"""Merging into memory, against what memory itself takes to be read and written so much: one process, one thread.

Run with a job file, it is that process: components are loaded from their checkpoints into `LiveProxies` beside a model
that holds one proxy in the checkpoints' dtype, mixtures are written one at a time and in batches; the plain reads and
writes of as many bytes are timed before. The model has no layers: only its parameters matter here.
"""

import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

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


class Parameters(torch.nn.Module):
    """A checkpoint's tensors as parameters, whole, with the sharded state dict that Megatron's modules have."""

    def __init__(self, tensors: dict[str, Any]) -> None:
        super().__init__()
        self.values = {
            name: torch.nn.Parameter(torch.ones(entry.shape, dtype=entry.dtype)) for name, entry in tensors.items()
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
    model = Parameters(CheckpointReader(next(iter(paths.values()))).tensors)
    num_bytes = sum(value.nbytes for value in model.values.values())
    components = [np.full(num_bytes, index, dtype=np.uint8) for index in range(len(paths))]
    proxy = np.full(num_bytes, 0xFF, dtype=np.uint8)  # written, so that its pages are there
    rows: list[dict[str, Any]] = [
        {"contender": "memory", "repeat": repeat, **memory_limit(components, proxy)} for repeat in range(job["repeats"])
    ]
    del components, proxy  # both sets of components at once could be more than the machine has
    start = time.perf_counter()
    proxies = LiveProxies(model, paths, Linear(), batch=BATCH)
    loaded_s = time.perf_counter() - start
    drawn = np.random.default_rng(0).dirichlet([1.0] * len(paths), BATCH)
    mixtures = [dict(zip(paths, row.tolist(), strict=True)) for row in drawn]
    for repeat in range(job["repeats"]):
        start = time.perf_counter()
        proxies.announce([])
        proxies.write(mixtures[0])
        rows.append({"contender": "live", "repeat": repeat, "proxies": 1, "phase_s": time.perf_counter() - start})
        proxies.announce(mixtures)
        start = time.perf_counter()
        for mixture in mixtures:
            proxies.write(mixture)
        seconds = time.perf_counter() - start
        rows.append({"contender": "live", "repeat": repeat, "proxies": BATCH, "phase_s": seconds})
    print(json.dumps({"load_s": loaded_s, "rows": rows}))


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
