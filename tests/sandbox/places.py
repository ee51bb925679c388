"""Running tests/programs/sandboxed.py on poorer machines than this one, and as another user."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).parents[1] / "programs/sandboxed.py"
NOBODY = 65534
NO_NAMESPACES = ["unshare", "mount"]  # as in a container without privileges
# What the machine refuses, and who runs the sandbox: None for whoever runs this.
PLACES: dict[str, tuple[list[str], int | None]] = {
    "here": ([], None),
    "as nobody": ([], NOBODY),
    "container": (NO_NAMESPACES, None),
    "container as nobody": (NO_NAMESPACES, NOBODY),
    "container without Landlock": ([*NO_NAMESPACES, "landlock"], NOBODY),
}
LIMITS = {"wall_s": 1, "memory_mib": 256}


class Unavailable(Exception):
    """Why this cannot be tried here."""


def elsewhere(refuse: list[str], user: int | None, **job: Any) -> dict[str, Any]:
    """What the program prints, run by that user where these system calls are refused.

    Raises:
        Unavailable: if this machine cannot run it so.
    """
    options = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    if user is not None and os.geteuid():
        raise Unavailable("only root can start something as another user")
    pythons = [path for path in (sys.executable, "/usr/bin/python3") if user is None or _is_usable(path, options)]
    if not pythons:
        raise Unavailable(f"no Python 3.11 here that user {user} may run, or no leave to read this repository")
    job = {"refuse": refuse, "sources": [], "samples": False, "limits": LIMITS, "workers": 2, "packages": [], **job}
    result = subprocess.run(
        [pythons[0], "-B", str(PROGRAM)],
        input=json.dumps(job), cwd="/", capture_output=True, text=True, timeout=300, check=False, **options,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-4000:]
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def _is_usable(python: str, options: dict[str, Any]) -> bool:
    """Whether that user may run this interpreter, it is new enough, and the program can be read."""
    check = f"import sys; open({str(PROGRAM)!r}); sys.exit(sys.version_info < (3, 11))"
    try:
        return (
            subprocess.run([python, "-c", check], cwd="/", capture_output=True, check=False, **options).returncode == 0
        )
    except OSError:
        return False
