"""The process of one program: it takes everything from itself that it must not have, then runs the program."""

import math
import os
import random
import resource
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from nemo_demix.sandbox import kernel, landlock, seccomp
from nemo_demix.sandbox.contract import FAILED, OUT_OF_MEMORY, Limits

REPORT = 3  # the descriptor that the end of a program is reported through
_READY = 4  # and that its process says it is confined through, before there is a program
READY = b"ready"
_FEW_FILES = 64
DETAIL_CHARACTERS = 200


@dataclass(frozen=True)
class Confinement:
    """What a process has to do to itself, before it runs a program.

    Attributes:
        user: The number of the user and group to become; None: stay.
        limits: What the program may use.
        baseline_bytes: Address space of an interpreter that has done nothing yet.
        tasks: RLIMIT_NPROC; None: no threads, so that none has to be counted.
        filter_program: Filter of the system calls; None: the machine has no such filters.
        readable: What Landlock is to leave visible; None: it is not used.
        listable: Folders of which Landlock is to show names only.
        folder: The folder to work in.
    """

    user: int | None
    limits: Limits
    baseline_bytes: int
    tasks: int | None
    filter_program: bytes | None
    readable: Sequence[str] | None
    listable: Sequence[str]
    folder: str


def become(user: int | None) -> None:
    """Be a user that owns nothing, for good, and without any privilege."""
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    kernel.drop_capabilities()
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # a core may go to a program of the machine's, whatever RLIMIT_CORE says
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of user takes it away


def set_limits(confinement: Confinement) -> None:
    """Set the kernel's own limits, hard ones."""
    limits = confinement.limits
    values = {
        resource.RLIMIT_AS: confinement.baseline_bytes + limits.memory_mib * 2**20,
        resource.RLIMIT_CPU: math.ceil(limits.wall_s),
        resource.RLIMIT_FSIZE: limits.file_mib * 2**20,
        resource.RLIMIT_NOFILE: _FEW_FILES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
    }
    if confinement.tasks is not None:
        values[resource.RLIMIT_NPROC] = confinement.tasks
    for kind, value in values.items():
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def confine(confinement: Confinement) -> None:
    """Take from this process what a program must not have; raises OSError where the kernel refuses a part of it."""
    os.chdir(confinement.folder)
    become(confinement.user)
    set_limits(confinement)
    if confinement.readable is not None:
        landlock.restrict(confinement.readable, confinement.listable)
    if confinement.filter_program is not None:
        seccomp.install(confinement.filter_program)


def run(program: str, confinement: Confinement, descriptors: tuple[int, int, int], password: bytes) -> NoReturn:
    """Run the program in this process, which ends with it.

    Args:
        descriptors: Descriptors of /dev/null, of the pipe to report through, and of the pipe to say through whether
            the program could be started: that is closed by then, so nothing that a program writes is taken for it.
        password: What is reported when the program has come to its end, and only then.
    """
    os.setsid()
    null, report, ready = (os.dup(descriptor) for descriptor in descriptors)  # none of them is 3 or 4 now
    os.dup2(report, REPORT)
    os.dup2(ready, _READY)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.closerange(_READY + 1, 256)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        confine(confinement)
    except BaseException as error:
        os.write(_READY, f"{type(error).__name__}: {error}".encode(errors="backslashreplace"))
        os._exit(1)
    os.write(_READY, READY)
    os.close(_READY)
    random.seed(0)  # after a fork it is anew; the same program is to end the same way every time
    _execute(program, password)


def _execute(program: str, password: bytes) -> NoReturn:
    # The program may put other functions in place of these.
    write, leave, report = os.write, os._exit, _report
    try:
        try:
            # As the harness's own metric does: a module without a name, no `from __future__` of this file's.
            exec(compile(program, "<program>", "exec", dont_inherit=True), {})
        except BaseException as error:
            write(REPORT, report(error))
        else:
            write(REPORT, password)
            leave(0)
    finally:  # a handler of the program's may yet raise: nothing of it goes on in this package's code
        leave(1)


def _report(error: BaseException) -> bytes:
    if isinstance(error, MemoryError):
        return f"{OUT_OF_MEMORY}\nMemoryError".encode()
    text = f"{type(error).__name__}: {error}".removesuffix(": ")
    return f"{FAILED}\n{text[:DETAIL_CHARACTERS]}".encode(errors="backslashreplace")
