"""What scoring costs beside the model's forward pass, and whether lm-eval's own `hf` model gives the same numbers.

1. Proxies of a finished run (--run) are merged and scored live at its tensor parallelism, each beside a bare forward
   pass of as many tokens (dense batches, all logits, nothing else), and beside scoring every token of each request.
2. The nine benchmarks in full, as tasks of lm-evaluation-harness, on the run's final model: live on two ranks, and by
   lm-eval's `hf` model on the exported checkpoint. --limit takes a sample of each. The same live on one rank with two
   threads, as many as `hf` has: `generation_ratio_hf` is `hf`'s time for the texts by ours, of the one rank.
3. Of its own, with --texts and in a file of its own: one rank, two ranks and `hf` in turn, --repeats times, for a
   sample of the texts; `generation_ratio_hf` is the median over the turns.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from _provenance import REPOSITORY, finish

TASKS = "suite=demix_nine_harness suite.allow_code_execution=true suite.heldout_tokens=0"
THREADS = 2  # of lm-eval's process, and of our one rank
GENERATING = ("humaneval", "mbpp", "gsm8k", "math")
CHOOSING = ("arc_easy", "hellaswag", "piqa", "siqa", "winogrande")
TEXTS = "generate_until"  # lm-eval's name of such requests
ENVIRONMENT = {
    **os.environ, "OMP_NUM_THREADS": "1", "TORCH_COMPILE_DISABLE": "1", "PYTHONPATH": str(REPOSITORY),
    "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
}  # fmt: skip


def program(name: str, *arguments: str, ranks: int = 0, threads: int = 1) -> str:
    """Run a script of this folder, on ranks if there are any; what it printed."""
    command = [sys.executable]
    if ranks:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command += [str(REPOSITORY / "benchmarks" / name), *arguments]
    environment = {**ENVIRONMENT, "OMP_NUM_THREADS": str(threads)}
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def throughput(run: Path, tensor: int, repeats: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows and figures of part 1."""
    printed = program("_scoring_live.py", str(run), str(tensor), str(repeats), ranks=tensor)
    found = json.loads(printed.strip().splitlines()[-1])
    facts, rows = found["facts"], found["rows"]
    middle = {name: median(row[name] for row in rows) for name in rows[0]}
    tokens_s = facts["num_tokens"] / middle["score_s"]
    summary = {
        "forward_ratio": round(tokens_s / found["bare_tokens_s"], 3),
        "proxies_per_minute": round(60 / middle["proxy_s"], 1),
        "proxies_per_minute_before": round(60 / (middle["merge_s"] + middle["every_logit_s"]), 1),
        "merge_share": round(middle["merge_s"] / middle["proxy_s"], 4),
        "between_share": round(1 - (middle["merge_s"] + middle["score_s"]) / middle["proxy_s"], 4),
        "padding_share": round(1 - facts["num_tokens"] / facts["num_padded"], 4),
        "tokens_s": round(tokens_s),
        "bare_tokens_s": round(found["bare_tokens_s"]),
    }
    return [{"part": "throughput", **facts}, *({"part": "throughput", **row} for row in rows)], summary


def prepare_nine(run: Path, recipe: str, limits: dict[str, int], folder: Path) -> tuple[Path, Path, Path]:
    """The nine benchmarks' tasks for a run's final model: their own run's folder, the checkpoint, and it exported."""
    (folder / run.name).mkdir()
    (folder / run.name / "models").symlink_to(run / "models")
    settings = [*TASKS.split(), "suite.max_length=512", f"runs_dir={folder}", f"name={run.name}"]
    settings += [f"+suite.tasks.{task}.generation.max_gen_toks=128" for task in GENERATING]
    settings += [f"suite.tasks.{task}.limit={limit}" for task, limit in limits.items()]
    stage = [sys.executable, "-m", "nemo_demix"]
    subprocess.run([*stage, "prepare", "--config-name", recipe, *settings], env=ENVIRONMENT, check=True)
    checkpoint = sorted((run / "models/final/mixture/checkpoints").glob("step_*"))[-1]
    convert = [f"convert.source={checkpoint}", f"convert.output={folder / 'exported'}"]
    subprocess.run([*stage, "export", "--config-name", recipe, *settings, *convert], env=ENVIRONMENT, check=True)
    (folder / run.name / "config.yaml").write_text(
        subprocess.run(
            [*stage, "prepare", "--config-name", recipe, *settings, "--cfg", "job", "--resolve"],
            env=ENVIRONMENT, check=True, stdout=subprocess.PIPE, text=True,
        ).stdout
    )  # fmt: skip
    return folder / run.name, checkpoint, folder / "exported"


def ours(run: Path, checkpoint: Path, ranks: int, answers: Path) -> dict[str, float]:
    """Seconds of each kind of request, on one rank with two threads or on two with one each."""
    given = (str(run), str(checkpoint), str(ranks), str(answers))
    printed = program("_scoring_nine.py", *given, ranks=ranks, threads=THREADS // ranks)
    return json.loads(printed.strip().splitlines()[-1])  # type: ignore[no-any-return]


def theirs(run: Path, exported: Path, answers: Path) -> dict[str, Any]:
    """What `hf` answers, beside our answers."""
    output = answers.with_name("peer.json")
    program("_scoring_peer.py", str(run), str(exported), str(answers), str(output), threads=THREADS)
    return json.loads(output.read_text())  # type: ignore[no-any-return]


def texts(run: Path, recipe: str, limit: int, repeats: int, folder: Path) -> tuple[list[dict[str, Any]], Any]:
    """Rows and figures of part 3."""
    limits = dict.fromkeys(GENERATING, limit) | dict.fromkeys(CHOOSING, 2)  # fewer have no spread
    place, checkpoint, exported = prepare_nine(run, recipe, limits, folder)
    rows: list[dict[str, Any]] = []
    for repeat in range(repeats):
        alone, two = (ours(place, checkpoint, ranks, folder / "answers.json")[TEXTS] for ranks in (1, 2))
        peer = theirs(place, exported, folder / "answers.json")
        rows.append({"repeat": repeat, "one_rank_s": alone, "two_ranks_s": two, "hf_s": peer["seconds"][TEXTS]})
    summary: dict[str, Any] = {"num_generated": peer["requests"][TEXTS], "hf_texts_differ": peer["texts_differ"]}
    for name, of in (("generation_ratio_hf", "one_rank_s"), ("generation_ratio_hf_two_ranks", "two_ranks_s")):
        ratios = [row["hf_s"] / row[of] for row in rows]
        summary |= {name: median(ratios), f"{name}_lowest": min(ratios), f"{name}_highest": max(ratios)}
    return rows, {name: round(value, 2) for name, value in summary.items()}


def nine(run: Path, recipe: str, limit: int | None, folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows and figures of part 2."""
    limits = {} if limit is None else dict.fromkeys((*GENERATING, *CHOOSING), limit)
    place, checkpoint, exported = prepare_nine(run, recipe, limits, folder)
    seconds = ours(place, checkpoint, 2, folder / "answers.json")
    compared = theirs(place, exported, folder / "answers.json")
    seconds_alone = ours(place, checkpoint, 1, folder / "alone.json")
    rows = [{"part": "nine", "task": name, **score} for name, score in compared["scores"].items()]
    rows += [
        {"part": "seconds", "who": who, **found}
        for who, found in (("ours", seconds), ("ours, one rank", seconds_alone), ("hf", compared["seconds"]))
    ]
    summary = {
        "hf_max_rel_diff": compared["max_rel_diff"],
        "hf_greedy_differ": compared["greedy_differ"],
        "hf_texts_differ": compared["texts_differ"],
        "hf_scores_differ": sum(row["ours"] != row["hf"] for row in compared["scores"].values()),
        "num_loglikelihood": compared["requests"]["loglikelihood"],
        "num_generated": compared["requests"][TEXTS],
        "generation_ratio_hf": round(compared["seconds"][TEXTS] / seconds_alone[TEXTS], 2),
        "generation_ratio_hf_two_ranks": round(compared["seconds"][TEXTS] / seconds[TEXTS], 2),
        "nine_s": round(sum(seconds.values()), 1),
        "hf_s": round(sum(compared["seconds"].values()), 1),
    }
    return rows, summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"), help="a finished run")
    parser.add_argument("--recipe", default="quickstart", help="its recipe")
    parser.add_argument("--tensor", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15, help="of part 1, or of part 3")
    parser.add_argument("--limit", type=int, help="documents of each task; all if left out")
    parser.add_argument("--texts", type=int, metavar="N", help="part 3 alone, of N documents of each task")
    parser.add_argument("--quick", action="store_true", help="the throughput only, with few repeats")
    arguments = parser.parse_args()
    run = arguments.run.resolve()
    if arguments.texts is not None:
        with tempfile.TemporaryDirectory(dir=run.parent) as folder:
            rows, summary = texts(run, arguments.recipe, arguments.texts, arguments.repeats, Path(folder))
        finish("texts", arguments.quick, [0], rows, summary)
        return
    rows, summary = throughput(run, arguments.tensor, 3 if arguments.quick else arguments.repeats)
    if not arguments.quick:
        with tempfile.TemporaryDirectory(dir=run.parent) as folder:
            more_rows, more = nine(run, arguments.recipe, arguments.limit, Path(folder))
        rows, summary = rows + more_rows, summary | more
    finish("scoring", arguments.quick, [0], rows, summary)


if __name__ == "__main__":
    main()
