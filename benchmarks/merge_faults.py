"""What merging makes of kills and of damage: does a killed merge end with the same files, is a flipped bit noticed?

1. Merges of three checkpoints are killed with SIGKILL at random moments (the parent, or a worker), gone on with by
   another number of workers, some killed again; the files are compared with those of a merge in one go.
2. Single bits are flipped over all files of a component, on the disk, sizes and times kept; the merge has to refuse, or
   to give what it gives without the damage (compared file by file, without the sources' fingerprints). Half of the
   flips are in the component that the outputs take their small files from, half of these with merge.objects_from set.
   The same flips are then tried without `checksums.json`, as on a checkpoint that others trained: what no checksum
   covers there is counted apart.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _provenance import REPOSITORY, finish

from nemo_demix.checkpoints.checksums import CHECKSUMS

sys.path.insert(0, str(REPOSITORY / "tests/merging"))
from faults import (
    children,
    contents,
    draw_flips,
    flip,
    fork_merge,
    meaning,
    outcome,
    plan_of,
    run_merge,
    save_checkpoint,
)

MIXTURES = {"mix_0": {"c0": 0.5, "c1": 0.25, "c2": 0.25}, "mix_1": {"c0": 0.1, "c1": 0.0, "c2": 0.9}}
_SEEDS = (0, 1)  # of the moments of the kills, which also depend on the machine; of the flips
FORCE_EVERY = 10  # of the kills, one in so many while an earlier merge of the same names is replaced
Components = dict[str, Path]


def kills(
    folder: Path, components: Components, number: int, method: str, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Kill merges, and go on with each until it is done; one row a kill."""
    names = list(components)[:-1] if method != "linear" else list(components)
    base = components["c2"] if method != "linear" else None
    mixtures = {name: {key: 1 / len(names) for key in names} for name in MIXTURES} if base else MIXTURES
    chosen = {name: components[name] for name in names}

    def plan() -> Any:
        return plan_of(chosen, mixtures, method=method, base=base)

    seconds = run_merge(plan(), folder / "expected", 2).merge_time_s
    expected = contents(folder / "expected")
    rows: list[dict[str, Any]] = []
    while len(rows) < number:
        output = folder / f"output_{len(rows)}"
        options = {}
        if len(rows) % FORCE_EVERY == FORCE_EVERY - 1:
            run_merge(plan_of(chosen, {"mix_0": {names[0]: 1.0}}, method=method, base=base), output)
            options = {"force": True}
        begun = len(rows)
        for _ in range(int(rng.integers(1, 4))):
            row = kill(plan(), output, float(rng.uniform(0, 1.05)) * seconds, rng, options)
            if row is not None and len(rows) < number:
                rows.append({"method": method, **row})
        if len(rows) == begun:
            shutil.rmtree(output)
            continue
        run_merge(plan(), output, int(rng.integers(1, 4)), **options)
        same = contents(output) == expected and not list(output.glob(".merge-*"))
        for row in rows[begun:]:
            row["resumed_identical"] = same
        shutil.rmtree(output)
    return rows


def kill(
    plan: Any, output: Path, after_s: float, rng: np.random.Generator, options: dict[str, Any]
) -> dict[str, Any] | None:
    """One kill; None if the merge was done before."""
    workers = int(rng.integers(1, 4))
    pid = fork_merge(plan, output, workers, **options)
    time.sleep(after_s)
    pids = children(pid)
    whom = "worker" if pids and rng.uniform() < 0.3 else "parent"
    published = sum((output / name / "merge.json").exists() for name in plan.mixtures)
    os.kill(pids[0] if whom == "worker" else pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    for _ in range(2000):
        if not any(Path(f"/proc/{child}").exists() for child in pids):
            break
        time.sleep(0.01)
    else:
        raise RuntimeError(f"workers {pids} outlived the merge that was killed")
    units = sum(path.read_bytes().count(b"\n") for path in output.glob(".merge-*/journal-*.jsonl"))
    row = {
        "workers": workers,
        "killed": whom,
        "after_s": round(after_s, 4),
        "units_done": units,
        "published": published,
    }
    return {**row, "replacing": bool(options)} if status else None


def flips(folder: Path, components: Components, number: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Flip bits, one at a time; one row a flip, tried with the record of the small files and without."""
    run_merge(plan_of(components, MIXTURES), folder / "expected")
    expected = meaning(folder / "expected")
    rows = []
    for name, count, objects_from in (("c0", number // 4, None), ("c0", number // 4, "c0"), ("c2", number // 2, None)):
        record = components[name] / CHECKSUMS
        plan = partial(plan_of, components, MIXTURES, objects_from=objects_from)
        for path, offset, bit in draw_flips(components[name], count, rng):
            flip(path, offset, bit)
            row = {"component": name, "objects_from": objects_from, "file": str(path.relative_to(components[name]))}
            row |= {"offset": offset, "bit": bit, **outcome(plan, folder / "output", expected)}
            if path != record:
                aside = shutil.move(record, folder / "record")
                found = outcome(plan, folder / "output", expected)
                row |= {f"without_checksums_{key}": value for key, value in found.items()}
                shutil.move(aside, record)
            flip(path, offset, bit)
            rows.append(row)
    plan = partial(plan_of, components, MIXTURES)
    assert outcome(plan, folder / "output", expected)["outcome"] == "harmless", "all flips were turned back"
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="8 kills and 40 flips on smaller checkpoints")
    arguments = parser.parse_args()
    num_kills, num_flips, layers, hidden = (
        (8, 40, 2, 512) if arguments.quick else (arguments.kills, arguments.flips, 4, 960)
    )
    killing, flipping = (np.random.default_rng(seed) for seed in _SEEDS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        large = {f"c{k}": save_checkpoint(folder / f"large/c{k}", k, layers, hidden) for k in range(3)}
        small = {f"c{k}": save_checkpoint(folder / f"small/c{k}", k, 1, 48) for k in range(3)}
        middle = {f"c{k}": save_checkpoint(folder / f"middle/c{k}", k, 1, 512) for k in range(3)}
        killed = kills(folder / "linear", large, num_kills - num_kills // 4, "linear", killing)
        killed += kills(folder / "ties", middle, num_kills // 4, "ties", killing)
        flipped = flips(folder / "flips", small, num_flips, flipping)
    outcomes = [row["outcome"] for row in flipped]
    foreign = [row.get("without_checksums_outcome") for row in flipped]
    summary = {
        "kills": len(killed),
        "kills_resumed_identical": sum(row["resumed_identical"] for row in killed),
        "kills_before_any_unit": sum(row["units_done"] == 0 and row["published"] == 0 for row in killed),
        "kills_between_publications": sum(row["published"] == 1 for row in killed if not row["replacing"]),
        "flips": len(flipped),
        **{f"flips_{kind}": outcomes.count(kind) for kind in ("refused", "harmless", "silent")},
        **{f"flips_{kind}_without_checksums": foreign.count(kind) for kind in ("refused", "harmless", "silent")},
    }
    finish("merge_faults", arguments.quick, list(_SEEDS), [*killed, *flipped], summary)


if __name__ == "__main__":
    main()
