"""The run that gpu_check.py trains: two datasets of text that every Python has, and what is read of it afterwards."""

import ast
import json
import os
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _provenance import REPOSITORY

from nemo_demix.artifacts import read_json, read_json_lines, write_json, write_text
from nemo_demix.config import load_resolved
from nemo_demix.stack import fitting_backends

ENVIRONMENT = {
    **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
}  # fmt: skip
_BYTES = 400_000  # of each dataset
_MODEL = {"bridge": "bridge_qwen3_tiny", "nemo": "qwen3_tiny"}
# A model whose layers keep a GPU busy for milliseconds, and one that two cores train in seconds.
_SIZES = {
    True: {"num_layers": 8, "hidden_size": 1024, "ffn_hidden_size": 3072, "num_attention_heads": 16,
           "num_query_groups": 8, "kv_channels": 64},
    False: {"num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 128, "num_attention_heads": 2,
            "num_query_groups": 2, "kv_channels": 32},
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A run, and how its stages are called; with nothing to call them by where it was trained by another recipe."""

    folder: Path
    arguments: tuple[str, ...]
    tensor: int
    precision: str

    @classmethod
    def find(cls, folder: Path) -> "Run":
        """A finished run."""
        config = load_resolved(folder / "config.yaml")
        return cls(folder, (), config.parallel.tensor, config.train.precision)


def write_recipe(folder: Path, is_gpu: bool) -> Run:
    """Write data, a suite with a task of lm-eval, and a recipe of them, for the back end that is installed here."""
    backend = next(iter(fitting_backends()), "nemo")
    data = folder / "data"
    data.mkdir(exist_ok=True)
    for name, texts in (("general", _docstrings()), ("code", _modules())):
        rows, left = [], _BYTES
        for text in texts:
            rows.append(json.dumps({"text": text}))
            left -= len(text)
            if left < 0:
                break
        write_text(data / f"{name}.jsonl", "\n".join(rows) + "\n")
    write_text(data / "items.jsonl", "".join(json.dumps(row) + "\n" for row in _items()))
    write_json(data / "own.yaml", {  # JSON is YAML
        "task": "own", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data / "items.jsonl")}},
        "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "context", "doc_to_target": "answer",
        "doc_to_choice": "choices", "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    })  # fmt: skip
    steps, sequence, batch = (40, 1024, 8) if is_gpu else (16, 64, 4)
    items = {"capability": "general", "path": str(data / "items.jsonl")}
    recipe = {
        "defaults": ["quickstart", {"override model": _MODEL[backend]}, {"override search": "demix"}, "_self_"],
        "name": "gpu_check",
        "runs_dir": str(folder / "runs"),
        "backend": backend,
        "accept_untrusted": True,
        "datasets": {
            name: {"capability": name, "sources": [{"path": str(data / f"{name}.jsonl")}]}
            for name in ("general", "code")
        },
        "tokenizer": {"vocab_size": 1024, "sample_bytes": 200_000},
        "parallel": {"tensor": 1},
        "train": {
            "global_batch_size": batch, "micro_batch_size": batch, "seq_length": sequence, "log_every_steps": 5,
            "precision": "bf16-mixed" if is_gpu else "32", "checkpoint_every_tokens": 10**9,
        },
        "model": {"overrides": {"model": {"config": _SIZES[is_gpu]}}},
        "base": {"num_tokens": steps * sequence * batch, "max_lr": 1e-3},
        "components": {"num_tokens": steps // 2 * sequence * batch},
        "suite": {
            "benchmarks": {"items": items, "items_code": items | {"capability": "code"}},
            "tasks": {"own": {"task": str(data / "own.yaml"), "capability": "general", "use": "report"}},
            "items_per_benchmark": None, "judged_items": 0, "heldout_tokens": 4096 if is_gpu else 256,
            "max_length": 512 if is_gpu else 64, "batch_tokens": 32_768 if is_gpu else 1024,
        },
    }  # fmt: skip
    path = folder / "gpu_check.yaml"
    write_json(path, recipe)
    return Run(folder / "runs/gpu_check", ("--config-name", str(path)), 1, recipe["train"]["precision"])


def losses(run: Run) -> list[dict[str, Any]]:
    """First and last loss of every model that was trained, and its wall time: starting and saving are in it."""
    rows = []
    for path in sorted(run.folder.glob("models/*/*/losses.jsonl")):
        steps, record = read_json_lines(path), read_json(path.parent / "record.json")
        rows.append({
            "model": path.parent.name, "role": path.parent.parent.name, "steps": len(steps),
            "first": steps[0]["loss"], "last": steps[-1]["loss"], "wall_time_s": record["wall_time_s"],
        })  # fmt: skip
    return rows


def pace(printed: str) -> int | None:
    """Tokens a second, as training said last; None where it said nothing of it."""
    found = re.findall(r"([\d,]+) tokens/s", printed)
    return int(found[-1].replace(",", "")) if found else None


def component(run: Run) -> Path:
    """The last checkpoint of the first component."""
    record = min(run.folder.glob("models/component/*/record.json"))
    return Path(json.loads(record.read_text())["checkpoint"])


def _modules() -> Iterator[str]:
    """The standard library's modules."""
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        yield path.read_text(encoding="utf-8", errors="replace")


def _docstrings() -> Iterator[str]:
    """What the standard library's modules, classes and functions say of themselves."""
    for source in _modules():
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        found = [ast.get_docstring(node) for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
        text = "\n\n".join(filter(None, found))
        if text:
            yield text


def _items() -> Iterator[dict[str, Any]]:
    """Questions with two answers each, of unequal lengths."""
    for number in range(64):
        one, two = f" {number + 1}", f" {(7 * number + 3) % 100} and no more"
        yield {"id": str(number), "context": f"The number that comes after {number} is", "gold": one,
               "choices": [one, two], "answer": 0}  # fmt: skip
