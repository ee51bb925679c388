"""How long does one wait before anything happens: for a command's first word, for its ranks, for an installation?

Each figure is a whole process, three times, the median of its wall times; beside these in the rows stands the processor
time, user and system, of the process and of all that it waited for. Other work on the machine shows in both. Figures:

- `help_s`, `refusal_s` (a mistyped key), `status_s`, `doctor_s`, `inspect_s` (`merge inspect` of a component).
- `imported_search_s`: a search over 112 imported mixtures with the recipe's own settings. Their scores are made here,
  for the time that they take: shares drawn by a seed, smooth functions of them and some noise. Nobody measured them.
- `smoke_s`: `run --config-name smoke`, once. In its folder `score_s` scores a component at tensor parallel 2.
- `ranks_ready_first_s`, `ranks_ready_s`: from the moment a command wants ranks to that when all have joined, as the
  launcher wrote it into `logs/<label>/launch.json`: the first launch of that `run`, and the median of its later ones.
- `eight_ranks_pss_gib`, `eight_ranks_unforked_pss_gib`: the most memory of a command that trains on eight ranks, with
  all its processes. A page counts once, divided among those that share it (PSS).
- `venv_s`, `quickstart_s` (--venv, --quickstart): `make venv` in a fresh clone, and `make quickstart` after it.
- `suite_s`, `suite_fast_s` (--suite): `make test`, and without the slow tests.

A figure that the results have for this commit already is not measured again; each is written as soon as it is known.
What could not be measured has no figure, and a row with the reason.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
from _provenance import REPOSITORY, RESULTS, commit, finish, write

SEED = 0
DATASETS = "general math_1 math_2 math_3 code_1 code_2 code_3".split()
BENCHMARKS = "arc_easy hellaswag piqa siqa winogrande gsm8k math humaneval mbpp".split()
NUM_ROWS = 112
QUICK_S = 40  # after which the short form begins nothing more
SMALL_SEARCH = ["search.pool_size=2000", "search.num_refits=0", "search.predictor.kind=ridge"]
Row = dict[str, Any]


class Absent(Exception):
    """Why a figure could not be measured."""


def timed(words: list[str], log: Path, expect: tuple[int, ...] = (0,), cwd: Path = REPOSITORY, **more: str) -> Row:
    """Run a command to its end: wall and processor seconds; what it prints goes to `log`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}
    with open(log, "wb") as output:
        start = time.perf_counter()
        process = subprocess.Popen(words, cwd=cwd, env=environment, stdout=output, stderr=output)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.terminate()  # we were interrupted; it does not go on alone
            raise
        wall_s = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in expect:
        end = log.read_text(errors="replace")[-2000:]
        raise Absent(f"{' '.join(words[-3:])}: exit code {process.returncode}: {end}")
    return {"wall_s": round(wall_s, 3), "cpu_s": round(usage.ru_utime + usage.ru_stime, 3)}


def command(*arguments: str) -> list[str]:
    """`nemo-demix ARGUMENTS` of this checkout."""
    return [sys.executable, "-m", "nemo_demix", *arguments]


def write_scores(path: Path) -> None:
    """Scores of 112 mixtures on nine benchmarks, in bits per byte; see the head of this file."""
    rng = np.random.default_rng(SEED)
    weights_MC = rng.dirichlet(np.ones(len(DATASETS)), NUM_ROWS)
    law_MB = np.exp(weights_MC @ rng.normal(0, 0.6, (len(DATASETS), len(BENCHMARKS))))
    levels_B = rng.uniform(1.5, 3.0, len(BENCHMARKS))
    scores_MB = levels_B * (0.8 + 0.2 * law_MB) + rng.normal(0, 0.01, law_MB.shape)
    lines = [",".join(["name", *(f"train_{name}" for name in DATASETS), *(f"{name}_loss" for name in BENCHMARKS)])]
    for number, values in enumerate(np.hstack([weights_MC, scores_MB]).tolist()):
        lines.append(",".join([f"m{number}", *map(str, values)]))
    path.write_text("\n".join(lines) + "\n")


def launches(run: Path) -> list[Row]:
    """What the launcher wrote of each launch, in the order of time: when ranks were wanted, when all were ready."""
    found = []
    for path in run.glob("logs/**/launch.json"):
        text = path.read_text()
        try:
            values = json.loads(text)
            found += values if isinstance(values, list) else [values]
        except ValueError:  # a line for each
            found += [json.loads(line) for line in text.splitlines() if line.strip()]
    return sorted(found, key=lambda launch: float(launch["wanted"]))


@contextmanager
def copy_of(run: Path, folder: Path) -> Iterator[Path]:
    """A copy of a finished run, without what scoring would find done; yields its `runs_dir`."""
    with tempfile.TemporaryDirectory(dir=folder) as runs:
        skipped = shutil.ignore_patterns("scores", "logs", "search", "final")
        shutil.copytree(run, Path(runs) / run.name, ignore=skipped)
        yield Path(runs)


def tree_memory(root: int) -> tuple[float, int]:
    """PSS of a process and of all below it, GiB; and their number."""
    try:
        pids = [root, *(child.pid for child in psutil.Process(root).children(recursive=True))]
    except psutil.NoSuchProcess:
        return 0.0, 0
    total_kib = number = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue  # it ended meanwhile
        total_kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        number += 1
    return total_kib / 2**20, number


class Startup:
    """The figures, in a work folder.

    Attributes:
        run: A finished run of the smoke recipe, once there is one.
    """

    def __init__(self, folder: Path, run: Path | None, repeats: int, quick: bool) -> None:
        self.folder, self.run, self.repeats, self.quick = folder, run, repeats, quick
        self.log = folder / "log.txt"
        self.clone: Path | None = None

    def each(self, words: list[str], *expect: int) -> list[Row]:
        """The same command, as often as asked."""
        return [timed(words, self.log, expect or (0,)) for _ in range(self.repeats)]

    def need_run(self) -> Path:
        """The finished run; raises Absent where there is none."""
        if self.run is None:
            raise Absent("no finished run of the smoke recipe: give --run, or let smoke_s be measured")
        return self.run

    def component(self, run: Path) -> Path:
        """A checkpoint of it."""
        (path,) = (run / "models/component/code_1/checkpoints").glob("step_*")
        return path

    def help_s(self) -> list[Row]:
        """All commands, a line each."""
        return self.each(command("--help"))

    def refusal_s(self) -> list[Row]:
        """A key that is no key."""
        return self.each(command("train", "--config-name", "smoke", "role=base", "sed=1"), 2)

    def status_s(self) -> list[Row]:
        """Of a finished run, or of none."""
        runs = self.run.parent if self.run is not None else self.folder
        return self.each(command("status", "--config-name", "smoke", f"runs_dir={runs}"))

    def doctor_s(self) -> list[Row]:
        """Of this machine."""
        return self.each(command("doctor", "--config-name", "smoke", f"runs_dir={self.folder}"), 0, 1)

    def inspect_s(self) -> list[Row]:
        """Tensors, grid and architecture of a component."""
        return self.each(command("merge", "inspect", str(self.component(self.need_run()))))

    def imported_search_s(self) -> list[Row]:
        """A mixture from a table of scores."""
        write_scores(self.folder / "scores.csv")
        settings = SMALL_SEARCH if self.quick else []
        rows = []
        for number in range(self.repeats):
            given = [f"runs_dir={self.folder}", f"name=imported_{number}", *settings]
            words = command("search", *given, f"search.imported.scores={self.folder / 'scores.csv'}")
            rows.append({**timed(words, self.log), "settings": settings})
        return rows

    def smoke_s(self) -> list[Row]:
        """From text to a final model, at the smallest size."""
        runs = self.folder / "runs"
        row = timed(command("run", "--config-name", "smoke", f"runs_dir={runs}"), self.log)
        self.run = runs / "smoke"
        stages = [json.loads(line) for line in (self.run / "timing.jsonl").read_text().splitlines()]
        return [{**row, "stages": stages, "launches": launches(self.run)}]

    def score_s(self) -> list[Row]:
        """A component's scores by two ranks."""
        rows = []
        for _ in range(self.repeats):
            with copy_of(self.need_run(), self.folder) as runs:
                checkpoint = self.component(runs / "smoke")
                given = [f"runs_dir={runs}", f"score.checkpoint={checkpoint}", "parallel.tensor=2"]
                row = timed(command("score", "--config-name", "smoke", *given), self.log)
                rows.append({**row, "launches": launches(runs / "smoke")})
        return rows

    def eight_ranks(self, forked: bool) -> list[Row]:
        """Train a component on eight ranks; its memory from the first step on, when all of them are at work."""
        with copy_of(self.need_run(), self.folder) as runs:
            model = runs / "smoke/models/component/code_1"
            shutil.rmtree(model)
            layout = ["parallel.data=8", "parallel.tensor=1", "train.micro_batch_size=1"]
            words = command("train", "--config-name", "smoke", f"runs_dir={runs}", "role=component", *layout)
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
            environment |= {} if forked else {"NEMO_DEMIX_FORK": "0"}
            samples: list[tuple[float, int]] = []
            with open(self.log, "wb") as output:
                process = subprocess.Popen(
                    [*words, "component=code_1"], cwd=REPOSITORY, env=environment, stdout=output, stderr=output
                )
                try:
                    while process.poll() is None:
                        if (model / "losses.jsonl").exists():
                            samples.append(tree_memory(process.pid))
                        time.sleep(0.1)
                finally:
                    process.terminate()
                    process.wait()
            if process.returncode or not samples:
                raise Absent(f"eight ranks: exit code {process.returncode}: {self.log.read_text()[-2000:]}")
            found = launches(runs / "smoke")
            if forked and not (found and all(launch["forked"] for launch in found)):
                raise Absent("the launcher did not say in logs/<label>/launch.json that it forked its ranks")
            pss_gib, number = max(samples)
        return [{"pss_gib": round(pss_gib, 3), "num_processes": number, "samples": len(samples), "launches": found}]

    def eight_ranks_pss_gib(self) -> list[Row]:
        """As the launcher starts them."""
        return self.eight_ranks(forked=True)

    def eight_ranks_unforked_pss_gib(self) -> list[Row]:
        """Each an interpreter of its own."""
        return self.eight_ranks(forked=False)

    def venv_s(self) -> list[Row]:
        """The installation, in a fresh clone; the last one stays for the quickstart."""
        rows = []
        for number in range(self.repeats):
            clone = self.folder / f"clone_{number}"
            timed(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], self.log)
            rows.append(timed(["make", "venv"], self.log, cwd=clone, HF_HUB_OFFLINE="0"))
            if self.clone is not None:
                shutil.rmtree(self.clone)
            self.clone = clone
        return rows

    def quickstart_s(self) -> list[Row]:
        """The whole of it, after the installation."""
        if self.clone is None:
            clone = self.folder / "clone"
            timed(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], self.log)
            timed(["make", "venv"], self.log, cwd=clone)
            self.clone = clone
        row = timed(["make", "quickstart"], self.log, cwd=self.clone)
        lines = (self.clone / "runs/quickstart/timing.jsonl").read_text().splitlines()
        return [{**row, "stages": [json.loads(line) for line in lines]}]

    def suite_s(self) -> list[Row]:
        """All tests."""
        return [timed(["make", "test"], self.log)]

    def suite_fast_s(self) -> list[Row]:
        """Those of less than a minute."""
        return [timed(["make", "test", "TEST_ARGS=-m 'not slow'"], self.log)]


def ranks_ready(rows: list[Row]) -> tuple[dict[str, float], list[Row]]:
    """The two figures of launches, from the row of the smoke run; and rows with the reason where there are none."""
    found = [launch for row in rows if row.get("figure") == "smoke_s" for launch in row.get("launches", [])]
    waits = [float(launch["ready"]) - float(launch["wanted"]) for launch in found]
    figures = {"ranks_ready_first_s": waits[:1], "ranks_ready_s": waits[1:]}
    known = {name: round(median(values), 3) for name, values in figures.items() if values}
    reason = "no launch.json in the logs of the smoke run, or no smoke run"
    return known, [{"figure": name, "absent": reason} for name in figures if name not in known]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--run", type=Path, help="a finished run of the smoke recipe, named smoke, instead of that of smoke_s"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--again", action="store_true", help="measure what the results have for this commit too")
    parser.add_argument("--only", nargs="*", metavar="FIGURE", help="these figures")
    parser.add_argument("--venv", action="store_true", help="also venv_s: some minutes and 3 GB, of the network too")
    parser.add_argument("--suite", action="store_true", help="also suite_s and suite_fast_s: an hour")
    parser.add_argument("--quickstart", action="store_true", help="also quickstart_s, after an installation")
    parser.add_argument("--quick", action="store_true", help="once, nothing that starts ranks, a small search")
    arguments = parser.parse_args()

    names = ["help_s", "refusal_s", "status_s", "doctor_s", "inspect_s", "imported_search_s"]
    if not arguments.quick:
        names = ["smoke_s", *names, "score_s", "eight_ranks_pss_gib", "eight_ranks_unforked_pss_gib"]
    names += ["venv_s"] * arguments.venv + ["quickstart_s"] * arguments.quickstart
    names += ["suite_s", "suite_fast_s"] * arguments.suite
    if arguments.only is not None:
        names = [name for name in names if name in arguments.only]

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    started = time.monotonic()
    rows: list[Row] = []
    summary: dict[str, float] = {}
    path = RESULTS / f"startup{'_quick' if arguments.quick else ''}.json"
    now = commit()
    if path.exists() and not arguments.again:
        before = json.loads(path.read_text())
        if before["commit"] == now and not now.endswith("-dirty"):
            rows = [row for row in before["rows"] if "absent" not in row]
            summary = before["summary"]

    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        run = arguments.run.resolve() if arguments.run is not None else None
        startup = Startup(Path(folder), run, 1 if arguments.quick else arguments.repeats, arguments.quick)
        needed = {"inspect_s", "score_s", "eight_ranks_pss_gib", "eight_ranks_unforked_pss_gib"} - summary.keys()
        for name in names:
            makes_run = name == "smoke_s" and startup.run is None and bool(needed & set(names))
            if name in summary and not makes_run:
                continue
            measure: Callable[[], list[Row]] = getattr(startup, name)
            try:
                if arguments.quick and time.monotonic() - started > QUICK_S:
                    raise Absent(f"{QUICK_S} s are over: this machine is slow, or busy")
                found = measure()
            except Absent as reason:
                rows.append({"figure": name, "absent": str(reason)})
                continue
            rows = [row for row in rows if row["figure"] != name]
            rows += [{"figure": name, "repeat": repeat, **row} for repeat, row in enumerate(found)]
            values = [row["pss_gib" if name.endswith("_gib") else "wall_s"] for row in found]
            summary[name] = round(median(values), 3)
            print(f"{name}: {summary[name]}", file=sys.stderr, flush=True)
            write("startup", arguments.quick, [SEED], rows, summary)
    if not arguments.quick:
        known, absent = ranks_ready(rows)
        summary |= known
        rows += absent
    finish("startup", arguments.quick, [SEED], rows, summary)


if __name__ == "__main__":
    main()
