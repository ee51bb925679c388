"""The filter, decided by an interpreter of its instructions; for processors that are not here too."""

import errno
import os
import re
import socket
import struct
from pathlib import Path

import pytest

from nemo_demix.sandbox.seccomp import program
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

ALLOW, KILL = "allow", "kill"
HEADERS = {"x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "/usr/include/asm-generic/unistd.h"}


def decide(code: bytes, architecture: int, number: int, *arguments: int) -> str:
    """What the kernel does with a call: allow, kill, or the name of the error."""
    data = struct.pack("=IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    instructions = list(struct.iter_unpack("HBBI", code))
    place = value = 0
    while True:
        operation, if_true, if_false, constant = instructions[place]
        place += 1
        match operation:
            case 0x20:
                (value,) = struct.unpack_from("=I", data, constant)
            case 0x06:
                known = {0x7FFF0000: ALLOW, 0x80000000: KILL}
                return known.get(constant) or errno.errorcode[constant & 0xFFFF]
            case 0x15 | 0x35 | 0x45:
                met = {0x15: value == constant, 0x35: value >= constant, 0x45: bool(value & constant)}[operation]
                place += if_true if met else if_false
            case _:
                raise AssertionError(operation)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("open_to", [True, False])
def test_decisions(machine: str, open_to: bool) -> None:
    code = program(machine, writing=open_to, signalling=open_to, threads=open_to)
    assert len(code) % 8 == 0
    assert len(code) // 8 <= 4096  # BPF_MAXINSNS
    architecture = AUDIT_ARCH[machine]

    def of(name: str, *arguments: int) -> str:
        table = " ".join((ALLOWED, WRITING, SIGNALLING, CONDITIONAL, OF_PROCESSES, REFUSED))
        return decide(code, architecture, numbers(table, machine)[name], *arguments)

    assert {of(name) for name in numbers(ALLOWED, machine)} == {ALLOW}
    assert {of(name) for name in numbers(REFUSED, machine)} == {"EPERM"}
    assert {of(name) for name in numbers(WRITING, machine)} == {ALLOW if open_to else "EROFS"}
    assert {of(name) for name in numbers(SIGNALLING, machine)} == {ALLOW if open_to else "EPERM"}
    assert of("openat", 0, 0, os.O_RDONLY | os.O_CLOEXEC) == ALLOW
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_CREAT, os.O_TMPFILE):
        assert of("openat", 0, 0, flags) == (ALLOW if open_to else "EROFS")
    assert of("clone", 0x3D0F00) == (ALLOW if open_to else "EPERM")  # pthread_create
    assert of("clone", 17) == of("clone", 0x4100 | 17) == of("clone", 0x10000000) == "EPERM"  # fork, vfork, namespace
    assert of("prlimit64", 0) == ALLOW
    assert of("prlimit64", 1) == "EPERM"
    flags = (0, socket.SOCK_CLOEXEC, socket.SOCK_NONBLOCK, socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET, socket.SOCK_RAW):
        expected = ALLOW if kind == socket.SOCK_STREAM else "EPERM"
        assert {of("socketpair", socket.AF_UNIX, kind | flag) for flag in flags} == {expected}
        assert {of("socketpair", socket.AF_INET, kind | flag) for flag in flags} == {"EPERM"}
    for name in numbers(OF_PROCESSES, machine):
        assert of(name, 0) == ALLOW
        assert of(name, 4711) == (ALLOW if open_to else "EPERM")
    assert {of("fcntl", 3, command) for command in (8, 10, 15)} == {"EPERM"}
    assert {of("fcntl", 3, command) for command in (0, 1, 2, 3, 4, 1030)} == {ALLOW}
    assert of("ioctl", 0, 0x5401) == ALLOW
    assert of("ioctl", 0, 0x5412) == of("ioctl", 0, 0x8901) == "EPERM"  # TIOCSTI, FIOSETOWN
    assert decide(code, architecture, 425) == decide(code, architecture, 435) == "ENOSYS"  # io_uring_setup, clone3
    assert decide(code, architecture, 0x40000000) == KILL
    assert decide(code, 0x40000003, 0) == KILL  # a 32-bit program's calls


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_numbers_are_those_of_the_kernels_headers(machine: str) -> None:
    header = Path(HEADERS[machine])
    if not header.exists():
        pytest.skip(f"{header} is not installed (linux-libc-dev)")
    known = {
        name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())
    }
    if machine == "aarch64":  # the header names some by what they are on other processors
        known |= {
            name: known[name] for name in ("fcntl", "statfs", "fstatfs", "truncate", "ftruncate", "lseek", "sendfile")
        }
        known |= {"newfstatat": known["fstatat"], "mmap": known["mmap"]}
    for table in (ALLOWED, WRITING, SIGNALLING, CONDITIONAL, OF_PROCESSES, REFUSED):
        for name, number in numbers(table, machine).items():
            assert known.get(name) == number, name
