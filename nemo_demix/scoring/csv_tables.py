"""CSV files by column name: rows with names, and numbers that are there or are not."""

import csv
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from nemo_demix.errors import ScoreError

_UNNAMED = ("", "Unnamed: 0")  # as pandas writes an index, and as it writes one that it had read so


def read_csv(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The columns of a file and its rows, as text without surrounding spaces; empty lines are passed over.

    Raises:
        ScoreError: if it is not CSV in UTF-8, has no row, a column occurs twice, or a row has another number of values.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = [(number, row) for number, row in enumerate(csv.reader(file), start=1) if any(map(str.strip, row))]
    except FileNotFoundError:
        raise ScoreError(f"{path}: no such file; correct the path") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise ScoreError(f"{path}: expected CSV in UTF-8, found: {error}") from None
    if len(lines) < 2:
        raise ScoreError(f"{path}: expected a line of column names and at least one row, found {len(lines)} lines")
    columns = [name.strip() for name in lines[0][1]]
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise ScoreError(f"{path}: column {', '.join(map(repr, twice))} occurs twice; rename or remove one")
    for number, row in lines[1:]:
        if len(row) != len(columns):
            raise ScoreError(f"{path}:{number}: expected {len(columns)} values, found {len(row)}; correct the line")
    return columns, [dict(zip(columns, map(str.strip, row), strict=True)) for _, row in lines[1:]]


def index_column(path: Path, columns: Sequence[str], asked: str | None, taken: Collection[str] = ()) -> str | None:
    """The column that names the rows: the asked one, else `name`, else `index`, else an unnamed first one, else none.

    Args:
        asked: `search.imported.index`.
        taken: Columns that are something else.

    Raises:
        ScoreError: if the asked column is not there.
    """
    if asked is not None:
        if asked not in columns:
            raise ScoreError(f"{path}: search.imported.index={asked}: no such column; expected one of {list(columns)}")
        return asked
    candidates = ["name", "index", *(name for name in columns[:1] if name in _UNNAMED)]
    return next((name for name in candidates if name in columns and name not in taken), None)


def row_names(path: Path, rows: Sequence[Mapping[str, str]], index: str | None) -> list[str]:
    """The name of each row: its value in the index column, or the file's with the row's number where there is none.

    Raises:
        ScoreError: if a name is empty or occurs twice.
    """
    if index is None:
        return [f"{path.stem}_{position}" for position in range(1, len(rows) + 1)]
    names = [row[index] for row in rows]
    if "" in names:
        raise ScoreError(f"{path}: row {names.index('') + 1}: expected a name in column {index!r}, found none; add one")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ScoreError(f"{path}: column {index!r}: {', '.join(twice[:5])} occurs twice; give each row its own name")
    return names


def number(path: Path, row: str, column: str, text: str) -> float | None:
    """The number of a cell, or None where there is none: an empty cell, NaN or infinity.

    Raises:
        ScoreError: if the cell holds something else.
    """
    try:
        value = float(text) if text else math.nan
    except ValueError:
        raise ScoreError(
            f"{path}: {row}: column {column!r}: expected a number, found {text!r}; remove columns that hold no numbers"
        ) from None
    return value if math.isfinite(value) else None
