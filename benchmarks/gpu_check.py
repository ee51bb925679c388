"""What a GPU shows of this program in at most six minutes: one command, no network, each check apart from the others.

    python benchmarks/gpu_check.py            # on a machine with a GPU, in either back end's environment
    python benchmarks/gpu_check.py --cpu      # all of it that needs none, tiny

A check that cannot run here says why, one that fails says what it found, and the rest go on. In order:

- doctor: `nemo-demix doctor` of the recipe that the other checks train.
- live_merge: components merged in memory, against float64 sums rounded once, beside what the device's own copies take.
- train: data, a base and two components, in bf16 on a GPU: losses below that of random weights, tokens a second.
- scoring: proxies merged and scored live, beside the model's bare forward pass.
- hf: the same requests to lm-eval's `hf` on the exported component.
- bf16: log-probabilities of the component in bf16 and in fp32.
- transformer_engine: its layers against torch's own arithmetic, in bf16, and in FP8 where the GPU has it.
- collectives: sums and gathers over two ranks, by NCCL over two GPUs; with --cpu by gloo.

`--run` names a finished run instead of what `train` makes; then nothing is trained. Exit code 1: a check has failed.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import _gpu_run
import _merge_live
from _gpu_run import Run
from _merge_inputs import SEED, SHAPES, prepare_inputs
from _provenance import REPOSITORY, RESULTS, write

from nemo_demix.errors import DemixError

HERE = Path(__file__).resolve().parent
LIMIT_S = {"cuda": 360.0, "cpu": 1800.0}  # of a CPU nothing is promised: it may be busy
LEAST_S = 20.0  # no check is begun with less
Row = dict[str, Any]


class NotHere(Exception):
    """A check cannot run on this machine; why."""


class Failed(Exception):
    """A check ran and found what should not be, or ended in an error."""


@dataclass
class Session:
    """What the checks share."""

    folder: Path
    device: str  # cuda | cpu
    gpus: int
    deadline: float
    run: Run | None = None  # that was trained, or named
    summary: Row = field(default_factory=dict)

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU that is checked."""
        return self.device == "cuda"

    def program(self, command: list[str], log: str, ranks: int = 0) -> str:
        """Run a program, on ranks if there are any, for as long as is left; returns what it printed.

        Raises:
            Failed: if it ends in an error, or not in time.
        """
        start = [sys.executable]
        if ranks:
            start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        left = max(1.0, self.deadline - time.monotonic())
        path = self.folder / f"{log}.log"
        with open(path, "w", encoding="utf-8") as file:
            try:
                done = subprocess.run(
                    [*start, *command], cwd=REPOSITORY, env=_gpu_run.ENVIRONMENT, stdout=subprocess.PIPE, stderr=file,
                    text=True, timeout=left, check=False,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                raise Failed(f"{log}: not done in the {left:.0f} s that were left") from None
        if done.returncode:
            said = [line for line in (path.read_text() + done.stdout).splitlines() if line.strip()]
            raise Failed(f"{log}: exit code {done.returncode}: {' | '.join(said[-4:])[-600:]}")
        return done.stdout

    def script(self, name: str, *arguments: str, ranks: int = 0) -> Row:
        """Run a script beside this file; its last line is JSON."""
        found: Row = json.loads(
            self.program([str(HERE / name), *arguments], Path(name).stem, ranks).strip().splitlines()[-1]
        )
        return found

    def stage(self, *arguments: str) -> str:
        """Run a stage of nemo-demix; returns all that it printed."""
        printed = self.program(["-m", "nemo_demix", *arguments], arguments[0])
        return (self.folder / f"{arguments[0]}.log").read_text() + printed

    def trained(self) -> Run:
        """The run whose models are scored."""
        if self.run is None:
            raise NotHere("nothing was trained: see train")
        return self.run


def doctor(session: Session) -> list[Row]:
    """What the doctor says of the recipe."""
    run = _gpu_run.write_recipe(session.folder, session.is_gpu)
    command = [sys.executable, "-m", "nemo_demix", "doctor", *run.arguments]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=_gpu_run.ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
    )
    lines = (done.stdout + done.stderr).splitlines()
    said = [line for line in lines if line.startswith(("missing:", "warning:", "Nothing is missing"))]
    if done.returncode:
        raise Failed(" | ".join(said or lines[-3:]))
    return [{"said": said}]


def live_merge(session: Session) -> list[Row]:
    """Merging in memory: exact, and how near to the device's own copies."""
    count = 4 if session.is_gpu else 2
    inputs = prepare_inputs(session.folder / "merge", SHAPES["0.5" if session.is_gpu else "tiny"], count)
    job = session.folder / "job.json"
    components = {name: str(path) for name, path in inputs.megatron.items()}
    wanted = {"components": components, "repeats": 5 if session.is_gpu else 2, "device": session.device, "exact": True}
    job.write_text(json.dumps({**wanted, "seed": SEED}))
    found = session.script("_merge_live.py", str(job))
    rows = found["rows"]
    exact = next(row for row in rows if row["contender"] == "exact")
    figures = _merge_live.figures(rows)
    moved = (count + 1) * found["component_bytes"] / 1e9
    session.summary |= {
        "live_correctly_rounded_share": round(exact["share"], 7),
        "live_gb_s": round(moved / figures["live_seconds"], 1) if figures["live_seconds"] else None,
        "live_ratio_to_copies": figures["live_ratio"],
    }
    if exact["share"] < 0.999:  # sums are fp32, rounded to bf16: a few in a million lie on the other side of a tie
        raise Failed(f"{exact['num_correct']} of {exact['num_elements']} values are the correctly rounded sum")
    return rows


def train(session: Session) -> list[Row]:
    """Data, a base and a component."""
    if session.run is not None:
        raise NotHere("--run names a run that is trained already")
    run = _gpu_run.write_recipe(session.folder, session.is_gpu)
    printed = [
        session.stage(stage, *run.arguments, *more)
        for stage, *more in (["prepare"], ["train", "role=base"], ["train", "role=component"])
    ]
    rows = _gpu_run.losses(run)
    session.run = run
    session.summary |= {"train_tokens_s": _gpu_run.pace(printed[-1]), "train_precision": run.precision}
    untrained = next(row["first"] for row in rows if row["role"] == "base")
    if odd := [row["model"] for row in rows if not row["last"] < untrained]:
        raise Failed(f"the loss of {', '.join(odd)} is not below that of a model with random weights: {rows}")
    return rows


def scoring(session: Session) -> list[Row]:
    """Proxies merged and scored live, beside the bare forward pass."""
    run = session.trained()
    found = session.script("_scoring_live.py", str(run.folder), str(run.tensor), "3", ranks=run.tensor)
    facts, rows = found["facts"], found["rows"]
    seconds = {name: median(row[name] for row in rows) for name in rows[0]}
    tokens_s = facts["num_tokens"] / seconds["score_s"]
    session.summary |= {
        "forward_ratio": round(tokens_s / found["bare_tokens_s"], 3),
        "tokens_s": round(tokens_s),
        "merge_share": round(seconds["merge_s"] / seconds["proxy_s"], 4),
    }
    return [facts, *rows]


def hf(session: Session) -> list[Row]:
    """The same requests, by lm-eval's `hf` on the exported component."""
    run = session.trained()
    if not run.arguments:
        raise NotHere("--run names a run of another recipe; what train makes is exported")
    exported, answers, peer = (session.folder / name for name in ("exported", "answers.json", "peer.json"))
    checkpoint = _gpu_run.component(run)
    session.stage("export", *run.arguments, f"convert.source={checkpoint}", f"convert.output={exported}")
    session.script("_scoring_nine.py", str(run.folder), str(checkpoint), "1", str(answers), ranks=1)
    dtype = {"32": "float32", "bf16-mixed": "bfloat16"}[run.precision]
    arguments = [str(run.folder), str(exported), str(answers), str(peer), session.device, dtype]
    session.program([str(HERE / "_scoring_peer.py"), *arguments], "_scoring_peer")
    found = json.loads(peer.read_text())
    session.summary |= {"hf_max_rel_diff": found["max_rel_diff"], "hf_dtype": dtype}
    if found["max_rel_diff"] > (1e-4 if dtype == "float32" else 0.05):
        raise Failed(f"log-probabilities differ by {found['max_rel_diff']:.2g} of their size, in {dtype}")
    return [{key: value for key, value in found.items() if key != "scores"}, found["scores"]]


def bf16(session: Session) -> list[Row]:
    """The component in bf16 and in fp32."""
    if not session.is_gpu:
        raise NotHere("train.precision=bf16-mixed needs a GPU")
    run = session.trained()
    found = session.script("_gpu_programs.py", "precision", str(run.folder), str(_gpu_run.component(run)), ranks=1)
    session.summary["bf16_max_rel_diff"] = found["max_rel_diff"]
    if not found["max_rel_diff"] < 0.05:
        raise Failed(f"log-probabilities differ by {found['max_rel_diff']} of their size")
    return [found]


def transformer_engine(session: Session) -> list[Row]:
    """Its layers, where it is installed."""
    if not session.is_gpu:
        raise NotHere("Transformer Engine needs a GPU")
    found = session.script("_gpu_programs.py", "transformer_engine")
    if found.get("absent"):
        raise NotHere(found["absent"])
    session.summary |= {f"te_{row['layer']}_{row['precision']}_rel": row["relative"] for row in found["rows"]}
    if bad := [row for row in found["rows"] if not row["relative"] < row["limit"]]:
        raise Failed(str(bad))
    rows: list[Row] = found["rows"]
    return rows


def collectives(session: Session) -> list[Row]:
    """Sums and gathers over two ranks."""
    if session.is_gpu and session.gpus < 2:
        raise NotHere(f"{session.gpus} GPU here: NCCL between two was not tried")
    found = session.script("_gpu_programs.py", "collectives", session.device, ranks=2)
    session.summary[f"{found['by']}_gb_s"] = found["gb_s"]
    if not found["right"]:
        raise Failed(f"{found['by']}: wrong sums: {found}")
    return [found]


CHECKS: dict[str, Callable[[Session], list[Row]]] = {
    check.__name__: check for check in (doctor, live_merge, train, scoring, hf, bf16, transformer_engine, collectives)
}


def count_gpus() -> int:
    """How many GPUs torch sees; asked in a process of its own, so that this one has touched none."""
    program = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
    return int(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)


def perform(session: Session, names: list[str]) -> list[Row]:
    """Every check's row: how it ended, why, how long it took, and its own rows."""
    rows = []
    for name in names:
        started = time.monotonic()
        row: Row = {"check": name, "outcome": "ok", "why": None, "rows": []}
        try:
            if session.deadline - started < LEAST_S:
                raise NotHere(f"no time was left of {LIMIT_S[session.device]:.0f} s")
            row["rows"] = CHECKS[name](session)
        except NotHere as reason:
            row |= {"outcome": "not run", "why": str(reason)}
        except Exception as error:  # whatever it is, the others go on
            row |= {"outcome": "failed", "why": f"{type(error).__name__}: {error}"}
        row["seconds"] = round(time.monotonic() - started, 1)
        rows.append(row)
        why = f": {row['why']}" if row["why"] else ""
        print(f"{name:20} {row['outcome']:8} {row['seconds']:6.1f} s{why}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="what needs no GPU, tiny")
    parser.add_argument("--quick", action="store_true", help="as --cpu where there is no GPU; else all of it")
    parser.add_argument("--checks", nargs="+", choices=CHECKS, default=list(CHECKS), metavar="CHECK")
    parser.add_argument("--run", type=Path, help="a finished run, whose models are scored instead of new ones")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the raw rows go")
    parser.add_argument("--work", type=Path, help="a folder to work in, which is kept")
    arguments = parser.parse_args()
    gpus = 0 if arguments.cpu else count_gpus()
    if not gpus and not arguments.cpu and not arguments.quick:
        parser.exit(2, "gpu_check: torch sees no GPU here; --cpu runs what needs none\n")
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        try:
            run = None if arguments.run is None else Run.find(arguments.run.resolve())
        except DemixError as error:
            parser.exit(2, f"gpu_check: --run {arguments.run}: {error}\n")
        device = "cuda" if gpus else "cpu"
        session = Session(folder.resolve(), device, gpus, started + LIMIT_S[device], run)
        if not gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = _gpu_run.ENVIRONMENT["CUDA_VISIBLE_DEVICES"] = ""
        rows = perform(session, arguments.checks)
    ended = [row["outcome"] for row in rows]
    summary = {f"checks_{name}": ended.count(kind) for name, kind in
               (("ok", "ok"), ("failed", "failed"), ("not_run", "not run"))}  # fmt: skip
    summary |= {**session.summary, "wall_s": round(time.monotonic() - started, 1)}
    write("gpu_check", not gpus, [SEED], rows, summary, arguments.results)
    print(json.dumps(summary))
    sys.exit(1 if "failed" in ended else 0)


if __name__ == "__main__":
    main()
