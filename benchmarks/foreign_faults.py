"""What merging makes of flipped bits in checkpoints that others trained: no checksums cover the files around weights.

Single bits are flipped over all files of a component, JSON and YAML around the weights among them: in NeMo's layout,
with a context that NeMo wrote, and in Megatron-LM's, as megatron-core 0.16 and 0.19 wrote it. The merge has to refuse,
or to give what it gives without the damage. What it cannot know is whether a value that stands nowhere else is the one
that was written: a difference that it names in a warning is counted as `told`, one that it does not as `silent`.
"""

import argparse
import contextlib
import logging
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _provenance import REPOSITORY, finish

from nemo_demix.errors import DemixError

sys.path.insert(0, str(REPOSITORY / "tests/merging"))
from faults import draw_flips, flip, meaning, nemo_checkpoint, plan_of, run_merge

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
    yield handler.said
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
    with heard() as before:
        run_merge(plan_of(components, mixtures), folder / "expected")
    expected = meaning(folder / "expected")
    rows = []
    for name, count in ((names[0], number - number // 2), (names[-1], number // 2)):
        for path, offset, bit in draw_flips(components[name], count, rng):
            flip(path, offset, bit)
            row = {"kind": kind, "component": name, "file": str(path.relative_to(components[name]))}
            rows.append(
                {**row, "offset": offset, "bit": bit, **outcome(folder, components, mixtures, expected, before)}
            )
            flip(path, offset, bit)
    assert outcome(folder, components, mixtures, expected, before)["outcome"] == "harmless", "all were turned back"
    return rows


def outcome(
    folder: Path, components: Components, mixtures: Any, expected: dict[str, Any], before: list[str]
) -> dict[str, Any]:
    """`refused` with the message, `harmless`, `told` with the warning, or `silent` with the files that differ."""
    output = folder / "output"
    try:
        with heard() as said:
            run_merge(plan_of(components, mixtures), output)
        found = meaning(output)
    except DemixError as error:
        published = sorted(path.name for path in output.iterdir() if path.name[0] != ".") if output.exists() else []
        return {"outcome": "silent" if published else "refused", "message": str(error)[-160:]}
    finally:
        shutil.rmtree(output, ignore_errors=True)
    different = [key for key in {**expected, **found} if found.get(key) != expected.get(key)]
    if not different:
        return {"outcome": "harmless"}
    new = [message for message in said if message not in before]
    return {"outcome": "told", "message": new[0][:160]} if new else {"outcome": "silent", "different": different}


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
    for outcome_name in ("refused", "harmless", "told", "silent"):
        summary[outcome_name] = sum(row["outcome"] == outcome_name for row in rows)
        summary[f"{outcome_name}_of_small_files"] = sum(row["outcome"] == outcome_name for row in small)
    finish("foreign_faults", arguments.quick, [SEED], rows, summary)


if __name__ == "__main__":
    main()
