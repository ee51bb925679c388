"""Tables as text: rows and columns with names, and numbers that are there or are not.

Cost: linear in the file, which is read whole; `LARGEST_FILE` bounds it.
"""

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_demix.artifacts import parse_json
from nemo_demix.errors import DemixError, ScoreError, near

SUFFIXES = (".csv", ".tsv")
LARGEST_FILE = 1 << 28  # bytes
LARGEST = 1e100  # of a number: its square is still one
LONGEST_NAME = 500
# Columns that name the row, not a dataset or a score, in the order in which they are tried; "" and the last one are
# how pandas writes an index, and one that it had read so.
IDENTITIES = ("name", "index", "run", "run_id", "tag", "", "Unnamed: 0")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_ABSENT = frozenset(("", "nan", "n/a", "na", "#n/a", "null", "none", "inf", "infinity"))


@dataclass(frozen=True)
class Table:
    """A file with a line of column names.

    Attributes:
        source: The file.
        columns: The values of all rows by the column's name, without surrounding spaces.
        num_rows: Number of rows, one at least.
    """

    source: Path
    columns: dict[str, list[str]]
    num_rows: int

    @property
    def identities(self) -> list[str]:
        """The columns that may name the rows, best first."""
        return [name for name in IDENTITIES if name in self.columns and name != "tag"]

    def data(self, but: Collection[str] = ()) -> list[str]:
        """Return the columns that are no identity and none of these."""
        return [name for name in self.columns if name not in IDENTITIES and name not in but]

    def row_names(self, index: str | None) -> list[str]:
        """Return the name of each row: its value in a column, or the file's with the row's number where there is none.

        Raises:
            ScoreError: if a name is empty or occurs twice.
        """
        if index is None:
            return [f"{self.source.stem}_{number}" for number in range(1, self.num_rows + 1)]
        names = self.columns[index]
        if "" in names:
            raise ScoreError(
                f"{self.source}: row {names.index('') + 1}: expected a name in column {index!r}, found none; add one"
            )
        if all(re.fullmatch(r"\d+\.0+", name, re.ASCII) for name in names):
            names = [name.partition(".")[0] for name in names]  # as pandas writes whole numbers beside an absent one
        if twice := _twice(names):
            raise ScoreError(
                f"{self.source}: column {index!r}: {shown(twice)} occurs twice; give each row its own name"
            )
        return names


def read_table(path: Path) -> Table:
    """Return a file of values separated by commas, tabs or semicolons: whichever its first line has most of.

    Empty lines are passed over, and so are empty columns at the end, which spreadsheets leave.

    Raises:
        ScoreError: if it is not such a file in UTF-8, has no row, a column occurs twice, a name cannot be printed, or a
            row has another number of values.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ScoreError(f"{path}: expected a table in UTF-8, found: {error}; save it as CSV in UTF-8") from None
    return _parsed(text, path)


def table_of(rows: Iterable[Mapping[str, Any]], name: str) -> Table:
    """Return rows that a program has, as if they had been written to a file and read; None and NaN are no values.

    Args:
        name: What messages call them.

    Raises:
        ScoreError: as `read_table`.
    """
    rows = list(rows)
    columns = list(dict.fromkeys(str(column) for row in rows for column in row))
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    for row in rows:
        cells = {str(column): cell for column, cell in row.items()}
        writer.writerow(["" if cells.get(column) is None else str(cells[column]) for column in columns])
    return _parsed(text.getvalue(), Path(name))


def _parsed(text: str, path: Path) -> Table:
    try:
        first = text.lstrip("\r\n").partition("\n")[0]
        delimiter = max(",\t;", key=first.count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        lines = [(number, [cell.strip() for cell in row]) for number, row in enumerate(reader, start=1)]
    except csv.Error as error:
        raise ScoreError(f"{path}: expected a table in UTF-8, found: {error}; save it as CSV in UTF-8") from None
    lines = [(number, row) for number, row in lines if any(row)]
    if len(lines) < 2:
        raise ScoreError(f"{path}: expected a line of column names and at least one row, found {len(lines)} lines")
    names = _without_end(lines[0][1])
    if twice := _twice(names):
        raise ScoreError(f"{path}: column {shown(twice)} occurs twice; rename or remove one")
    for name in names:
        check_name(name, f"{path}: column")
    rows = []
    for number, row in lines[1:]:
        if any(row[len(names) :]) or len(row) < len(names):
            raise ScoreError(f"{path}:{number}: expected {len(names)} values, found {len(row)}; correct the line")
        rows.append(row[: len(names)])
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    return Table(path, columns, len(rows))


def read_object(path: Path) -> dict[str, Any]:
    """Return a JSON file that holds an object.

    Raises:
        ScoreError: if it does not, or has a key twice.
    """
    try:
        value = parse_json(read_bytes(path), path)
    except DemixError as error:
        raise ScoreError(str(error)) from None
    if not isinstance(value, dict):
        raise ScoreError(f"{path}: expected a JSON object, found {type(value).__name__}; correct the file")
    return value


def read_bytes(path: Path) -> bytes:
    """Return a regular file, whole.

    Raises:
        ScoreError: if it is none, cannot be read, or is larger than any table of scores.
    """
    if not path.is_file():
        found = "something else" if path.exists() else "nothing"
        raise ScoreError(f"{path}: expected a file, found {found}; correct the path")
    try:
        if (size := path.stat().st_size) > LARGEST_FILE:
            raise ScoreError(f"{path}: expected a table of at most {LARGEST_FILE >> 20} MiB, found {size >> 20}")
        return path.read_bytes()
    except OSError as error:
        raise ScoreError(f"{path}: expected a readable file, found: {error.strerror}") from None


def index_column(table: Table, asked: str | None, preferred: Iterable[str | None] = ()) -> str | None:
    """Return the column that names the rows; None: there is none.

    Args:
        asked: `search.imported.index`.
        preferred: Identities of the file that this one is joined with: a common one is better than any other.

    Raises:
        ScoreError: if the asked column is not there.
    """
    if asked is not None:
        if asked not in table.columns:
            raise ScoreError(
                f"{table.source}: search.imported.index={asked}: no such column{near(asked, table.columns)}; expected "
                f"one of {shown(table.columns)}"
            )
        return asked
    own, preferred = table.identities, set(preferred)
    return next((name for name in own if name in preferred), own[0] if own else None)


def number(text: str, *place: object) -> float | None:
    """Return the number of a cell, or None where there is none: an empty cell, `N/A`, NaN, infinity.

    Only what any program would read as that number is one: no `1_000`, no digits of other scripts, no decimal comma.

    Args:
        place: File, row and column, for the message.
    Raises:
        ScoreError: if the cell holds something else, or a number beyond `LARGEST`.
    """
    if _NUMBER.fullmatch(text):
        return _bounded(float(text), *place)
    if text.casefold().lstrip("+-") in _ABSENT:
        return None
    is_comma = re.fullmatch(r"[+-]?\d+,\d+", text, re.ASCII)
    remedy = "write a decimal point" if is_comma else "correct it, or remove columns that hold none"
    raise ScoreError(f"{_at(place)}: expected a number, found {text[:80]!r}; {remedy}")


def finite(value: Any, *place: object) -> float | None:
    """Return a number out of JSON, or None for NaN and infinity.

    Raises:
        ScoreError: if it is no number, or one beyond `LARGEST`.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ScoreError(f"{_at(place)}: expected a number, found {str(value)[:80]!r}; correct the file")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return _bounded(value, *place)


def check_name(name: object, place: str) -> str:
    """Return a name that can be printed.

    Raises:
        ScoreError: if it holds characters that steer a terminal, or is no name.
    """
    if not isinstance(name, str) or not name.isprintable() or len(name) > LONGEST_NAME:
        raise ScoreError(
            f"{place} {str(name)[:40]!r}: expected a name of at most {LONGEST_NAME} printable characters; rename it"
        )
    return name


def shown(names: Iterable[str]) -> str:
    """Return a few of many names, for a message."""
    names = list(names)
    return f"{', '.join(map(repr, names[:8]))}{f' and {len(names) - 8} more' if len(names) > 8 else ''}"


def _at(place: Iterable[object]) -> str:
    return ": ".join(map(str, place))


def _bounded(value: float, *place: object) -> float:
    if abs(value) > LARGEST:
        raise ScoreError(f"{_at(place)}: expected a number of at most {LARGEST:g}, found a larger one; correct it")
    return float(value)


def _twice(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _without_end(names: Sequence[str]) -> list[str]:
    count = len(names)
    while count > 1 and not names[count - 1]:
        count -= 1
    return list(names[:count])
