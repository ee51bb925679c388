"""Run programs in the sandbox on a machine that refuses some system calls; standard library only.

Reads {"refuse", "sources", "samples", "limits", "workers", "packages"} from stdin: names of system calls, program
texts, whether to run the hostile samples instead. Prints {"isolation", "describe", "outcomes", "seen"} as its last
line, or {"error"}: `seen` is what was found outside after the programs had ended.
"""

import contextlib
import ctypes
import errno
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "sandbox")]
from hostile import SAMPLES, SECRET, Target  # noqa: E402

from nemo_demix.errors import ScoreError  # noqa: E402
from nemo_demix.sandbox import Limits, available_isolation, kernel, run_programs, seccomp  # noqa: E402
from nemo_demix.sandbox.syscalls import REFUSED, numbers  # noqa: E402

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER


def refuse(names: list[str]) -> None:
    """Be a machine without these; `landlock` and `seccomp` are names too."""
    if not names:
        return
    machine = os.uname().machine
    known = {**numbers(REFUSED, machine), "landlock": 444, "prctl_seccomp": 157 if machine == "x86_64" else 167}
    code = [(0x20, 0, 0, 0)]
    for name in names:
        if name == "prctl_seccomp":  # only of this one option
            code += [(0x15, 0, 4, known[name]), (0x20, 0, 0, 16), (0x15, 0, 1, 22)]
            code += [(0x06, 0, 0, 0x50000 | errno.EPERM), (0x20, 0, 0, 0)]
        else:
            code += [(0x15, 0, 1, known[name]), (0x06, 0, 0, 0x50000 | errno.EPERM)]
    code.append((0x06, 0, 0, 0x7FFF0000))
    seccomp.install(b"".join(struct.pack("HBBI", *instruction) for instruction in code))


def descendants() -> dict[int, int]:
    """Resident pages of every process below this one, by number."""
    parents, pages = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            pages[int(folder.name)] = int((folder / "statm").read_text().split()[1])
    below = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return {pid: pages[pid] for pid in below & pages.keys() if pid != os.getpid()}


class Watch:
    """The most processes below this one, and the most memory of theirs, while it was open."""

    def __init__(self) -> None:
        self._processes, self._pages = 0, 0
        self._open = True
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while self._open:
            below = descendants()
            self._processes = max(self._processes, len(below))
            self._pages = max(self._pages, sum(below.values()))
            time.sleep(0.02)

    def close(self) -> dict[str, int]:
        self._open = False
        self._thread.join()
        return {"most_processes": self._processes, "most_memory_mib": self._pages * resource.getpagesize() >> 20}


def attack(limits: Limits, workers: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The outcomes of the hostile samples, and what was seen outside."""
    os.environ["DEMIX_SECRET"] = SECRET
    kernel.prctl(_SUBREAPER, 1)  # what loses its parent becomes a child of this process, and is counted
    secret = ctypes.create_string_buffer(SECRET.encode())
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
        (folder / "secret.txt").write_text(SECRET)
        for path, mode in ((folder, 0o777), (folder / "secret.txt", 0o666)):  # as carelessly as can be
            path.chmod(mode)
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        abstract = f"demix_{os.getpid()}"
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind("\0" + abstract)
        unix.listen()
        datagrams = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        datagrams.bind(f"\0{abstract}_datagrams")
        neighbour = stack.enter_context(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        target = Target(
            os.getpid(),
            neighbour.pid,
            str(folder),
            tcp.getsockname()[1],
            abstract,
            f"{abstract}_datagrams",
            ctypes.addressof(secret),
        )
        free = os.statvfs("/var/tmp")
        watch = Watch()
        sources = ["open('left', 'w').write('x')", *(sample.source(target) for sample in SAMPLES)]
        try:
            outcomes = run_programs(sources, limits, workers)[1:]
        finally:
            seen: dict[str, Any] = watch.close()
        for listener in (tcp, unix, datagrams):
            listener.settimeout(0)
        seen |= {
            "folder_intact": [(file.name, file.read_text()) for file in folder.iterdir()] == [("secret.txt", SECRET)],
            "connections": sum(accepts(listener) for listener in (tcp, unix)) + receives(datagrams),
            "neighbour_alive": neighbour.poll() is None,
            "disk_used_mib": round((free.f_bavail - os.statvfs("/var/tmp").f_bavail) * free.f_frsize / 2**20),
            "processes_left": len(descendants().keys() - {neighbour.pid}),
        }
        neighbour.kill()
    return [asdict(outcome) for outcome in outcomes], seen


def accepts(listener: socket.socket) -> bool:
    with contextlib.suppress(BlockingIOError):
        listener.accept()[0].close()
        return True
    return False


def receives(listener: socket.socket) -> bool:
    with contextlib.suppress(BlockingIOError):
        return bool(listener.recv(100))
    return False


def main() -> None:
    job = json.load(sys.stdin)
    refuse(job["refuse"])
    limits, workers = Limits(**job["limits"]), job["workers"]
    try:
        isolation = available_isolation()
        seen: dict[str, Any] = {}
        if job["samples"]:
            outcomes, seen = attack(limits, workers)
        else:
            outcomes = [asdict(one) for one in run_programs(job["sources"], limits, workers, job["packages"])]
    except ScoreError as error:
        print(json.dumps({"error": str(error)}))
        return
    result = {"isolation": asdict(isolation), "describe": isolation.describe(), "outcomes": outcomes, "seen": seen}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
