"""Hostile and odd inputs, more than a thousand: what is done with each, and what comes out.

Checkpoints, small files, data, scores, names and messages of the store are tests/hostile_inputs.py's; each is tried in
a fork of its own, with 20 s and 3 GiB. Programs are tests/sandbox/hostile.py's, run in this machine's sandbox. Of each:

    refused     one line that says what is wrong
    harmless    a result that is what it has to be, and no code of the input ran
    trace       an exception that is not ours, or an error of several lines
    hang        still running at its limit
    wrong       a result that should not be, a secret that came out, or code that ran

The last three are to be 0. Programs that are made for this very sandbox may pass: they are counted apart.
"""

import argparse
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from _provenance import REPOSITORY, finish

sys.path.insert(0, str(REPOSITORY))
sys.path.insert(0, str(REPOSITORY / "tests/sandbox"))
from hostile import SAMPLES
from places import PLACES, Unavailable, elsewhere

from tests.hostile_inputs import all_attacks, attempt, good_checkpoint

KINDS = ("refused", "harmless", "trace", "hang", "wrong")


def inputs(every: int) -> list[dict[str, Any]]:
    """One row an input."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, attack in enumerate(list(all_attacks(good_checkpoint(folder / "good")))[::every]):
            outcome, said = attempt(attack, folder / str(number))
            rows.append({"area": attack.area, "input": ascii(attack.name), "outcome": outcome, "said": ascii(said)})
            if outcome not in ("refused", "harmless"):
                print(f"{outcome:8} {attack.area}: {attack.name!a}: {said!a}"[:300], flush=True)
    return rows


def programs() -> list[dict[str, Any]]:
    """One row a hostile program; none where this machine has no sandbox."""
    refuse, user = next(iter(PLACES.values()))
    try:
        found = elsewhere(refuse, user, samples=True)
    except Unavailable as error:
        print(f"programs were not tried: {error}", flush=True)
        return []
    rows = []
    for sample, outcome in zip(SAMPLES, found["outcomes"], strict=True):
        if sample.kind == "arrival":
            continue
        passed = outcome["status"] == "passed"
        rows.append(
            {
                "area": "programs",
                "input": ascii(f"{sample.kind}: {sample.tries}"),
                "outcome": ("made for it" if sample.succeeds else "wrong") if passed else "refused",
                "said": ascii(re.sub(r"/\S*/tmp\w+", "...", f"{outcome['status']}: {outcome['detail']}")),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="every tenth input")
    quick = parser.parse_args().quick
    rows = [*inputs(10 if quick else 1), *programs()]
    by_area = {
        area: dict(Counter(row["outcome"] for row in rows if row["area"] == area))
        for area in dict.fromkeys(row["area"] for row in rows)
    }
    summary = {
        "num_inputs": len(rows),
        **{kind: sum(row["outcome"] == kind for row in rows) for kind in KINDS},
        "made_for_it": sum(row["outcome"] == "made for it" for row in rows),
        "by_area": by_area,
    }
    finish("attack", quick, [], rows, summary)


if __name__ == "__main__":
    main()
