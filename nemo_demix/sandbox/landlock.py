"""Files hidden from a process without namespaces or privileges, by the kernel's Landlock (5.13 and later)."""

import os
import struct
from collections.abc import Sequence

from nemo_demix.sandbox import kernel

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every kind of processor
_PATH_BENEATH = 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_EVERYTHING = (1 << 13) - 1  # of the first version: execute, write, read, list, remove, make


def restrict(readable: Sequence[str], listable: Sequence[str]) -> None:
    """Let this process open nothing but these paths from now on.

    Args:
        readable: Files, and folders with all that is in them.
        listable: Folders whose names may be read, and those below them, but no file.
    Raises:
        OSError: if the kernel has no Landlock, or it is off.
    """
    rules = kernel.syscall(_CREATE_RULESET, struct.pack("Q", _EVERYTHING), 8, 0)
    try:
        rights = [(path, _READ_FILE | (_READ_DIR if os.path.isdir(path) else 0)) for path in readable]
        for path, access in [*rights, *((path, _READ_DIR) for path in listable)]:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            kernel.syscall(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", access, descriptor), 0)
            os.close(descriptor)
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        kernel.syscall(_RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)
