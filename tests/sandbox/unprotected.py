"""Run the harmless ones among the hostile samples without a sandbox: what they try, they get done.

Standard library only. Prints {what a sample tries: whether it came to its end} as its last line. Everything that they
are told of is made for them anew: a folder, a process that is their caller, a neighbour, listeners.
"""

import ctypes
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from hostile import SAMPLES, SECRET, Sample, Target

_ANY_TRACER = 0x59616D61  # PR_SET_PTRACER, for machines whose processes may otherwise only look into their children
_LIMIT_S = 20


def fork(action: Callable[[], object]) -> int:
    """A process that does this and ends."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
        finally:
            os._exit(0)
    return pid


def wait_there(caller: bool) -> NoReturn:
    """Be a process to be looked at and killed."""
    if caller:
        ctypes.CDLL(None).prctl(_ANY_TRACER, ctypes.c_ulong(-1), 0, 0, 0)
    while True:
        time.sleep(_LIMIT_S)


def run(program: str, report: int) -> None:
    """Run a program where `left` is in its folder, then say so: below a process of its own, whom it may kill."""

    def below() -> None:
        signal.alarm(_LIMIT_S)
        exec(compile(program, "<program>", "exec", dont_inherit=True), {})
        os.write(report, b"done")

    os.setsid()
    os.waitpid(fork(below), 0)


def try_out(sample: Sample, secret: "ctypes.Array[ctypes.c_char]") -> bool:
    """Whether the sample gets done what it tries."""
    home = Path.cwd()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
        folder = Path(scratch, "folder")
        folder.mkdir()
        (folder / "secret.txt").write_text(SECRET)
        Path(scratch, "left").touch()
        os.chdir(scratch)
        abstract = f"demix_unprotected_{os.getpid()}"
        with (
            socket.create_server(("127.0.0.1", 0)) as tcp,
            socket.socket(socket.AF_UNIX) as unix,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
        ):
            unix.bind("\0" + abstract)
            datagrams.bind(f"\0{abstract}_datagrams")
            unix.listen()
            others = [fork(lambda: wait_there(True)), fork(lambda: wait_there(False))]
            time.sleep(0.02)  # the first has something to allow
            target = Target(
                *others, str(folder), tcp.getsockname()[1], abstract, f"{abstract}_datagrams", ctypes.addressof(secret)
            )
            reading, writing = os.pipe()
            runner = fork(lambda: run(sample.source(target), writing))
            os.close(writing)
            os.waitpid(runner, 0)
            os.set_blocking(reading, False)
            try:
                done = os.read(reading, 4) == b"done"
            except BlockingIOError:  # something that it started is still there, and the program itself has said nothing
                done = False
            os.close(reading)
            for pid in others:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        os.chdir(home)
    return done


def main() -> None:
    os.environ["DEMIX_SECRET"] = SECRET
    secret = ctypes.create_string_buffer(SECRET.encode())
    root = os.open("/", os.O_RDONLY)  # a descriptor of the caller's, as samples look for one
    sys.stdout.flush()
    found = {sample.tries: try_out(sample, secret) for sample in SAMPLES if sample.harmless}
    os.close(root)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
