"""The filter over a program's system calls: what Python needs, some of it with some arguments only.

Instructions and return values are those of the kernel's `linux/filter.h` and `linux/seccomp.h`.
"""

import ctypes
import errno
import os
import struct

from nemo_demix.sandbox import kernel
from nemo_demix.sandbox.syscalls import (
    ALLOWED,
    AUDIT_ARCH,
    CONDITIONAL,
    OF_PROCESSES,
    REFUSED,
    SIGNALLING,
    WRITING,
    numbers,
)

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_X32 = 0x40000000  # the bit of a second table of calls that x86-64 kernels may have

_CLONE_THREAD = 0x10000
# glibc's own, for a file that is made anew or changed; the last is O_TMPFILE's.
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | 0o20000000
_AF_UNIX = 1
# SOCK_STREAM, with close-on-exec and non-blocking as they come. Those of a pair for datagrams can each send to any
# socket of this machine by its name, descriptors too; a connected stream goes to its other end alone.
_STREAMS = (1, 1 | 0o4000, 1 | 0o2000000, 1 | 0o2004000)
# A descriptor's owner is sent a signal of the program's choice, and may be any process of the same user.
_FCNTL_OWNERS = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # is it a terminal, its size, FIONREAD, FIONBIO, cloexec

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, value


def _unless(argument: int, code: int, values: tuple[int, ...], then: int, otherwise: int) -> list[Instruction]:
    """Return `then` if the argument meets the test with any of the values, else `otherwise`."""
    tests = [(code, len(values) - place, 0, value) for place, value in enumerate(values)]
    load = (_LOAD, 0, 0, _ARGUMENTS + 8 * argument)
    return [load, *tests, (_RETURN, 0, 0, otherwise), (_RETURN, 0, 0, then)]


def _answer(number: int, answer: list[Instruction]) -> list[Instruction]:
    return [(_EQUAL, 0, len(answer), number), *answer]


def program(machine: str, writing: bool, signalling: bool, threads: bool) -> bytes:
    """Return the filter, as the kernel reads it.

    Args:
        machine: The kind of processor, as `os.uname` names it: x86_64 or aarch64.
        writing: Whether files may be written; where, is the mount namespace's to hold.
        signalling: Whether signals may be sent; to whom, is the process namespace's to hold.
        threads: Whether threads may be started.
    """
    refuse, absent, read_only = (_ERRNO | number for number in (errno.EPERM, errno.ENOSYS, errno.EROFS))
    conditional = numbers(f"{CONDITIONAL} {OF_PROCESSES}", machine)
    opened = [(_RETURN, 0, 0, _ALLOW)] if writing else _unless(2, _ANY_BIT, (_WRITE_FLAGS,), read_only, _ALLOW)
    answers = {
        "openat": opened,
        "open": opened if writing else _unless(1, _ANY_BIT, (_WRITE_FLAGS,), read_only, _ALLOW),
        "clone": _unless(0, _ANY_BIT, (_CLONE_THREAD,), _ALLOW if threads else refuse, refuse),
        "prlimit64": _unless(0, _EQUAL, (0,), _ALLOW, refuse),
        "socketpair": [
            *[(_LOAD, 0, 0, _ARGUMENTS), (_EQUAL, 1, 0, _AF_UNIX), (_RETURN, 0, 0, refuse)],
            *_unless(1, _EQUAL, _STREAMS, _ALLOW, refuse),
        ],
        "fcntl": _unless(1, _EQUAL, _FCNTL_OWNERS, refuse, _ALLOW),
        "ioctl": _unless(1, _EQUAL, _IOCTLS, _ALLOW, refuse),
    }
    # Of another process they say that it exists, where there is no process namespace.
    itself = [(_RETURN, 0, 0, _ALLOW)] if signalling else _unless(0, _EQUAL, (0,), _ALLOW, refuse)
    answers |= dict.fromkeys(OF_PROCESSES.replace(":", " ").split()[::3], itself)
    plain = [(ALLOWED, _ALLOW), (WRITING, _ALLOW if writing else read_only)]
    plain += [(SIGNALLING, _ALLOW if signalling else refuse), (REFUSED, refuse)]
    code: list[Instruction] = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, AUDIT_ARCH[machine]), (_RETURN, 0, 0, _KILL)]
    code += [(_LOAD, 0, 0, _NUMBER), (_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL)]
    for name, number in conditional.items():
        code += _answer(number, answers[name])
    for table, answer in plain:
        for number in numbers(table, machine).values():
            code += _answer(number, [(_RETURN, 0, 0, answer)])
    code.append((_RETURN, 0, 0, absent))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


def install(filter_program: bytes) -> None:
    """Put this thread under the filter; nothing takes it off again.

    Raises:
        OSError: if the kernel has no such filters.
    """
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    held = ctypes.create_string_buffer(filter_program, len(filter_program))
    header = struct.pack("HxxxxxxP", len(filter_program) // 8, ctypes.addressof(held))
    pointer = ctypes.create_string_buffer(header, len(header))
    kernel.prctl(kernel.PR_SET_SECCOMP, kernel.SECCOMP_MODE_FILTER, ctypes.c_void_p(ctypes.addressof(pointer)))
