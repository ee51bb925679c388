"""What a caller sets for programs, what it gets back, and what this machine can hold them to."""

from dataclasses import dataclass

PASSED = "passed"
FAILED = "failed"  # it raised, or left before its last line
TIMED_OUT = "timed out"
OUT_OF_MEMORY = "out of memory"
KILLED = "killed"  # by a signal of its own making, such as a stack that overflows


@dataclass(frozen=True)
class Limits:
    """What one program may use; it is one process, and may start no other.

    Attributes:
        wall_s: Seconds by the clock, and of all its threads together on the processors.
        memory_mib: Address space beyond that of an interpreter that has done nothing yet, in MiB.
        threads: Tasks at a time, the program's own among them; one, where the machine cannot hold it to a number.
        file_mib: All files in its scratch folder, in MiB.
    """

    wall_s: float = 10.0
    memory_mib: int = 1024
    threads: int = 16
    file_mib: int = 16


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Attributes:
        status: One of the names above.
        detail: The exception's last line, or what ended the program; empty where it passed.
        wall_s: Seconds from its start to its end.
    """

    status: str
    detail: str
    wall_s: float

    @property
    def passed(self) -> bool:
        """Whether the program ran to its end, its tests with it."""
        return self.status == PASSED


@dataclass(frozen=True)
class Isolation:
    """What keeps a program from the rest of this machine: each one tried, none assumed.

    Attributes:
        namespaces: The kinds that a program gets of its own; without `mount` it may write no file at all.
        seccomp: Whether it is held to the system calls that a Python program needs.
        landlock: Whether it sees no files but Python's, where it has no mount namespace.
        other_user: Whether it runs as a user that owns nothing.
        threads: Whether the number of its threads can be limited; where not, it gets none.
        unprotected: What programs were able to do in a trial, and should not have been.
    """

    namespaces: tuple[str, ...]
    seccomp: bool
    landlock: bool
    other_user: bool
    threads: bool
    unprotected: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return one line for a log."""
        words = [f"namespaces {' '.join(self.namespaces)}" if self.namespaces else "no namespaces"]
        words += [name.replace("_", " ") for name in ("seccomp", "landlock", "other_user") if getattr(self, name)]
        words.append("rlimits")
        if "mount" not in self.namespaces:
            words.append("programs can write no file")
        if not self.threads:
            words.append("programs get no threads")
        return "; ".join([", ".join(words), *(f"NOT PROTECTED: {name}" for name in self.unprotected)])
