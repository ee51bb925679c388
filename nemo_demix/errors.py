"""Errors a user can cause and can fix. Each message names what was found, what was expected and what to do.

A rule about the configuration is written once, as a function that yields the errors it finds: the stage that needs the
rule raises the first of them (`refuse`), `nemo-demix check` lists all of all rules.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator

_LONGEST = 2000  # characters of a message: names in strangers' files may be megabytes


class DemixError(Exception):
    """Root of the user's mistakes: reported as one line, exit code 2."""


class ConfigError(DemixError):
    """A configuration value is missing, unknown or impossible."""


class DatasetError(DemixError):
    """A text source, a tokenizer or a benchmark file cannot be used."""


class CheckpointError(DemixError):
    """A checkpoint is absent, incomplete, unsafe or of another model."""


class ScoreError(DemixError):
    """A model cannot be scored on the suite."""


class MixtureError(DemixError):
    """A mixture, a blend matrix or a constraint is not valid."""


class StackError(DemixError):
    """An installed package is missing, an impostor, or outside the tested range."""


class ClusterError(DemixError):
    """Slurm refuses a job or does not answer, or a site file lacks something."""


def refuse(errors: Iterable[DemixError]) -> None:
    """Raise the first of a rule's errors, if there is one."""
    for error in errors:
        raise error


def found_by(check: Callable[[], object]) -> Iterator[DemixError]:
    """Yield the error of a rule that raises instead of yielding; nothing where it holds."""
    try:
        check()
    except DemixError as error:
        yield error


def near(name: object, known: Iterable[str]) -> str:
    """Return `; did you mean ...?` with the known names nearest to one; empty where none is near."""
    names = difflib.get_close_matches(str(name), [str(one) for one in known], n=2)
    return f"; did you mean {' or '.join(names)}?" if names else ""


def one_line(message: str) -> str:
    """Return a message on one line that can be read, whatever names it quotes.

    What does not print (control characters, turned directions) is its number. Of more than 2,000 characters the middle
    is left out: what is wrong stands at the beginning, what to do at the end.
    """
    text = " ".join(message.splitlines())
    if len(text) > _LONGEST:
        half = _LONGEST // 2
        text = f"{text[:half]} [{len(text) - 2 * half:,} characters left out] {text[-half:]}"
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
