"""Namespaces for a worker, and for each of its programs a process namespace below it."""

import os
import signal

from nemo_demix.sandbox import kernel

KINDS = {
    "mount": kernel.CLONE_NEWNS,
    "pid": kernel.CLONE_NEWPID,
    "net": kernel.CLONE_NEWNET,
    "ipc": kernel.CLONE_NEWIPC,
    "uts": kernel.CLONE_NEWUTS,
}


def enter(own_user: bool) -> int:
    """Go on in namespaces of one's own, as their first process; the process that called stays behind and waits.

    Args:
        own_user: Whether to make a user namespace with them, which is how it goes without privileges.
    Returns:
        A descriptor of the process namespace that this process is in.
    """
    user, group = os.geteuid(), os.getegid()
    kernel.unshare(sum(KINDS.values()) | (kernel.CLONE_NEWUSER if own_user else 0))
    if own_user:
        for file, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{file}", "w") as stream:
                stream.write(text)
    pid = os.fork()
    if pid:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)  # a new user namespace takes it away
        os.closerange(3, 256)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)


def fork_below(home: int) -> int:
    """Fork a child that is the first process of a new process namespace.

    Args:
        home: The descriptor of this process's own.
    """
    kernel.unshare(kernel.CLONE_NEWPID)
    pid = os.fork()
    if pid:
        kernel.setns(home, kernel.CLONE_NEWPID)
    return pid
