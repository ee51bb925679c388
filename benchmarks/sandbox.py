"""What hostile programs get done in the sandbox, on this machine and on poorer ones; and what a program costs.

1. Every hostile sample of the tests, in each place: with this machine's namespaces, as a user without privileges, in
   a container that allows no namespaces, and in one that has no Landlock either. A sample passes if it gets done what
   it tries. After them it is looked at what they left outside: files, processes, connections.
2. Programs that do nothing, one worker: time from program to program, beside that of an interpreter that starts and
   does nothing. Then HumanEval's and MBPP's own solutions, which all have to pass, by as many workers as processors.
"""

import argparse
import os
import subprocess
import sys
import time
from typing import Any

from _provenance import REPOSITORY, finish

from nemo_demix.sandbox import Limits, available_isolation, run_programs

sys.path.insert(0, str(REPOSITORY / "tests/sandbox"))
from hostile import SAMPLES
from places import LIMITS, PLACES, Unavailable, elsewhere
from solutions import humaneval, mbpp


def attacks(place: str) -> list[dict[str, Any]]:
    """A row for the place, then one for each sample."""
    refuse, user = PLACES[place]
    try:
        found = elsewhere(refuse, user, samples=True)
    except Unavailable as error:
        return [{"place": place, "not_tried": str(error)}]
    rows = [
        {"place": place, "kind": sample.kind, "tries": sample.tries, "done": outcome["status"] == "passed", **outcome}
        for sample, outcome in zip(SAMPLES, found["outcomes"], strict=True)
        if sample.kind != "arrival"
    ]
    return [{"place": place, "isolation": found["describe"], "limits": LIMITS, "seen_outside": found["seen"]}, *rows]


def solutions() -> dict[str, Any]:
    """The tasks' own solutions: how many pass, and how long it takes."""
    programs = [*humaneval(), *mbpp()]
    workers = os.cpu_count() or 1
    start = time.perf_counter()
    outcomes = run_programs(programs, Limits(), workers)
    return {
        "program": "HumanEval's and MBPP's own solutions",
        "number": len(programs),
        "passed": sum(outcome.passed for outcome in outcomes),
        "workers": workers,
        "seconds": round(time.perf_counter() - start, 1),
        "slowest_s": max(outcome.wall_s for outcome in outcomes),
    }


def cost(number: int) -> dict[str, Any]:
    """Milliseconds of one program after another, and until the first one has ended."""
    times = []
    for count in (1, number):
        start = time.perf_counter()
        outcomes = run_programs(["pass"] * count, Limits(), 1)
        times.append(time.perf_counter() - start)
        assert all(outcome.passed for outcome in outcomes)
    each = (times[1] - times[0]) / (number - 1)
    return {"program": "pass", "number": number, "each_ms": round(1e3 * each, 2), "first_ms": round(1e3 * times[0], 1)}


def interpreter_start_ms(number: int) -> float:
    """Of one that does nothing, without a sandbox."""
    start = time.perf_counter()
    for _ in range(number):
        subprocess.run([sys.executable, "-I", "-S", "-B", "-c", "pass"], check=True)
    return round(1e3 * (time.perf_counter() - start) / number, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="this machine's own place, fewer programs")
    arguments = parser.parse_args()
    places = ["here"] if arguments.quick else list(PLACES)
    rows = [row for place in places for row in attacks(place)]
    each, real = cost(100 if arguments.quick else 664), solutions()
    summary = {
        "isolation": available_isolation().describe(),
        "samples": sum(sample.kind != "arrival" for sample in SAMPLES),
        "done": {
            place: [row["tries"] for row in rows if row["place"] == place and row.get("done")] for place in places
        },
        "each_ms": each["each_ms"],
        "solutions_passed": f"{real['passed']} of {real['number']}",
        "solutions_s": real["seconds"],
        "interpreter_start_ms": interpreter_start_ms(20),
    }
    finish("sandbox", arguments.quick, [], [*rows, each, real], summary)


if __name__ == "__main__":
    main()
