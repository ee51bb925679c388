"""Bytes, operations and seconds from 1.7 to 405 billion parameters, on paper; and a small case measured beside it.

The formulas are those of `nemo_demix/memory.py` and `model_shape.py`; docs/SCALING.md explains them and shows these
tables (--tables prints them). The small case is a finished `runs/quickstart` (or --run DIR): files are sized, its
components are held on real ranks, and a backward pass is watched. No time is measured.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from _provenance import REPOSITORY, finish

from nemo_demix.config import DemixConfig, ParallelConfig, SuiteConfig, TrainConfig, load_resolved
from nemo_demix.memory import GIB, search_memory, training_memory
from nemo_demix.model_shape import ModelShape

SHAPES = {
    "1.7B": ModelShape(28, 2048, 6144, 16, 8, 128, 151_936, is_gated=True, tied_embeddings=True, qk_norm=True),
    "8B": ModelShape(32, 4096, 14336, 32, 8, 128, 128_256, is_gated=True, tied_embeddings=False),
    "70B": ModelShape(80, 8192, 28672, 64, 8, 128, 128_256, is_gated=True, tied_embeddings=False),
    "405B": ModelShape(126, 16384, 53248, 128, 8, 128, 128_256, is_gated=True, tied_embeddings=False, recompute="full"),
}
LAYOUTS = {"1.7B": (1, 1), "8B": (2, 1), "70B": (4, 8), "405B": (8, 18)}  # tensor, pipeline; 126 layers are 18 x 7
BATCH, LENGTH = 512, 8192
COMPONENT_TOKENS, SUITE_TOKENS, PROXIES = 30e9, 10e6, 224
PEAK, TRAIN_SHARE, SCORE_SHARE = 989e12, 0.41, 0.30  # H100, bf16, dense; Megatron-LM's README; a guess
NETWORK, STORAGE, HBM = 50e9, 100e9, 3.35e12  # bytes/s: 400 Gb/s a GPU; a file system of 100 GB/s; one GPU's memory
GPU_GIB = 80.0


def config_of(tensor: int, pipeline: int, data: int = 1) -> DemixConfig:
    """A production run's sizes at a layout."""
    return DemixConfig(
        parallel=ParallelConfig(tensor, pipeline, data, sequence=tensor > 1),
        train=TrainConfig(BATCH, 1, LENGTH),
        suite=SuiteConfig(batch_tokens=16384),
    )


def sizes() -> Iterator[dict[str, Any]]:
    """Of each model: what one checkpoint, one copy of it and one token are."""
    for name, shape in SHAPES.items():
        tensor, pipeline = LAYOUTS[name]
        memory = training_memory(config_of(tensor, pipeline, 8), shape)
        yield {
            "table": "sizes", "model": name, "parameters": shape.num_parameters,
            "weights_gb": 2 * shape.num_parameters / 1e9, "with_optimizer_gb": 14 * shape.num_parameters / 1e9,
            "gflop_a_token": shape.flops_per_token(LENGTH) / 1e9, "tensor": tensor, "pipeline": pipeline,
            "training_gib": memory.total / GIB,
        }  # fmt: skip


def searches() -> Iterator[dict[str, Any]]:
    """Of each model and K: the smallest group of GPUs that holds K components, and what it reads and does."""
    for name, shape in SHAPES.items():
        for num_components in (7, 15, 50):
            tensor, pipeline, gib = smallest_group(shape, num_components)
            group, weights = tensor * pipeline, 2 * shape.num_parameters
            forward = SUITE_TOKENS * 2 * shape.active_parameters
            # Every source is read, copied to fp32, read again and summed; the sum is read and written.
            merged = shape.num_parameters * (num_components * (2 + 4 + 4) + 4 + 2)
            yield {
                "table": "searches", "model": name, "components": num_components, "group": group, "tensor": tensor,
                "pipeline": pipeline, "gib": gib, "read_gb": num_components * weights / 1e9,
                "read_s": num_components * weights / STORAGE, "merge_s": merged / HBM / group,
                "score_s": forward / (SCORE_SHARE * PEAK * group),
                "gpu_hours": PROXIES * forward / (SCORE_SHARE * PEAK) / 3600,
            }  # fmt: skip


def smallest_group(shape: ModelShape, num_components: int) -> tuple[int, int, float]:
    """Tensor and pipeline sizes, and the estimate in GiB."""
    divisors = [size for size in range(1, shape.num_layers + 1) if shape.num_layers % size == 0]
    fitting = []
    for tensor in (1, 2, 4, 8):
        for pipeline in divisors:
            gib = search_memory(config_of(tensor, pipeline), shape, num_components, False, False).total / GIB
            if gib <= GPU_GIB:
                fitting.append((tensor * pipeline, -tensor, pipeline, gib))
    _, tensor, pipeline, gib = min(fitting)
    return -tensor, pipeline, gib


def trainings() -> Iterator[dict[str, Any]]:
    """Of each model and number of GPUs: one component's step and its parts."""
    for name, shape in SHAPES.items():
        tensor, pipeline = LAYOUTS[name]
        for nodes in (1, 8, 64, 128):
            gpus = 8 * nodes
            data = gpus // (tensor * pipeline)
            if data < 1 or data > BATCH:
                continue
            memory = training_memory(config_of(tensor, pipeline, data), shape)
            held = shape.parameters_of_rank(ParallelConfig(tensor, pipeline)).total
            # Gradients are summed in fp32 and scattered, weights gathered in bf16; each rank sends all but its part.
            sent = 6 * held * (data - 1) / data
            again = 4 / 3 if shape.recompute == "full" else 1  # a second forward pass
            compute = again * BATCH * LENGTH * shape.flops_per_token(LENGTH)
            compute /= tensor * pipeline * data * TRAIN_SHARE * PEAK
            yield {
                "table": "trainings", "model": name, "gpus": tensor * pipeline * data, "data": data,
                "gib": memory.total / GIB, "fits": memory.total <= GPU_GIB * GIB, "step_s": compute,
                "network_s": sent / NETWORK, "component_hours": COMPONENT_TOKENS / (BATCH * LENGTH) * compute / 3600,
                "checkpoint_s": 14 * shape.num_parameters / STORAGE, "files_a_checkpoint": 2 * tensor * pipeline * data,
            }  # fmt: skip


def program(name: str, *arguments: str, ranks: int = 1) -> dict[str, Any]:
    """What one of the tests' programs found on real ranks."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command += [str(REPOSITORY / "tests/programs" / f"{name}.py"), *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def measured(run: Path) -> Iterator[dict[str, Any]]:
    """Formulas against a run of megabytes: found and expected bytes."""
    config = load_resolved(run / "config.yaml")
    tensor, pipeline = config.parallel.tensor, config.parallel.pipeline
    live = program("live_merge", str(run), str(tensor), str(pipeline), ranks=tensor * pipeline)
    whole = program("live_merge", str(run), "1", "1")
    parameters = whole["counted"]
    checkpoints = sorted((run / "models/component").glob("*/checkpoints/step_*/weights"))
    tensors = [sum(path.stat().st_size for path in folder.glob("*.distcp")) for folder in checkpoints]
    yield row("parameters of a rank that holds most", live["held"], live["counted"])
    yield row("parameters of one rank that holds all", whole["held"], parameters)
    yield row("resident components of a rank", live["resident_bytes"], 4 * live["num_components"] * live["held"])
    yield row("tensors of a finished checkpoint, mean", sum(tensors) / len(tensors), 4 * parameters)
    rows = (run / "search/scores.jsonl").read_bytes().splitlines()
    yield {"table": "measured", "what": "line of scores.jsonl a proxy, mean", "found": sum(map(len, rows)) / len(rows)}
    kept = program("activations")
    yield row(
        "kept for a backward pass, unfused layers",
        kept["kept"] - kept["scores"] - kept["logits"] / 2,
        kept["estimated"],
    )


def row(what: str, found: float, expected: float) -> dict[str, Any]:
    """One comparison."""
    return {
        "table": "measured",
        "what": what,
        "found": found,
        "expected": expected,
        "ratio": round(found / expected, 4),
    }


def print_table(rows: Sequence[dict[str, Any]], name: str) -> None:
    """The rows of one table, as Markdown."""
    chosen = [{key: value for key, value in row.items() if key != "table"} for row in rows if row["table"] == name]
    print(f"\n| {' | '.join(chosen[0])} |\n|{'---|' * len(chosen[0])}")
    for line in chosen:
        cells = (
            f"{value:,.3g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)
            for value in line.values()
        )
        print(f"| {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--tables", action="store_true", help="print the tables only")
    parser.add_argument("--quick", action="store_true", help="accepted for uniformity; it takes about a minute")
    arguments = parser.parse_args()
    rows = [*sizes(), *searches(), *trainings()]
    if arguments.tables:
        for name in ("sizes", "searches", "trainings"):
            print_table(rows, name)
        return
    small = list(measured(arguments.run.resolve()))
    finish(
        "scaling", arguments.quick, [], [*small, *rows], {row["what"]: row.get("ratio", row["found"]) for row in small}
    )


if __name__ == "__main__":
    main()
