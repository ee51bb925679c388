"""Programs that gpu_check.py starts: they want CUDA, or ranks, in a process of their own. The last line is JSON.

_gpu_programs.py precision RUN CHECKPOINT | transformer_engine | collectives DEVICE
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch


def precision(run: Path, checkpoint: Path) -> dict[str, Any]:
    """How far log-probabilities of a checkpoint in bf16 are from those in fp32, relative to their size. On one rank."""
    from nemo_demix.artifacts import DataManifest
    from nemo_demix.config import load_resolved
    from nemo_demix.runtime.model import build_model, load_checkpoint
    from nemo_demix.runtime.ranks import start_ranks, stop_ranks
    from nemo_demix.scoring.scorer import Scorer

    config = load_resolved(run / "config.yaml")
    config.runs_dir = str(run.parent)
    manifest = DataManifest.load(run / "datasets" / "manifest.json")
    start_ranks(config.parallel, config.backend)
    scorer = Scorer(config.suite, manifest, None)
    found = {}
    for name in ("32", "bf16-mixed"):
        config.train.precision = name
        model = build_model(config, manifest)
        load_checkpoint(model, checkpoint)
        found[name] = scorer.gold_token_logprobs(model).astype(np.float64)
        del model
    stop_ranks()
    exact, rounded = found["32"], found["bf16-mixed"]
    difference = np.abs(exact - rounded)
    return {
        "num_tokens": len(exact),
        "max_rel_diff": float(difference.max() / np.abs(exact).mean()),
        "mean_abs_diff": float(difference.mean()),
    }


def transformer_engine() -> dict[str, Any]:
    """Transformer Engine's fused layers beside the same arithmetic by torch in fp32: relative error of the outputs."""
    try:
        import transformer_engine.pytorch as te
    except Exception as error:  # a broken binary raises anything
        return {"absent": f"Transformer Engine does not import: {type(error).__name__}: {str(error)[:200]}"}
    torch.manual_seed(0)
    hidden, ffn, rows = 1024, 4096, 512
    inputs = torch.randn(rows, hidden, device="cuda", dtype=torch.bfloat16)
    found = []
    for name, layer in (
        ("linear", te.LayerNormLinear(hidden, ffn, normalization="RMSNorm", bias=False, params_dtype=torch.bfloat16)),
        ("attention_out", te.Linear(hidden, hidden, bias=False, params_dtype=torch.bfloat16)),
    ):
        layer = layer.cuda()
        wide = inputs.float()
        if name == "linear":
            wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5) * layer.layer_norm_weight.float()
        expected = wide @ layer.weight.float().T
        kinds = [("bf16", False, 0.02)]
        if torch.cuda.get_device_capability() >= (8, 9):
            kinds.append(("fp8", True, 0.15))
        for kind, enabled, limit in kinds:
            with torch.no_grad(), te.fp8_autocast(enabled=enabled):
                error = (layer(inputs).float() - expected).norm() / expected.norm()
            found.append({"layer": name, "precision": kind, "relative": float(error), "limit": limit})
    return {"rows": found}


def collectives(device: str) -> dict[str, Any]:
    """Sums and gathers over all ranks, right, and bytes a second of a sum. Collective: every rank."""
    by = "nccl" if device == "cuda" else "gloo"
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if device == "cuda":
        torch.cuda.set_device(rank)
    torch.distributed.init_process_group(by)
    count = (64 if device == "cuda" else 1) << 20
    values = torch.full((count,), float(rank + 1), device=device)
    torch.distributed.all_reduce(values)
    right = bool((values == size * (size + 1) / 2).all())
    parts = [torch.empty(1000, device=device) for _ in range(size)]
    torch.distributed.all_gather(parts, torch.full((1000,), float(rank), device=device))
    right = right and all(bool((part == number).all()) for number, part in enumerate(parts))
    repeats = 5
    _settle(device)
    started = time.perf_counter()
    for _ in range(repeats):
        torch.distributed.all_reduce(values, op=torch.distributed.ReduceOp.MAX)
    _settle(device)
    seconds = (time.perf_counter() - started) / repeats
    torch.distributed.destroy_process_group()
    return {"by": by, "ranks": size, "right": right, "bytes": values.nbytes,
            "gb_s": round(values.nbytes / seconds / 1e9, 2)}  # fmt: skip


def _settle(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
    torch.distributed.barrier()


def main() -> None:
    name, *arguments = sys.argv[1:]
    if name == "precision":
        found = precision(Path(arguments[0]), Path(arguments[1]))
    elif name == "transformer_engine":
        found = transformer_engine()
    else:
        found = collectives(arguments[0])
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(found), flush=True)


main()
