"""The interpreter that forks a process per program, in a place it has prepared; it is told what to run by a pipe.

Its caller may hold GPUs, threads and secrets, and must never be forked: a worker is an interpreter of its own, which
has imported the standard library's common modules, so that a program starts in the time of a fork.
"""

import contextlib
import dataclasses
import gc
import importlib
import itertools
import json
import os
import resource
import secrets
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from nemo_demix.sandbox import child, kernel, landlock, namespaces, seccomp, trials, view
from nemo_demix.sandbox.contract import FAILED, KILLED, OUT_OF_MEMORY, PASSED, TIMED_OUT, Isolation, Limits, Outcome
from nemo_demix.sandbox.syscalls import AUDIT_ARCH

# What most programs import, and what needs shared libraries, which a program does not see.
_PRELOADED = """bisect bz2 calendar cmath collections copy ctypes dataclasses datetime decimal fractions functools
hashlib heapq itertools json lzma math numbers operator pyexpat queue random re sqlite3 ssl statistics string struct
textwrap threading time traceback typing unicodedata uuid zlib""".split()
_DYNAMIC_USERS = range(61184, 65520)  # systemd's, for services whose user exists only while they run
_ZONES = "/usr/share/zoneinfo"
_REPORT_BYTES = 4096
_NEARLY = 0.9  # the kernel's account of a process differs from the clock that its limit goes by


class Worker:
    """Runs one program after another.

    Args:
        limits: Limits of each program.
        packages: The folders and files of those that programs may import beside the standard library.
    """

    def __init__(self, limits: Limits, packages: Sequence[str]) -> None:
        self._limits = limits
        self._user = _DYNAMIC_USERS[os.getpid() % len(_DYNAMIC_USERS)]
        with open("/proc/self/statm") as stream:
            self._baseline_bytes = int(stream.read().split()[0]) * resource.getpagesize()
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as stream:
            stream.write("1000")  # where memory runs out after all, the kernel is to take these first
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self._listable = list(dict.fromkeys(map(os.path.dirname, packages)))
        standard = [path for path in sys.path if path not in self._listable]
        self._readable = [path for path in [*standard, _ZONES, *packages] if os.path.exists(path)]
        # A Python may live in /tmp; its programs then have their scratch folder elsewhere.
        self._scratch = "/scratch" if any(path.startswith("/tmp/") for path in self._readable) else "/tmp"
        self._own_user = False
        self._home = self._enter()
        self._confinement, self.isolation = self._confine()

    def run(self, program: str) -> Outcome:
        """Run a program to its end, or to its time limit."""
        password = secrets.token_hex(16).encode()
        if self._home is not None:
            view.mount_scratch(self._scratch, self._limits.file_mib)
        (reading, writing), (hearing, saying) = os.pipe(), os.pipe()
        start = time.monotonic()
        pid = os.fork() if self._home is None else namespaces.fork_below(self._home)
        if pid == 0:
            child.run(program, self._confinement, (self._null, writing, saying), password)
        os.close(writing)
        os.close(saying)
        status, cpu_s = _wait(pid, start + self._limits.wall_s)
        wall_s = time.monotonic() - start
        report, ready = _read(reading), _read(hearing)
        if self._home is not None:
            view.unmount_scratch(self._scratch)
        if status is not None and ready not in (b"", child.READY):
            raise OSError(f"a program's process could not be confined: {ready.decode(errors='replace')}")
        return Outcome(*self._judge(status, cpu_s, report, password), round(wall_s, 4))

    def _judge(self, status: int | None, cpu_s: float, report: bytes, password: bytes) -> tuple[str, str]:
        if status is None or (os.WIFSIGNALED(status) and cpu_s > _NEARLY * self._limits.wall_s):
            return TIMED_OUT, f"ran for {self._limits.wall_s:g} s"
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            return KILLED, next((known.name for known in signal.Signals if known == number), f"signal {number}")
        code = os.waitstatus_to_exitcode(status)
        if report == password and code == 0:
            return PASSED, ""
        head, _, detail = report.decode(errors="replace").partition("\n")
        if head in (FAILED, OUT_OF_MEMORY) and code == 1:
            return head, " ".join(detail.split())[: child.DETAIL_CHARACTERS]
        return FAILED, f"ended with code {code} before its end"

    def _enter(self) -> int | None:
        """Go on in namespaces and a root of one's own, where that can be done at all: as root, or as anyone."""
        hidden = [os.path.join(path, name) for path in self._readable for name in ("site-packages", "dist-packages")]
        hidden = [path for path in hidden if os.path.isdir(path)]

        def enter(own_user: bool) -> int:
            home = namespaces.enter(own_user)
            view.enter_root(self._readable, hidden, self._scratch)
            view.mount_scratch(self._scratch, self._limits.file_mib)
            view.unmount_scratch(self._scratch)
            if namespaces.fork_below(home) == 0:
                os._exit(0)
            os.wait()
            return home

        for self._own_user in (False, True):
            if trials.works(lambda: enter(self._own_user)):
                return enter(self._own_user)
        self._own_user = False
        return None

    def _confine(self) -> tuple[child.Confinement, Isolation]:
        """Return what each program's process has to do to itself, as far as this machine lets it."""
        inside = self._home is not None
        machine = os.uname().machine
        user = self._user if trials.works(lambda: trials.see_python_as(self._user, self._readable)) else None
        # The worker and the one that waits for it are counted with the program, in a user namespace of their own.
        tasks = self._limits.threads + (2 if self._own_user else 0)
        countable = user is not None or self._own_user
        threads = countable and trials.works(lambda: trials.be_held_to(tasks, user))
        filter_program = None
        if machine in AUDIT_ARCH:
            wanted = seccomp.program(machine, writing=inside, signalling=inside, threads=threads)
            filter_program = wanted if trials.works(lambda: trials.be_refused_a_process(wanted)) else None
        if filter_program is None and not (inside and threads):
            raise OSError("this machine allows neither seccomp filters, nor namespaces and a limit on processes")
        hidden = not inside and trials.works(lambda: landlock.restrict(self._readable, self._listable))
        confinement = child.Confinement(
            user=user,
            limits=self._limits,
            baseline_bytes=self._baseline_bytes,
            tasks=tasks if threads else None,
            filter_program=filter_program,
            readable=self._readable if hidden else None,
            listable=self._listable,
            folder=self._scratch if inside else "/",
        )
        kinds = (*namespaces.KINDS, *(("user",) if self._own_user else ())) if inside else ()
        isolation = Isolation(kinds, filter_program is not None, hidden, user is not None, threads)
        return confinement, isolation


def _read(descriptor: int) -> bytes:
    """Return what has been written into a pipe whose other end may still be open somewhere; it is closed."""
    os.set_blocking(descriptor, False)
    try:
        return os.read(descriptor, _REPORT_BYTES)
    except BlockingIOError:
        return b""
    finally:
        os.close(descriptor)


def _wait(pid: int, deadline: float) -> tuple[int | None, float]:
    """Return the status that a child ended with, None if it had to be killed; and the seconds it was on a processor."""
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            return status, usage.ru_utime + usage.ru_stime
        left = deadline - time.monotonic()
        if left <= 0:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None, 0.0
        signal.sigtimedwait({signal.SIGCHLD}, left)


def _import_packages(packages: dict[str, list[str]]) -> None:
    """Import them here: a program does not see the shared libraries that they need."""
    os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    sys.path.extend(dict.fromkeys(os.path.dirname(path) for paths in packages.values() for path in paths))
    for name in packages:
        importlib.import_module(name)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)  # as child.run does for `random`


def _lines(descriptor: int) -> Iterator[Any]:
    """Yield what the caller says, until it says no more."""
    with open(descriptor, "rb") as stream:
        for line in stream:
            yield json.loads(line)


def _say(descriptor: int, message: dict[str, Any]) -> None:
    os.write(descriptor, json.dumps(message).encode() + b"\n")


def main(caller: int, home: str) -> None:
    """Answer the caller until it ends.

    Args:
        caller: The number of its process: this one is to end with it.
        home: The folder that this package was found in, which programs are not to find.
    """
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != caller:
        return
    incoming, outgoing = os.dup(0), os.dup(1)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    lines = _lines(incoming)
    setup = next(lines)
    for name in _PRELOADED:
        with contextlib.suppress(ImportError):  # a Python may be built without some
            importlib.import_module(name)
    sys.path.remove(home)
    try:
        _import_packages(setup["packages"])
    except ImportError as error:
        _say(outgoing, {"error": str(error)})
        return
    os.environ.clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == __package__.partition(".")[0]]:
        del sys.modules[name]  # a program is to find none of this
    sys.argv[:] = ["program"]
    sys.orig_argv[:] = ["program"]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    try:
        worker = Worker(Limits(**setup["limits"]), list(itertools.chain(*setup["packages"].values())))
        gc.freeze()  # or the first collection in every program's process would copy all of this one's memory
        _say(outgoing, dataclasses.asdict(worker.isolation))
        for line in lines:
            _say(outgoing, dataclasses.asdict(worker.run(line["program"])))
    except OSError as error:
        _say(outgoing, {"error": str(error)})
