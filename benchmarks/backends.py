"""One component trained by both back ends: from the same weights, in the same data order, with the same optimizer.

Each by its own environment's `nemo-demix train`, pair by pair, the order turned round every time, so that both meet the
same moods of the machine. The model is the quickstart's, with two datasets; CPU, fp32, gloo. Columns of a row:

- `train_s`: of the component's training and its checkpoints, without imports; `tokens_per_s` by it
- `final_loss`: nats a token at the last step

Summary: the median over pairs of Bridge's time over NeMo's, and the largest difference of a step's loss between both.
Nothing is measured without the environment that `make bridge` makes.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _provenance import REPOSITORY, finish
from _study import json_lines, nemo_demix

from nemo_demix.artifacts import ModelRecord, load_record
from nemo_demix.datasets.registry import corpus

COMPONENT = "code_1"
# Text in files: what packages carry differs between the two environments.
RECIPE = """
defaults: [quickstart, _self_]
name: shared
datasets:
  general: {{capability: general, sources: [{{path: {folder}/open_passages.jsonl}}]}}
  code_1: {{capability: code, sources: [{{path: {folder}/codeio_high.jsonl}}]}}
suite:
  benchmarks:
    hellaswag: {{capability: general, registry: hellaswag}}
    mbpp: {{capability: code, registry: mbpp}}
"""
CORPORA = ("open_passages", "codeio_high")
PYTHONS = {"nemo": sys.executable, "bridge": str(REPOSITORY / ".venv-bridge/bin/python")}
# What Bridge's recipes have otherwise than NeMo's.
LIKE_NEMO = (
    "+model.overrides.optimizer.adam_eps=1e-5",
    "+model.overrides.scheduler.start_weight_decay=0.1",
    "+model.overrides.scheduler.end_weight_decay=0.1",
)
# Enough, and at a low enough rate, that no step's loss jumps: a jump makes of rounding what is seen.
BASE_TOKENS, MAX_LR = 262_144, 3e-4
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--tensor", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one pair, an eighth of the tokens")
    arguments = parser.parse_args()
    if not Path(PYTHONS["bridge"]).exists():
        print(f"{PYTHONS['bridge']} is not there: `make bridge` makes it; nothing is measured")
        return
    pairs, tokens = (1, 16_384) if arguments.quick else (arguments.pairs, 131_072)
    with tempfile.TemporaryDirectory() as folder:
        rows, curves = measure(Path(folder), pairs, [f"parallel.tensor={arguments.tensor}"], tokens)
    ratios = [by("bridge", pair, rows) / by("nemo", pair, rows) for pair in range(pairs)]
    nemo, bridge = (curves[backend] for backend in ("nemo", "bridge"))
    summary = {
        "bridge_ratio_nemo": round(float(np.median(ratios)), 3),
        "bridge_ratio_nemo_least": round(min(ratios), 3),
        "bridge_ratio_nemo_most": round(max(ratios), 3),
        "first_loss_difference": float(f"{abs(nemo[1] - bridge[1]):.2g}"),
        "max_loss_difference": float(f"{max(abs(nemo[step] - bridge[step]) for step in nemo):.2g}"),
        "num_steps": len(nemo),
        "tensor": arguments.tensor,
    }
    finish("backends", arguments.quick, [SEED], rows, summary)


def measure(
    folder: Path, pairs: int, shared: list[str], tokens: int
) -> tuple[list[dict[str, Any]], dict[str, dict[int, float]]]:
    """A row a training, and each back end's losses by step."""
    for name in CORPORA:
        lines = (json.dumps({"text": text}) + "\n" for text in corpus(name).read())
        (folder / f"{name}.jsonl").write_text("".join(lines))
    recipe_in(folder).write_text(RECIPE.format(folder=folder))
    shared = [f"seed={SEED}", *shared, f"base.num_tokens={BASE_TOKENS}", f"components.num_tokens={tokens}"]
    # Bridge's warm-up begins at a learning rate of 0, NeMo's does not.
    shared += [f"components.max_lr={MAX_LR}", "components.warmup_share=0"]
    for stage in (["prepare"], ["train", "role=base"]):
        nemo_demix(folder, *stage, *shared, name="shared", recipe=str(recipe_in(folder)))
    base = load_record(folder / "shared/models/base/base/record.json", ModelRecord).checkpoint
    rows, curves = [], {}
    for pair in range(pairs):
        for backend in ("nemo", "bridge") if pair % 2 == 0 else ("bridge", "nemo"):
            record, losses = train(folder, backend, f"{backend}_{pair}", [*shared, f"base.checkpoint={base}"])
            if curves.setdefault(backend, losses) != losses:
                raise RuntimeError(f"{backend}: the same training gave other losses the second time")
            row = {"pair": pair, "backend": backend, "train_s": record.wall_time_s, "final_loss": record.final_loss}
            rows.append({**row, "tokens_per_s": round(record.num_tokens / record.wall_time_s)})
            print(rows[-1], flush=True)
    return rows, curves


def train(runs: Path, backend: str, name: str, given: list[str]) -> tuple[ModelRecord, dict[int, float]]:
    """Train the component in a run of its own, from the base that is brought; its record, and its losses by step."""
    shutil.copytree(runs / "shared/datasets", runs / name / "datasets")
    if backend == "bridge":
        given = [*given, "backend=bridge", "model=bridge_qwen3_tiny", *LIKE_NEMO]
    for role in (["role=base"], ["role=component", f"component={COMPONENT}"]):
        python, recipe = PYTHONS[backend], str(recipe_in(runs))
        nemo_demix(runs, "train", *role, *given, name=name, recipe=recipe, python=python)
    folder = runs / name / "models/component" / COMPONENT
    losses = {row["step"]: row["loss"] for row in json_lines(folder / "losses.jsonl")}
    return load_record(folder / "record.json", ModelRecord), losses


def recipe_in(folder: Path) -> Path:
    """Where the recipe of all these runs is."""
    return folder / "shared.yaml"


def by(backend: str, pair: int, rows: list[dict[str, Any]]) -> float:
    """Seconds of a back end's training in a pair."""
    return next(row["train_s"] for row in rows if (row["backend"], row["pair"]) == (backend, pair))


if __name__ == "__main__":
    main()
