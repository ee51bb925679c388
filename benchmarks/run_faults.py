"""What a run makes of kills: is all that training, the search and the final run leave the same as without them?

A finished run of the smoke recipe is copied without what one stage makes, the stage's command is killed with SIGKILL at
a random moment, sometimes again, and started anew until it ends. Compared are, bit for bit, all weights that were
trained and their losses, what the search chose and the scores it rests on, and the final run's result.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from _provenance import REPOSITORY, finish
from isal.isal_zlib import crc32

from nemo_demix.checkpoints.reader import CheckpointReader

SEED = 0
RUN = REPOSITORY / "runs/smoke"
# By stage: what it makes, which is left out of the copy, and its arguments.
STAGES: dict[str, tuple[list[str], list[str]]] = {
    "train": (["models/component/code_3", "search", "models/final", "final"],
              ["role=component", "component=code_3"]),
    "search": (["search", "models/final", "final"], []),
    "final": (["models/final", "final"], []),
}  # fmt: skip
_OF_THE_CLOCK = "_s"  # how the names of seconds end


def command(stage: str, runs: Path) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-m", "nemo_demix", stage, "--config-name", "smoke", f"runs_dir={runs}"]
    return subprocess.Popen(
        [*arguments, *STAGES[stage][1]], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip


def finished(process: subprocess.Popen[bytes]) -> None:
    """Until a command has ended, and well."""
    output = process.communicate()[0].decode(errors="replace")
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}\n{output[-3000:]}")


def copy(run: Path, runs: Path, stage: str) -> None:
    shutil.copytree(run, runs / "smoke")
    for part in STAGES[stage][0]:
        shutil.rmtree(runs / "smoke" / part, ignore_errors=True)


def state(run: Path) -> dict[str, Any]:
    """What a run holds, without times and places, by file."""
    found: dict[str, Any] = {}
    for place in sorted(run.glob("models/*/*/checkpoints/step_*")):
        reader = CheckpointReader(place)
        for name in reader:
            data = reader.read_tensor(name).view(-1).view(torch.uint8).numpy().data
            found[f"{place.relative_to(run)}: {name}"] = f"{crc32(data):08x}"
    for path in sorted(run.glob("models/*/*/losses.jsonl")):  # a step that was done again stands there again
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        found[str(path.relative_to(run))] = {row["step"]: row["loss"] for row in rows}
    for path in sorted([*run.glob("search/*.json*"), *run.glob("final/*.json")]):
        text = path.read_text().replace(str(run), "RUN")
        lines = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)
        found[str(path.relative_to(run))] = untimed(lines)
    return found


def untimed(value: Any) -> Any:
    """A value without what a clock said."""
    if isinstance(value, Mapping):
        return {key: untimed(item) for key, item in value.items() if not key.endswith(_OF_THE_CLOCK)}
    return [untimed(item) for item in value] if isinstance(value, list) else value


def kills(run: Path, stage: str, number: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Kill a stage, and go on with it until it is done; one row a kill."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        copy(run, Path(name) / "whole", stage)
        started = time.monotonic()
        finished(command(stage, Path(name) / "whole"))
        seconds = time.monotonic() - started
        expected = state(Path(name) / "whole/smoke")
        while len(rows) < number:
            runs, begun = Path(name) / f"killed_{len(rows)}", len(rows)
            copy(run, runs, stage)
            for _ in range(int(rng.integers(1, 3))):
                after_s = float(rng.uniform(0.1, 0.95)) * seconds
                if len(rows) < number and kill(command(stage, runs), after_s):
                    rows.append({"stage": stage, "after_s": round(after_s, 2), "whole_s": round(seconds, 2)})
            finished(command(stage, runs))
            found = state(runs / "smoke")
            different = sorted(key for key in {**expected, **found} if expected.get(key) != found.get(key))
            for row in rows[begun:]:
                row |= {"identical": not different, "different": different[:5]}
            shutil.rmtree(runs)
    return rows


def kill(process: subprocess.Popen[bytes], after_s: float) -> bool:
    """Kill a command in so many seconds, and see all that it started end; False if it was done before."""
    try:
        process.communicate(timeout=after_s)
    except subprocess.TimeoutExpired:
        started = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        if alive := psutil.wait_procs(started, timeout=30)[1]:
            raise RuntimeError(f"they outlived the command that was killed: {alive}") from None
        return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="over the three stages together")
    parser.add_argument("--run", type=Path, default=RUN, help="a finished run of the smoke recipe; made if absent")
    parser.add_argument("--quick", action="store_true", help="one kill, of training")
    arguments = parser.parse_args()
    if not arguments.run.exists():
        subprocess.run(
            [sys.executable, "-m", "nemo_demix", "run", "--config-name", "smoke", f"runs_dir={arguments.run.parent}"],
            cwd=REPOSITORY, check=True,
        )  # fmt: skip
    rng = np.random.default_rng(SEED)
    number = 1 if arguments.quick else arguments.kills
    shares = {stage: number // 3 + (place < number % 3) for place, stage in enumerate(STAGES)}
    rows = [row for stage, count in shares.items() if count for row in kills(arguments.run, stage, count, rng)]
    summary = {"kills": len(rows), "identical": sum(row["identical"] for row in rows)}
    summary |= {f"kills_of_{stage}": sum(row["stage"] == stage for row in rows) for stage in STAGES}
    finish("run_faults", arguments.quick, [SEED], rows, summary)


if __name__ == "__main__":
    main()
