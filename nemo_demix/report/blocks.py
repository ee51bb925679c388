"""What the page is made of: sections that answer one question each, with tables and figures. No markup."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

BETTER, WORSE, QUIET = "better", "worse", "quiet"


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        tone: better | worse | quiet; shown by a word or a sign in the text too, never by colour alone.
        strength: Strength of the tone's colour, from 0 to 1.
    """

    text: str
    tone: str = ""
    strength: float = 0.0


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first cell of a row is its heading.

    Attributes:
        columns: Headings with their units.
        num_text: Number of columns, from the left, that hold words; the others hold numbers.
        is_open: Shown at once; else behind a line that opens it.
        picks: Rows can be picked, and show their mark in the figures of the section.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    num_text: int = 1
    is_open: bool = True
    picks: bool = False


@dataclass(frozen=True)
class Figure:
    """A drawing as inline SVG, and what it shows in words."""

    title: str
    svg: str
    note: str = ""


@dataclass(frozen=True)
class Section:
    """One question and what the run's records answer.

    Attributes:
        key: Name of the section's anchor on the page.
        facts: What stands out, by what it is.
        answer: The answer, a sentence or two; empty where `missing` says why there is none.
        missing: Why nothing can be shown, and which command would change that.
        verbatim: Text shown as it is, by heading.
        live: What the page's script works with; None: the section has no moving part.
    """

    key: str
    title: str
    question: str
    answer: str = ""
    facts: Mapping[str, Cell | str] = field(default_factory=dict)
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    missing: str = ""
    verbatim: Mapping[str, str] = field(default_factory=dict)
    live: Mapping[str, Any] | None = None


def number(value: float | None, digits: int = 4, signed: bool = False) -> str:
    """Return a number as people read it, with a real minus sign; an em dash where there is none."""
    if value is None:
        return "—"
    text = f"{value:+,.{digits}f}" if signed else f"{value:,.{digits}f}"
    if not any(digit in text for digit in "123456789"):
        text = text.lstrip("+-")  # a zero has no sign
    return text.replace("-", "−")


def percent(share: float | None, digits: int = 1, signed: bool = False) -> str:
    """Return a share in hundredths."""
    return "—" if share is None else f"{number(100 * share, digits, signed)} %"


def interval(low: float | None, high: float | None, digits: int = 4, signed: bool = False) -> str:
    """Show both ends of an interval."""
    if low is None or high is None:
        return "not known"
    return f"{number(low, digits, signed)} to {number(high, digits, signed)}"


def duration(seconds: float | None) -> str:
    """Return device-seconds or seconds, in the largest fitting unit."""
    if seconds is None:
        return "—"
    if seconds >= 5400:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:,.0f} min" if seconds >= 90 else f"{seconds:,.0f} s"


def counted(count: int, noun: str) -> str:
    """Return `1 model`, `7 models`, `56 proxies`."""
    plural = f"{noun[:-1]}ies" if noun.endswith("xy") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"


def sentence(parts: Sequence[str]) -> str:
    """Return `a, b and c`."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def only(values: Sequence[Any], otherwise: str) -> Any:
    """Return the one value that all have, or what to say otherwise."""
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else otherwise
