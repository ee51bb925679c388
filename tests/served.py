"""Another environment's commands and programs as forks of one process there: what `tests.bridge` starts.

A request a line on stdin, an answer a line on stdout, both JSON; it ends with its stdin.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.forked import preload, run_ranks, start_cli


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    preload("nemo_demix.runtime.bridge.export", "nemo_demix.runtime.bridge.importing")
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), file=answers, flush=True)


def answer(kind: str, arguments: list[str], environment: dict[str, str], timeout: float) -> tuple[int, str, str]:
    """Run it; its exit code, and what it printed."""
    if kind == "program":
        script, *rest = arguments
        try:
            return 0, run_ranks(Path(script).absolute(), rest, environment, Path.cwd(), 1, timeout), ""
        except AssertionError as error:
            return 1, "", str(error)
    process = start_cli(arguments, environment, Path.cwd())
    try:
        return process.wait(timeout), process.printed(0), process.printed(1)
    except subprocess.TimeoutExpired as error:
        return -1, "", str(error)
    finally:
        process.kill()


if __name__ == "__main__":
    main()
