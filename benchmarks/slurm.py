"""How much faster do two groups of ranks search than one, and do they find the same?

One rank a group, on one machine; on several nodes srun starts the groups, in the same way. Reads a finished run (--run)
whose components are merged and scored; its search is done again from nothing, --repeats times for each number of
groups, in turn. Throughput is of the first iteration, from its first row in scores.jsonl to its last: starting Python
and fitting predictors are not in it. Two groups need two cores for themselves.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from _provenance import REPOSITORY, finish

from nemo_demix.artifacts import file_sha256


def search(run: Path, recipe: str, groups: int, folder: Path, num_proxies: int) -> dict[str, Any]:
    """One search with so many groups of one rank each."""
    name = f"groups_{groups}"
    for part in ("datasets", "models", "benchmarks"):
        if (run / part).exists():
            (folder / name).mkdir(exist_ok=True)
            (folder / name / part).symlink_to(run.resolve() / part)
    layout = ["parallel.tensor=1", f"parallel.data={groups}", "train.micro_batch_size=1", f"search.groups={groups}"]
    settings = [f"search.iterations=[{num_proxies}]", f"runs_dir={folder}", f"name={name}"]
    command = [sys.executable, "-m", "nemo_demix", "search", "--config-name", recipe, *settings, *layout]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    rows = folder / name / "search" / "scores.jsonl"
    seen: list[float] = []  # when each row was there
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment) as process:
        while process.poll() is None:
            count = rows.read_bytes().count(b"\n") if rows.exists() else 0
            seen += [time.monotonic()] * (count - len(seen))
            time.sleep(0.02)
    assert process.returncode == 0, f"{name}: exit code {process.returncode}"
    rate = (len(seen) - 1) / (seen[-1] - seen[0])
    return {
        "groups": groups,
        "proxies_per_minute": round(60 * rate, 1),
        "num_proxies": len(seen),
        "mixture_sha256": file_sha256(folder / name / "search" / "mixture.json"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"), help="a finished run")
    parser.add_argument("--recipe", default="quickstart", help="its recipe")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="once, with fewer proxies")
    arguments = parser.parse_args()
    rows = []
    for _ in range(1 if arguments.quick else arguments.repeats):
        for groups in (1, 2):
            with tempfile.TemporaryDirectory(dir=arguments.run.resolve().parent) as folder:
                num_proxies = 12 if arguments.quick else 48
                rows.append(search(arguments.run, arguments.recipe, groups, Path(folder), num_proxies))
    rates = {g: median(row["proxies_per_minute"] for row in rows if row["groups"] == g) for g in (1, 2)}
    summary = {
        "proxies_per_minute_g1": rates[1],
        "proxies_per_minute_g2": rates[2],
        "g2_over_g1_throughput": round(rates[2] / rates[1], 2),
        "different_mixtures": len({row["mixture_sha256"] for row in rows}) - 1,
    }
    finish("slurm", arguments.quick, [0], rows, summary)


if __name__ == "__main__":
    main()
