"""Mistakes that people make in a first recipe: whether `nemo-demix check` finds each, in what time, and what it says.

Each mistake is a recipe of its own over three small corpora, made here: packed rows of JSON, plain ones, source files.
The command is the one a user types, in a process of its own, so the seconds are a user's. The last row holds four
mistakes of one recipe, which are to be told in one list.
"""

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from _provenance import REPOSITORY, finish

DATASETS: dict[str, Any] = {
    "general": {"capability": "general", "sources": [{"path": "data/web/*.jsonl.gz"}]},
    "math_1": {"capability": "math", "sources": [{"path": "data/math/*.jsonl"}]},
    "code_1": {"capability": "code", "sources": [{"code": "data/repositories"}]},
}


def dataset(name: str, **changes: Any) -> dict[str, Any]:
    return {"datasets": {**DATASETS, name: {**DATASETS.get(name, {"capability": "math"}), **changes}}}


# What is written, and a word that the message has to hold.
MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "a mistyped section": ({"trian": {"seq_length": 256}}, "did you mean train"),
    "a mistyped key": ({"train": {"seq_lenght": 256}}, "did you mean seq_length"),
    "a mistyped key of a dataset": (dataset("math_1", capabilty="math"), "did you mean capability"),
    "a mistyped key of a source": (dataset("math_1", sources=[{"pth": "a"}]), "did you mean path"),
    "a word for a number": ({"train": {"seq_length": "long"}}, "expected a whole number"),
    "a number for a section": ({"train": 256}, "expected a section"),
    "a word for true or false": ({"parallel": {"sequence": "sometimes"}}, "expected true or false"),
    "one value for a list": ({"search": {"iterations": 64}}, "expected a list"),
    "a pattern without files": (dataset("math_1", sources=[{"path": "data/maths/*.jsonl"}]), "no file matches"),
    "a folder for a file": (dataset("math_1", sources=[{"path": "data/math"}]), "found a folder"),
    "a format that is not read": (dataset("math_1", sources=[{"path": "data/odd/a.csv"}]), "expected a name ending in"),
    "a field that rows do not have": (
        dataset("math_1", sources=[{"path": "data/math/*.jsonl", "text_field": "body"}]),
        "expected a field 'body'",
    ),
    "rows that are no JSON": (dataset("math_1", sources=[{"path": "data/odd/broken.jsonl"}]), "expected a JSON object"),
    "binary data": (dataset("math_1", sources=[{"path": "data/odd/binary.txt"}]), "NUL byte"),
    "another encoding": (dataset("math_1", sources=[{"path": "data/odd/latin.txt"}]), "expected UTF-8"),
    "an empty file": (dataset("math_1", sources=[{"path": "data/odd/empty.jsonl"}]), "empty file"),
    "half of a gzip file": (dataset("math_1", sources=[{"path": "data/odd/half.jsonl.gz"}]), "whole gzip file"),
    "no such suffix of code": (
        dataset("code_1", sources=[{"code": "data/repositories", "code_suffixes": [".cobol"]}]),
        "no file ends in",
    ),
    "two kinds of a source": (
        dataset("math_1", sources=[{"path": "data/math/*.jsonl", "code": "data/math"}]),
        "expected exactly one of",
    ),
    "no source": (dataset("math_1", sources=[]), "at least one source"),
    "a corpus that is not there": (
        dataset("math_1", sources=[{"registry": "symbolic_doc"}]),
        "did you mean symbolic_docs",
    ),
    "a prefix without its files": (
        dataset("math_1", sources=[{"megatron": "data/math"}]),
        "expected a file, found none",
    ),
    "text shorter than a sequence": (dataset("math_1", max_bytes=100), "expected more than"),
    "a capability that nothing measures": (dataset("math_1", capability="maths"), "did you mean math"),
    "no such benchmark": (
        {"suite": {"benchmarks": {"a": {"capability": "math", "registry": "gsm9k"}}}},
        "did you mean gsm8k",
    ),
    "a benchmark's file that is not there": (
        {"suite": {"benchmarks": {"a": {"capability": "math", "path": "a.jsonl"}}}},
        "expected a file",
    ),
    "an external command without the checkpoint": (
        {
            "suite": {
                "external": {
                    "own": {
                        "command": ["score"],
                        "scores": {"a": {"capability": "math", "unit": "accuracy", "higher_is_better": True}},
                    }
                }
            }
        },
        "{checkpoint}",
    ),
    "too few items to judge by": ({"suite": {"items_per_benchmark": 164}}, "left to judge by"),
    "a dataset named general that is none": ({"components": {"general": "web"}}, "components.general=web"),
    "a share above 1": ({"components": {"beta": 1.5}}, "expected a share in [0, 1)"),
    "a blend that does not sum to 1": ({"base": {"blend": {"general": 0.5}}}, "sum to 1"),
    "a constraint on no dataset": ({"search": {"constraints": {"min": {"math_9": 0.1}}}}, "did you mean math_1"),
    "constraints that clash": (
        {"search": {"constraints": {"min": {"math_1": 0.6, "code_1": 0.6}}}},
        "no mixture satisfies these together",
    ),
    "a least share that no merge has": ({"search": {"constraints": {"pinned": {"general": 0.1}}}}, "components.beta"),
    "a floor under no capability": ({"search": {"floors": {"maths": 0.1}}}, "did you mean math"),
    "no such strategy": ({"search": {"strategy": "bays"}}, "did you mean bayes"),
    "an objective that the strategy cannot have": ({"search": {"objective": "percentile_rank"}}, "ranks have no slope"),
    "no such predictor": ({"search": {"predictor": {"kind": "gausian_process"}}}, "did you mean gaussian_process"),
    "no such baseline": ({"final": {"baselines": ["proportionate"]}}, "did you mean proportional"),
    "no such merge method": ({"merge": {"method": "tie"}}, "did you mean ties"),
    "a batch that does not divide": ({"train": {"global_batch_size": 9}}, "expected a multiple of"),
    "a vocabulary that tensor ranks do not divide": (
        {"parallel": {"tensor": 3}},
        "does not divide over parallel.tensor",
    ),
    "less than one step": ({"base": {"num_tokens": "1k"}}, "less than one step"),
    "a checkpoint kept after the end": ({"base": {"keep_tokens": ["2B"]}}, "is beyond num_tokens"),
    "no such model": (
        {"model": {"recipe": "nemo.collections.llm.recipes.qwen3_1p7b.pretrain_recip"}},
        "did you mean pretrain_recipe",
    ),
    "a tokenizer that is not there": ({"tokenizer": {"kind": "sentencepiece", "path": "t.model"}}, "tokenizer.path"),
    "a vocabulary below the bytes": ({"tokenizer": {"vocab_size": 100}}, "at least 257"),
    "a brought checkpoint that is not there": ({"base": {"checkpoint": "ckpt"}}, "expected a checkpoint folder"),
    "a site file that is not there": ({"launch": {"site": "site.env"}}, "no such file"),
    "a time that YAML reads as a number": ({"launch": {"options": {"time": 28800}}}, "in quotes"),
    "an override of a job that is none": (
        {"launch": {"jobs": {"search": {"overrides": ["paralel.data=2"]}}}},
        "did you mean parallel",
    ),
    "a file where the runs are to be": ({"runs_dir": "data/math/a.jsonl/runs"}, "is a file"),
    "a run's name that is a path": ({"name": "runs/mine"}, "plain folder name"),
}
TOGETHER = ("a constraint on no dataset", "a share above 1", "a batch that does not divide",
            "a vocabulary that tensor ranks do not divide")  # fmt: skip


def write_corpora(folder: Path) -> None:
    """Three corpora, and files of the ways to be wrong."""
    for name in ("web", "math", "repositories", "odd"):
        (folder / "data" / name).mkdir(parents=True)
    rows = "".join(json.dumps({"text": f"Page {i} is about river number {i}. " * 5}) + "\n" for i in range(200))
    with gzip.open(folder / "data/web/a.jsonl.gz", "wt") as file:
        file.write(rows)
    (folder / "data/math/a.jsonl").write_text(rows.replace("river", "prime"))
    (folder / "data/repositories/a.py").write_text("def f(x):\n    return x + 1\n" * 100)
    odd = folder / "data/odd"
    (odd / "a.csv").write_text("text\na\n")
    (odd / "broken.jsonl").write_text("{'text': 'a'}\n")
    (odd / "binary.txt").write_bytes(b"\0\1\2" * 500)
    (odd / "latin.txt").write_bytes("caf\xe9 ".encode("latin-1") * 200)
    (odd / "empty.jsonl").write_text("")
    whole = gzip.compress(rows.encode())
    (odd / "half.jsonl.gz").write_bytes(whole[: len(whole) // 2][:40])


def merged(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    """Two recipes' contents as one."""
    both = {**one, **two}
    for key in one.keys() & two.keys():
        if isinstance(one[key], dict) and isinstance(two[key], dict):
            both[key] = merged(one[key], two[key])
    return both


def check(folder: Path, content: dict[str, Any]) -> tuple[int, float, list[str]]:
    """Exit code, seconds, and the lines of `nemo-demix check` on a recipe."""
    recipe = {"defaults": ["quickstart", "_self_"], "name": "mine", "datasets": DATASETS, **content}
    (folder / "mine.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    command = [sys.executable, "-m", "nemo_demix", "check", "--config-name", "mine.yaml"]
    started = time.monotonic()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    lines = [line[3:].strip() for line in done.stderr.splitlines() if line[:3].strip().isdigit()]
    return done.returncode, time.monotonic() - started, lines or done.stderr.strip().splitlines()[-1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="every fifth mistake")
    quick = parser.parse_args().quick
    os.environ["PYTHONPATH"] = str(REPOSITORY)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_corpora(folder)
        code, seconds, lines = check(folder, {})
        assert code == 0, lines
        rows.append({"mistake": "none", "exit_code": code, "seconds": round(seconds, 2), "found": True, "messages": []})
        together: dict[str, Any] = {}
        for name_ in TOGETHER:
            together = merged(together, MISTAKES[name_][0])
        cases = [(what, content, [word]) for what, (content, word) in MISTAKES.items()][:: 5 if quick else 1]
        cases.append(("these four at once", together, [MISTAKES[one][1] for one in TOGETHER]))
        for what, content, words in cases:
            code, seconds, lines = check(folder, content)
            found = code == 2 and all(any(word in line for line in lines) for word in words)
            messages = [line.replace(str(folder), "...") for line in lines]
            row = {"mistake": what, "exit_code": code, "seconds": round(seconds, 2), "found": found}
            rows.append({**row, "messages": messages})
            print(f"{'found' if found else 'MISSED':6} {seconds:5.2f} s  {what}: {messages[:1]}"[:200], flush=True)
    wrong = rows[1:]
    summary = {
        "num_mistakes": len(wrong),
        "num_found": sum(bool(row["found"]) for row in wrong),
        "median_s": statistics.median(row["seconds"] for row in rows),
        "longest_s": max(row["seconds"] for row in rows),
    }
    finish("mistakes", quick, [], rows, summary)


if __name__ == "__main__":
    main()
