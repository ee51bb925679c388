"""How exact the arithmetic is, on a finished run: tensor parallelism against none, live merges against float64.

1. One component is trained at tensor parallelism 1 and at 2, from the same base; the losses are compared by step.
2. Every component as a one-hot mixture, and three random mixtures, are merged live on real ranks at tensor 2 and on
   one rank, and compared with float64 arithmetic on the checkpoints' full tensors.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _provenance import REPOSITORY, finish


def losses(run: Path, component: str, tensor: int, recipe: str) -> list[float]:
    """The losses of a component trained again, in a copy of the run."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / run.name
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("search", "final", "scores"))
        shutil.rmtree(copy / "models/component" / component)
        command = [sys.executable, "-m", "nemo_demix", "train", "--config-name", recipe, f"runs_dir={folder}"]
        command += ["role=component", f"component={component}", f"parallel.tensor={tensor}"]
        subprocess.run(command, cwd=REPOSITORY, check=True)
        rows = (copy / "models/component" / component / "losses.jsonl").read_text().splitlines()
    return [json.loads(row)["loss"] for row in rows]


def live_merge(run: Path, tensor: int, pipeline: int) -> dict[str, Any]:
    """Errors of live merges, from the program that the tests use."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={tensor * pipeline}"]
    command += [str(REPOSITORY / "tests/programs/live_merge.py"), str(run), str(tensor), str(pipeline)]
    output = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    return {"tensor": tensor, "pipeline": pipeline, **json.loads(output.strip().splitlines()[-1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--component", default="code_1")
    parser.add_argument("--quick", action="store_true", help="the live merges only")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = [live_merge(arguments.run.resolve(), *layout) for layout in ((2, 1), (1, 1))]
    summary: dict[str, Any] = {
        "live_one_hot_mismatches": sum(row["one_hot_mismatches"] for row in rows),
        "live_worst_ulp": max(row["worst_ulp"] for row in rows),
        "live_worst_absolute": max(row["worst_absolute"] for row in rows),
    }
    if not arguments.quick:
        by_layout = {n: losses(arguments.run.resolve(), arguments.component, n, arguments.recipe) for n in (1, 2)}
        rows += [{"tensor": tensor, "losses": values} for tensor, values in by_layout.items()]
        summary["tensor_1_against_2_max_loss_difference"] = max(
            abs(one - two) for one, two in zip(by_layout[1], by_layout[2], strict=True)
        )
    finish("exactness", arguments.quick, [0], rows, summary)


if __name__ == "__main__":
    main()
