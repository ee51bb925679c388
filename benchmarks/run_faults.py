"""What a run makes of kills: is all that training, the search and the final run leave the same as without them?

A finished run of the smoke recipe is copied without what one stage makes, the stage's command is killed with SIGKILL at
random moments, three to six times, and started anew until it ends; what was done before a kill is not done again, so
later kills meet later parts. Compared are, bit for bit, all weights that were trained and their losses, what the search
chose and the scores it rests on, and the final run's result. Commands are forked from a process that has imported what
they need, so a moment is one of the stage's work and not of its imports.

What is found is written after every round, a stage's copy with its kills; rounds that an earlier call has finished are
not made again, and each row has the commit that it is of. A stage that cannot be gone on with is not identical.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from _provenance import REPOSITORY, RESULTS, commit, finish

sys.path.insert(0, str(REPOSITORY))
from isal.isal_zlib import crc32

from nemo_demix.checkpoints.reader import CheckpointReader
from nemo_demix.checkpoints.saved import is_complete
from tests.helpers import fork_run, run_cli, start_cli, wait_for_the_end

SEED = 0
RUN = REPOSITORY / "runs/smoke"
KILLS = (3, 6)  # of one copy, before it is let go on to its end
# By stage: what it makes, which is left out of the copy, and its arguments.
STAGES: dict[str, tuple[list[str], list[str]]] = {
    "train": (["models/component/code_3", "search", "models/final", "final"],
              ["role=component", "component=code_3"]),
    "search": (["search", "models/final", "final"], []),
    "final": (["models/final", "final"], []),
}  # fmt: skip
MOMENTS = (0.02, 0.6)  # of the time that the whole stage takes
_OF_THE_CLOCK = "_s"  # how the names of seconds end


def command(stage: str, runs: Path) -> list[str]:
    """The stage's command, on the run of a folder."""
    return [stage, "--config-name", "smoke", f"runs_dir={runs}", *STAGES[stage][1]]


def state(run: Path) -> dict[str, Any]:
    """What a run holds, without times and places, by file."""
    found: dict[str, Any] = {}
    for place in sorted(run.glob("models/*/*/checkpoints/step_*")):
        reader = CheckpointReader(place)
        for name in reader:
            data = reader.read_tensor(name).view(-1).contiguous().numpy().data.cast("B")
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


def undisturbed(run: Path, stage: str, folder: Path) -> tuple[dict[str, Any], float]:
    """What a stage leaves where nothing disturbs it, and the seconds that it takes."""
    runs = fork_run(run, folder / f"{stage}_whole", *_present(run, stage))
    started = time.monotonic()
    run_cli(*command(stage, runs))
    return state(runs / run.name), time.monotonic() - started


def killed(
    run: Path, stage: str, folder: Path, rng: np.random.Generator, expected: Mapping[str, Any], seconds: float
) -> list[dict[str, Any]]:
    """Kill a stage, and go on with it until it is done; one row a kill."""
    runs = fork_run(run, folder / "killed", *_present(run, stage))
    rows = []
    for _ in range(int(rng.integers(KILLS[0], KILLS[1] + 1))):
        after_s = float(rng.uniform(*MOMENTS)) * seconds
        if kill(command(stage, runs), after_s):
            rows.append(
                {"stage": stage, "after_s": round(after_s, 2), "whole_s": round(seconds, 2)} | left(runs / run.name)
            )
    try:
        run_cli(*command(stage, runs))
        found = state(runs / run.name)
        different = sorted(key for key in {**expected, **found} if expected.get(key) != found.get(key))
    except AssertionError as error:
        different = [f"it could not be gone on with: {str(error)[-2000:]}"]
    shutil.rmtree(runs)
    return [{**row, "identical": not different, "different": different[:5]} for row in rows]


def _present(run: Path, stage: str) -> list[str]:
    return [part for part in STAGES[stage][0] if (run / part).exists()]


def left(run: Path) -> dict[str, int]:
    """How far a stage was when it was killed."""
    log = run / "search/scores.jsonl"
    return {
        "checkpoints": sum(is_complete(path) for path in run.glob("models/*/*/checkpoints/step_*")),
        "scores": len(log.read_bytes().splitlines()) if log.exists() else 0,
    }


def kill(arguments: list[str], after_s: float) -> bool:
    """Kill a command in so many seconds, and see all that it started end; False if it was done before."""
    process = start_cli(*arguments)
    try:
        process.wait(after_s)
    except subprocess.TimeoutExpired:
        started = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        process.kill()
        process.wait(30)
        wait_for_the_end(started)
        return True
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}\n{process.printed(1)[-3000:]}")
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="over the three stages together")
    parser.add_argument("--run", type=Path, default=RUN, help="a finished run of the smoke recipe; made if absent")
    parser.add_argument("--quick", action="store_true", help="one round a stage")
    arguments = parser.parse_args()
    run: Path = arguments.run.resolve()
    if not run.exists():
        run_cli("run", "--config-name", "smoke", f"runs_dir={run.parent}")
    run_cli("status", "--config-name", "smoke", f"runs_dir={run.parent}")  # and all is imported
    rows = [] if arguments.quick else earlier(RESULTS / "run_faults.json")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        whole = {stage: undisturbed(run, stage, folder) for stage in STAGES}
        number = 1 + max((row["round"] for row in rows), default=-1)
        while not rows if arguments.quick else len(rows) < arguments.kills:
            for place, stage in enumerate(STAGES):
                rng = np.random.default_rng([SEED, number, place])
                found = killed(run, stage, folder, rng, *whole[stage])
                rows += [{"round": number, "commit": commit(), **row} for row in found]
                finish("run_faults", arguments.quick, [SEED], rows, summary(rows))
            number += 1


def earlier(path: Path) -> list[dict[str, Any]]:
    """The rows that earlier calls have left."""
    return list(json.loads(path.read_text())["rows"]) if path.exists() else []


def summary(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Counts of kills."""
    counts = {"kills": len(rows), "identical": sum(row["identical"] for row in rows)}
    return counts | {f"kills_of_{stage}": sum(row["stage"] == stage for row in rows) for stage in STAGES}


if __name__ == "__main__":
    main()
