"""What this machine allows: each thing tried, in a process of its own."""

import contextlib
import os
import resource
from collections.abc import Callable, Sequence

from nemo_demix.sandbox import child, seccomp


def works(trial: Callable[[], object]) -> bool:
    """Return whether this can be done: it does not raise."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            trial()
            os._exit(0)
        os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def see_python_as(user: int, readable: Sequence[str]) -> None:
    """Become that user, and look at Python's own files; raises OSError where the one or the other is not allowed."""
    child.become(user)
    for path in readable:
        if os.path.isdir(path):
            os.listdir(path)
    with open(contextlib.__file__, "rb"):
        pass


def be_held_to(tasks: int, user: int | None) -> None:
    """Raise OSError unless this process can be forked within the limit, and cannot beyond one."""
    child.become(user)
    resource.setrlimit(resource.RLIMIT_NPROC, (tasks, tasks))
    if os.fork() == 0:
        os._exit(0)
    os.wait()
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
    try:
        if os.fork() == 0:
            os._exit(0)
    except BlockingIOError:
        return
    raise OSError("more processes than the limit")


def be_refused_a_process(filter_program: bytes) -> None:
    """Raise OSError unless the filter is in force."""
    seccomp.install(filter_program)
    try:
        if os.fork() == 0:
            os._exit(0)
    except PermissionError:
        return
    raise OSError("a process in spite of the filter")
