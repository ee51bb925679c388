"""What merging costs beside the disk's own limit, and beside the other ways to do it, on the same components.

K component models of random values (see `_merge_inputs.py`) lie in one Megatron checkpoint each. They are merged into M
mixtures by whole processes, one after the other, repeats interleaved, with one thread a process or worker
(OMP_NUM_THREADS=1), outputs fsynced within the time:

- `limit`: one process reads all component files from start to end and writes M times files of the same sizes.
- `ours`: `nemo-demix merge`, linear, two workers.
- `dcp`: torch.distributed.checkpoint loads all components whole, once; each mixture is summed in fp32 and saved.
- `mergekit`: its command line, one process a mixture, on the same values as safetensors; fsync after it is in the time.
- `weighted_merge`: Megatron-LM's tools/checkpoint/weighted_merge.py, M = 1 (it has no more), on the same values under
  Megatron-LM's names (it refuses NeMo's), as many ranks as `ours` has workers; likewise.

Inputs are in the page cache as far as it holds them (each contender's are read just before it, untimed); with --cold
they are dropped from it instead. The peers are repeated at M = 1 and run once at greater M; ours and the limit are
repeated at every M. `others_cpu_s` of a row says how busy the machine was with other things: only a quiet run counts.
Inputs and measured rows outlive an interrupted call: the same command goes on.

Figures: `limit_ratio_m<M>` is median wall time of `ours` / of `limit`, whole processes; `limit_phase_ratio_m<M>` leaves
out starting Python and importing on both sides. `<peer>_speedup_m<M>` is the peer's wall time / ours, whole processes,
M mixtures each, so also per mixture. Memory is the peak of `ours` over all M; see `_merge_process.py`.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import _merge_dcp
import _merge_exact
import _merge_live
from _merge_inputs import SEED, SHAPES, Inputs, mixtures, prepare_inputs
from _merge_process import cool, measure, warm
from _provenance import REPOSITORY, finish

from nemo_demix.artifacts import file_sha256, fingerprint, read_json, write_json

HERE = Path(__file__).resolve().parent
NUM_COMPONENTS = 7
DEFAULT_SIZE = "1.2"
SIZE_HELP = "GB a component; `many`: 4 GB in 20,000 tensors, of experts"
Weights = dict[str, dict[str, float]]
Row = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """One size of components, and where everything about it lies."""

    inputs: Inputs
    folder: Path
    mergekit_python: Path | None
    weighted_merge: tuple[Path, Path] | None  # Python, script
    workers: int

    @property
    def output(self) -> Path:
        """Where every contender writes; emptied around each."""
        return self.folder / "output"

    @property
    def log(self) -> Path:
        """The output of the last process."""
        return self.folder / "last.log"

    def program(self, name: str, job: dict[str, Any]) -> Row:
        """Measure one of the programs beside this file; its last line says what it timed itself."""
        write_json(self.folder / "job.json", job)
        row = measure([sys.executable, HERE / name, self.folder / "job.json"], self.log)
        return {**row, **json.loads(self.log.read_text().splitlines()[-1])}


def run_limit(bench: Bench, weights: Weights) -> Row:
    files = bench.inputs.files
    sizes = [path.stat().st_size for path in next(iter(files.values()))]
    read = [str(path) for paths in files.values() for path in paths]
    return bench.program(
        "_merge_limit.py", {"read": read, "write": {str(bench.output / name): sizes for name in weights}}
    )


def run_ours(bench: Bench, weights: Weights) -> Row:
    write_json(bench.folder / "mixtures.json", weights)
    command = [sys.executable, "-m", "nemo_demix", "merge", "--config-name", "quickstart", "name=merge_benchmark"]
    command += [f"runs_dir={bench.folder / 'runs'}", f"merge.mixtures={bench.folder / 'mixtures.json'}"]
    command += [f"merge.output={bench.output}", "merge.method=linear", f"merge.workers={bench.workers}"]
    command += [f"+merge.components.{name}={path}" for name, path in bench.inputs.megatron.items()]
    row = measure(command, bench.log)
    report = read_json(bench.output / "last_merge.json")
    assert set(report["merged"]) == set(weights), f"merged {report['merged']}, not all of {list(weights)}"
    return {**row, "phase_s": report["merge_time_s"], "read_bytes": report["bytes_read"]}


def run_dcp(bench: Bench, weights: Weights) -> Row:
    components = {name: str(path) for name, path in bench.inputs.megatron.items()}
    return bench.program("_merge_dcp.py", {"components": components, "mixtures": weights, "output": str(bench.output)})


def run_mergekit(bench: Bench, weights: Weights) -> Row:
    assert bench.mergekit_python is not None
    script = bench.mergekit_python.with_name("mergekit-yaml")
    rows = []
    for mixture, row in weights.items():
        models = [
            {"model": str(bench.inputs.hugging_face[name]), "parameters": {"weight": weight}}
            for name, weight in row.items()
        ]
        recipe = bench.folder / "mergekit.yml"  # JSON is YAML
        write_json(recipe, {"merge_method": "linear", "dtype": "bfloat16", "models": models})
        if len(rows):
            shutil.rmtree(bench.output)  # M mixtures of it need not fit on the disk together
        target = bench.output / mixture
        rows.append(measure([script, recipe, target, "--no-copy-tokenizer"], bench.log, sync=target))
    return _summed(rows)


def run_weighted_merge(bench: Bench, weights: Weights) -> Row:
    assert bench.weighted_merge is not None
    python, script = bench.weighted_merge
    command = [python, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={bench.workers}", script]
    rows = []
    for mixture, row in weights.items():
        inputs = [f"{bench.inputs.megatron_lm[name] / 'weights'}:{weight!r}" for name, weight in row.items()]
        target = bench.output / mixture
        more = ["--merge-balance-rank-work", "--merge-byte-accounting=none", "--merge-output", target / "weights"]
        rows.append(measure([*command, "--merge-inputs", *inputs, *more], bench.log, sync=target))
    return _summed(rows)


def _summed(rows: list[Row]) -> Row:
    """Processes one after the other as one row."""
    peaks = ("peak_rss_gib", "peak_anonymous_gib")
    return {key: (max if key in peaks else sum)(row[key] for row in rows) for key in rows[0]}


CONTENDERS: dict[str, Callable[[Bench, Weights], Row]] = {
    "limit": run_limit,
    "ours": run_ours,
    "dcp": run_dcp,
    "mergekit": run_mergekit,
    "weighted_merge": run_weighted_merge,
}
PEERS = ("mergekit", "dcp", "weighted_merge")  # once at M > 1


def exactness(bench: Bench, contender: str, weights: Weights) -> Row:
    """How the first merged output of a contender compares with float64 arithmetic."""
    (mixture, row), *_ = weights.items()
    open_tensors, components = _merge_exact.megatron_tensors, bench.inputs.megatron
    if contender == "mergekit":
        open_tensors, components = _merge_exact.hugging_face_tensors, bench.inputs.hugging_face
    if contender == "weighted_merge":
        components = bench.inputs.megatron_lm
    if contender in ("dcp", "weighted_merge"):  # its files are its own to read
        merged = _merge_dcp.load(bench.output / mixture / "weights")
        read, names = merged.__getitem__, list(merged)
    else:
        read, names = open_tensors(bench.output / mixture)
    return _merge_exact.correctly_rounded(
        read, {name: open_tensors(path)[0] for name, path in components.items()}, iter(names), row
    )


class Rows:
    """Measured rows, kept on disk one by one, for as long as neither the code nor the conditions change."""

    def __init__(self, folder: Path, conditions: dict[str, Any]) -> None:
        sources = [*REPOSITORY.glob("nemo_demix/**/*.py"), *HERE.glob("_merge_*.py"), HERE / "merge.py"]
        code = {str(path.relative_to(REPOSITORY)): file_sha256(path) for path in sources}
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"rows-{fingerprint(code=code, conditions=conditions)}.jsonl"
        self.rows: list[Row] = []
        if self.path.exists():
            self.rows = [json.loads(line) for line in self.path.read_text().splitlines()]

    def find(self, **key: Any) -> Row | None:
        """The row that has these values, if it was measured."""
        return next((row for row in self.rows if all(row.get(name) == value for name, value in key.items())), None)

    def add(self, row: Row) -> None:
        """Keep a row."""
        self.rows.append(row)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def medians(self, contender: str, num_mixtures: int, field: str) -> float | None:
        """The median of a field over the repeats; None where it was not measured."""
        values = [
            row[field]
            for row in self.rows
            if row["contender"] == contender and row.get("m") == num_mixtures and not row.get("memory_only")
        ]
        return median(values) if values else None


def compare(bench: Bench, rows: Rows, arguments: argparse.Namespace) -> None:
    """Every contender, every M, repeats interleaved."""
    for m in arguments.mixtures:
        weights = mixtures(list(bench.inputs.megatron), m, "mixture", SEED)
        for repeat in range(arguments.repeats):
            for contender in arguments.contenders:
                once = contender in PEERS and m > 1
                if once and repeat:
                    continue
                if ((contender == "dcp" and arguments.quick) or contender == "weighted_merge") and m > 1:
                    continue
                key = {"size": arguments.size, "contender": contender, "m": m, "repeat": repeat}
                if rows.find(**key):
                    continue
                row = run_one(bench, contender, weights, arguments.cold)
                if m == 1 and repeat == 0 and contender != "limit":
                    row["exactness"] = exactness(bench, contender, weights)
                rows.add({**key, **row})
                _clear(bench)
                print(
                    f"M={m:<2} {contender:14} {repeat + 1}/{1 if once else arguments.repeats}  {row['wall_s']:7.2f} s"
                    f"  anonymous {row['peak_anonymous_gib']:.2f} GiB"
                    f"  (processor: {row['cpu_s']:.1f} s, others {row['others_cpu_s']:.1f} s)",
                    flush=True,
                )


def run_one(bench: Bench, contender: str, weights: Weights, cold: bool) -> Row:
    """One contender on freshly warmed or cooled inputs; its output stays for whoever wants to look."""
    _clear(bench)
    wanted = len(weights) * bench.inputs.component_bytes
    if (free := shutil.disk_usage(bench.folder).free) < wanted + 2e9:
        raise RuntimeError(f"{bench.folder}: {wanted / 1e9:.0f} GB are to be written, {free / 1e9:.0f} GB are free")
    paths = [path for files in bench.inputs.files.values() for path in files]
    if contender == "mergekit":
        paths = [folder / "model.safetensors" for folder in bench.inputs.hugging_face.values()]
    if contender == "weighted_merge":
        paths = [path for folder in bench.inputs.megatron_lm.values() for path in (folder / "weights").glob("*.distcp")]
    (cool if cold else warm)(paths)
    os.sync()  # what others wrote before does not go onto this one's account
    return CONTENDERS[contender](bench, weights)


def peer_versions(rows: Rows, python: Path) -> None:
    """What mergekit's environment holds."""
    if rows.find(contender="mergekit_versions") is None:
        program = (
            "import importlib.metadata as m, json, sys; print(json.dumps({p: m.version(p) for p in sys.argv[1:]}))"
        )
        command = [str(python), "-c", program, "mergekit", "torch", "transformers", "safetensors"]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows.add({"contender": "mergekit_versions", **json.loads(found)})


def _clear(bench: Bench) -> None:
    shutil.rmtree(bench.output, ignore_errors=True)


def memory_at(size: str, rows: Rows, arguments: argparse.Namespace) -> None:
    """Peak memory of one merge at another size; its inputs are made for it and removed after it."""
    key = {"size": size, "contender": "ours", "m": 1, "memory_only": True}
    if rows.find(**key):
        return
    folder = arguments.work / size
    bench = Bench(prepare_inputs(folder, SHAPES[size], NUM_COMPONENTS), folder, None, None, arguments.workers)
    row = run_one(bench, "ours", mixtures(list(bench.inputs.megatron), 1, "mixture", SEED), arguments.cold)
    rows.add({**key, **row, "component_bytes": bench.inputs.component_bytes})
    print(f"{size} GB a component: anonymous {row['peak_anonymous_gib']:.2f} GiB", flush=True)
    if not arguments.keep:
        shutil.rmtree(folder)


def live(bench: Bench, rows: Rows, arguments: argparse.Namespace) -> None:
    """Merging in memory, and what memory itself takes."""
    if rows.find(contender="memory") is None:
        components = {name: str(path) for name, path in bench.inputs.megatron.items()}
        job = {"components": components, "repeats": max(3, arguments.repeats)}
        for row in bench.program("_merge_live.py", job).pop("rows"):
            rows.add({"size": arguments.size, **row})
    print(f"in memory: {_merge_live.figures(rows.rows)}", flush=True)


def summarize(bench: Bench, rows: Rows, arguments: argparse.Namespace) -> dict[str, float]:
    """The named figures; one that was not measured is not there."""
    summary: dict[str, float] = {}

    def ratio(name: str, above: float | None, below: float | None) -> None:
        if above is not None and below is not None:
            summary[name] = round(above / below, 4)

    for m in arguments.mixtures:
        ours = rows.medians("ours", m, "wall_s")
        ratio(f"limit_ratio_m{m}", ours, rows.medians("limit", m, "wall_s"))
        ratio(f"limit_phase_ratio_m{m}", rows.medians("ours", m, "phase_s"), rows.medians("limit", m, "phase_s"))
        for peer in ("mergekit", "dcp"):
            ratio(f"{peer}_speedup_m{m}", rows.medians(peer, m, "wall_s"), ours)
        ratio(f"weighted_merge_ratio_m{m}", rows.medians("weighted_merge", m, "wall_s"), ours)
        for name, contender in {"limit": "limit", "merge": "ours"}.items():
            ratio(f"{name}_seconds_per_mixture_m{m}", rows.medians(contender, m, "wall_s"), m)
    prefixes = {"ours": "", **{peer: f"{peer}_" for peer in PEERS}}
    for contender, prefix in prefixes.items():
        found = [row for row in rows.rows if row["contender"] == contender and not row.get("memory_only")]
        for field in ("peak_rss_gib", "peak_anonymous_gib") if found else ():
            summary[prefix + field] = round(max(row[field] for row in found), 3)
        for row in found:
            if "exactness" in row:
                summary[f"{prefix}correctly_rounded_share"] = round(row["exactness"]["share"], 6)
        if contender == "ours" and found:
            stored = NUM_COMPONENTS * bench.inputs.component_bytes
            ratio("read_bytes_ratio", max(row["read_bytes"] for row in found), stored)
            ratio("read_call_bytes_ratio", max(row["read_call_bytes"] for row in found), stored)
    for row in rows.rows:
        if row.get("memory_only"):
            summary[f"peak_anonymous_gib_{row['size'].replace('.', 'p')}gb"] = round(row["peak_anonymous_gib"], 3)
    summary |= _merge_live.figures(rows.rows)
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "nemo_demix_merge_benchmark")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--mixtures", nargs="+", type=int, default=[1, 4, 16], help="how many at once: M")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="of `ours`")
    parser.add_argument("--size", choices=SHAPES, default=DEFAULT_SIZE, help=SIZE_HELP)
    parser.add_argument("--sizes", nargs="*", choices=SHAPES, default=[], help="also the peak memory at these sizes")
    parser.add_argument(
        "--mergekit-python", type=Path, help="of an environment with mergekit; without it, it is left out"
    )
    parser.add_argument(
        "--weighted-merge",
        type=Path,
        nargs=2,
        metavar=("PYTHON", "SCRIPT"),
        help="of an environment with megatron-core 0.19, and weighted_merge.py; without them, it is left out",
    )
    parser.add_argument("--cold", action="store_true", help="inputs dropped from the page cache before each process")
    parser.add_argument("--no-live", action="store_true", help="leave out merging in memory")
    parser.add_argument("--keep", action="store_true", help="keep the work folder")
    parser.add_argument("--quick", action="store_true", help="small components, M = 1 and 4, once each")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.size, arguments.mixtures, arguments.repeats = "quick", [1, 4], 1
    if SHAPES[arguments.size].num_moe_experts and arguments.mergekit_python:
        parser.error(
            f"--size {arguments.size}: components of experts are not written as safetensors, so not for mergekit"
        )
    if arguments.mergekit_python is None:
        arguments.contenders = [name for name in arguments.contenders if name != "mergekit"]
    else:
        arguments.mergekit_python = arguments.mergekit_python.absolute()
    if arguments.weighted_merge is None:
        arguments.contenders = [name for name in arguments.contenders if name != "weighted_merge"]
    else:
        arguments.weighted_merge = tuple(path.absolute() for path in arguments.weighted_merge)

    # So that a measured process ends with us, and not only on Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    conditions = {"cold": arguments.cold, "workers": arguments.workers, "mergekit": str(arguments.mergekit_python)}
    rows = Rows(arguments.work, conditions)
    folder = arguments.work / arguments.size
    others = ["mergekit" in arguments.contenders, "weighted_merge" in arguments.contenders]
    inputs = prepare_inputs(folder, SHAPES[arguments.size], NUM_COMPONENTS, *others)
    bench = Bench(inputs, folder, arguments.mergekit_python, arguments.weighted_merge, arguments.workers)
    if "mergekit" in arguments.contenders:
        peer_versions(rows, arguments.mergekit_python)
    compare(bench, rows, arguments)
    if not arguments.no_live:
        live(bench, rows, arguments)
    for size in arguments.sizes:
        memory_at(size, rows, arguments)
    summary = summarize(bench, rows, arguments)
    if not arguments.keep:
        shutil.rmtree(folder, ignore_errors=True)  # may be gone with --sizes
        rows.path.unlink()
        with contextlib.suppress(OSError):  # what others keep there stays
            arguments.work.rmdir()
    kinds = ["cold"] * arguments.cold + [arguments.size] * (arguments.size not in ("quick", DEFAULT_SIZE))
    finish("_".join(["merge", *kinds]), arguments.quick, [SEED], rows.rows, summary)


if __name__ == "__main__":
    main()
