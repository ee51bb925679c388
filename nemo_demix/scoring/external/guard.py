"""Runs one command, and leaves nothing of it behind: `python -I -S guard.py COMMAND...`.

It ends as the command does. When its standard input closes, which happens however the process ends that started it, the
command is killed with all that it started, daemons too. Imports nothing but the standard library: it has to start fast.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def main() -> None:
    """Start the command and wait for it, or for the end of who asked for it."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # a daemon of the command's becomes our child, so it can be found
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Slurm sends it to every process of a job; our asker decides

    def in_child() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    try:
        command = subprocess.Popen(
            sys.argv[1:],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=in_child,
        )
    except OSError as error:
        print(f"{sys.argv[1]}: {error.strerror}", file=sys.stderr)
        sys.exit(127)
    threading.Thread(target=_end_with_asker, args=(command.pid,), daemon=True).start()
    code = command.wait()
    _kill_all(command.pid)
    os._exit(code if code >= 0 else 128 - code)


def _end_with_asker(group: int) -> None:
    while os.read(0, 1):
        pass
    _kill_all(group)
    os._exit(128 + signal.SIGKILL)


def _kill_all(group: int) -> None:
    """Kill the command's process group, then whatever is still a child of ours, until there is nothing."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    while children := _children():
        for child in children:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):  # the main thread waited for it
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


def _children() -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


if __name__ == "__main__":
    main()
