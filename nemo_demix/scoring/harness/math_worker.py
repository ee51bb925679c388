"""Run by path, in a process of its own: is the answer of a response that of a solution?

Reads JSON lines [solution, response], writes `true` or `false` for each. It imports nothing of this package, so that it
starts as fast as math-verify does.
"""

import functools
import json
import logging
import resource
import signal
import sys
from typing import Any

_MEMORY_BYTES = 2 << 30
_CPU_S = 20.0  # for one question; math-verify gives up by itself after 5 s for each expression, where it can


def main() -> None:
    """Answer until standard input ends, or until a question takes too long: the kernel ends the process then.

    Its timer counts processor time and has no handler, so it also ends what no Python code interrupts, and what is left
    of a process whose caller is gone.
    """
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)  # it tells of every expression that it cannot read

    @functools.lru_cache(maxsize=8192)
    def expected(solution: str) -> Any:
        return parse(solution)

    for line in sys.stdin:
        solution, response = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, _CPU_S)
        found = parse(response)
        same = bool(found) and bool(verify(gold=expected(solution), target=found))
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        sys.stdout.write(json.dumps(same) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
