"""What merging makes of flipped bits in checkpoints that others trained: no checksums cover the files around weights.

Single bits are flipped over all files of a component, JSON and YAML around the weights among them: in NeMo's layout,
with a context that NeMo wrote, and in Megatron-LM's, as megatron-core 0.16 and 0.19 wrote it. The merge has to refuse,
or to give what it gives without the damage. What it cannot know is whether a value that stands nowhere else is the one
that was written: a difference that it names in a warning is counted as `told`, one that it does not as `silent`.
"""

import argparse
import contextlib
import logging
import sys
import tarfile
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _provenance import REPOSITORY, finish

sys.path.insert(0, str(REPOSITORY / "tests/merging"))
from faults import draw_flips, flip, meaning, nemo_checkpoint, outcome, plan_of, run_merge

SEED = 0
ARCHIVES = ("core_0.16.1_dense", "core_0.19.2_dense")
Components = dict[str, Path]


class Warnings(logging.Handler):
    """What is said while a merge runs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        self.said.append(record.getMessage())


@contextlib.contextmanager
def heard() -> Any:
    """The warnings of this package, as they come."""
    handler, logger = Warnings(), logging.getLogger("nemo_demix")
    logger.addHandler(handler)
    try:
        yield handler.said
    finally:
        logger.removeHandler(handler)


def sets(folder: Path) -> dict[str, Components]:
    """Components by the layout and the release that wrote them."""
    found: dict[str, Components] = {"nemo2": {f"c{n}": nemo_checkpoint(folder / f"nemo2/c{n}", n) for n in range(3)}}
    for name in ARCHIVES:
        with tarfile.open(REPOSITORY / f"tests/data/checkpoints/{name}.tar.xz") as archive:
            archive.extractall(folder / name, filter="data")
        found[name] = {one: folder / name / one for one in ("one", "two")}
    return found


def flips(
    folder: Path, kind: str, components: Components, number: int, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """One row a flip: half of them in the component that the outputs take their small files from."""
    names = list(components)
    mixtures = {"mix": {name: 1 / len(names) for name in names}}
    plan = partial(plan_of, components, mixtures)
    with heard() as before:
        run_merge(plan(), folder / "expected")
    expected = meaning(folder / "expected")
    rows = []
    for name, count in ((names[0], number - number // 2), (names[-1], number // 2)):
        for path, offset, bit in draw_flips(components[name], count, rng):
            flip(path, offset, bit)
            row = {"kind": kind, "component": name, "file": str(path.relative_to(components[name]))}
            row |= {"offset": offset, "bit": bit, **told_outcome(plan, folder / "output", expected, before)}
            rows.append(row)
            flip(path, offset, bit)
    assert outcome(plan, folder / "output", expected)["outcome"] == "harmless", "all were turned back"
    return rows


def told_outcome(plan: Callable[[], Any], output: Path, expected: dict[str, Any], before: list[str]) -> dict[str, Any]:
    """As `faults.outcome`; a difference is `told` where a warning says so that was not there before the damage."""
    with heard() as said:
        found: dict[str, Any] = outcome(plan, output, expected)
    new = [message for message in said if message not in before]
    return {"outcome": "told", "message": new[0][:160]} if "different" in found and new else found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="40 flips")
    arguments = parser.parse_args()
    number = 40 if arguments.quick else arguments.flips
    rng = np.random.default_rng(SEED)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        found = sets(Path(name))
        shares = [number - number // 4 * 2, *[number // 4] * 2]
        for (kind, components), count in zip(found.items(), shares, strict=True):
            rows += flips(Path(name) / f"merges_{kind}", kind, components, count, rng)
    small = [row for row in rows if not row["file"].endswith((".distcp", ".metadata"))]
    summary: dict[str, Any] = {"flips": len(rows), "flips_of_small_files": len(small)}
    for kind in ("refused", "harmless", "told", "silent"):
        summary[kind] = sum(row["outcome"] == kind for row in rows)
        summary[f"{kind}_of_small_files"] = sum(row["outcome"] == kind for row in small)
    finish("foreign_faults", arguments.quick, [SEED], rows, summary)


if __name__ == "__main__":
    main()
