"""Documents out of files, one at a time, with errors that name the file and the line or row.

Memory: one document (one line, one file, or one batch of a .parquet row group).
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nemo_demix.errors import DatasetError

SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".parquet")
_PARQUET_BATCH_ROWS = 1024
_FIRST_BYTES = 1 << 16


def file_format(path: Path) -> str:
    """The suffix of `SUFFIXES` that a file name ends in.

    Raises:
        DatasetError: if there is none.
    """
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    raise DatasetError(
        f"{path}: expected a name ending in {', '.join(SUFFIXES)}; rename or convert the file, or give a folder of "
        f"source code as code= instead of path="
    )


def read_file(path: Path, text_field: str) -> Iterator[str]:
    """The documents of one text file.

    Args:
        path: A .txt file (one document), or a .jsonl, .jsonl.gz or .parquet file (one document a row).
        text_field: The field of a row that holds its text.
    Raises:
        DatasetError: if the file is missing, empty, binary, not UTF-8 or not of its format, or if a row has no
            such field or holds no string there.
    """
    suffix = file_format(path)
    if suffix == ".txt":
        text = read_text(path)
        if not text:
            raise _empty(path)
        yield text
        return
    empty = True
    for text in _parquet_texts(path, text_field) if suffix == ".parquet" else _json_texts(path, text_field):
        empty = False
        yield text
    if empty:
        raise _empty(path)


def first_row(path: Path) -> dict[str, Any]:
    """The first row of a .jsonl, .jsonl.gz or .parquet file, its fields by name.

    Raises:
        DatasetError: as `read_file`, or if there is no row.
    """
    if file_format(path) != ".parquet":
        row = next(json_lines(path), None)
        if row is None:
            raise _empty(path)
        return row[1]
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            batch = next(file.iter_batches(batch_size=1), None)
    except OSError as error:
        raise _unreadable(path, error) from None
    except pa.ArrowInvalid as error:
        raise DatasetError(f"{path}: expected a parquet file, found: {error}; write it again") from None
    if batch is None or not batch.num_rows:
        raise _empty(path)
    found: dict[str, Any] = batch.to_pylist()[0]
    return found


def check_first_record(path: Path, text_field: str, is_text: bool) -> None:
    """Read the first document of a file, of plain text only its beginning.

    Args:
        is_text: Of a file of source code: one document, whatever its name.
    Raises:
        DatasetError: as `read_file`.
    """
    if not is_text and file_format(path) != ".txt":
        next(read_file(path, text_field), None)
        return
    try:
        with open(path, "rb") as file:
            raw = file.read(_FIRST_BYTES)
    except OSError as error:
        raise _unreadable(path, error) from None
    if not raw and not is_text:
        raise _empty(path)
    if len(raw) == _FIRST_BYTES:  # the last character may be cut off
        raw = raw[: max(end for end in range(len(raw) - 4, len(raw)) if raw[end] & 0xC0 != 0x80)]
    _decoded(raw, str(path))


def read_text(path: Path) -> str:
    """A whole file's text.

    Raises:
        DatasetError: if it is missing, binary or not UTF-8.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None
    return _decoded(raw, str(path))


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a .jsonl or .jsonl.gz file with their line numbers, from 1; blank lines are passed over.

    Raises:
        DatasetError: if the file is missing, binary, not UTF-8 or damaged, or if a line is not a JSON object.
    """
    try:
        with gzip.open(path, "rb") if path.name.lower().endswith(".gz") else open(path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, _json_object(line, f"{path}: line {number}")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DatasetError(f"{path}: expected a whole gzip file, found: {error}; write it again") from None
    except OSError as error:
        raise _unreadable(path, error) from None


def checked_string(row: dict[str, Any], field: str, place: str) -> str:
    """A row's field, which has to be a string of whole Unicode characters.

    Args:
        place: File and line or row, for the message.
    Raises:
        DatasetError: if the field is absent, is not a string, or holds half of a surrogate pair.
    """
    if field not in row:
        raise DatasetError(
            f"{place}: expected a field {field!r}, found {sorted(row)}; name the field that holds the text or add it"
        )
    text = row[field]
    if not isinstance(text, str):
        raise DatasetError(
            f"{place}: expected a string in field {field!r}, found {type(text).__name__}; correct or drop the row"
        )
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DatasetError(
                f"{place}: expected Unicode text in field {field!r}, found: {error}; drop the row"
            ) from None
    return text


def _json_texts(path: Path, text_field: str) -> Iterator[str]:
    for number, row in json_lines(path):
        yield checked_string(row, text_field, f"{path}: line {number}")


def _json_object(line: bytes, place: str) -> dict[str, Any]:
    text = _decoded(line, place)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DatasetError(f"{place}: expected a JSON object, found: {error}; correct or drop the line") from None
    if not isinstance(value, dict):
        raise DatasetError(f"{place}: expected a JSON object, found {type(value).__name__}; correct or drop the line")
    return value


def _parquet_texts(path: Path, text_field: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except OSError as error:
        raise _unreadable(path, error) from None
    except pa.ArrowInvalid as error:
        raise DatasetError(f"{path}: expected a parquet file, found: {error}; write it again") from None
    with file:
        if text_field not in file.schema_arrow.names:
            raise DatasetError(
                f"{path}: expected a column {text_field!r}, found {file.schema_arrow.names}; set text_field"
            )
        number = 0
        for batch in file.iter_batches(batch_size=_PARQUET_BATCH_ROWS, columns=[text_field]):
            for text in batch.column(0).to_pylist():
                number += 1
                yield checked_string({text_field: text}, text_field, f"{path}: row {number}")


def _decoded(raw: bytes, place: str) -> str:
    if b"\0" in raw:
        raise DatasetError(f"{place}: expected text, found a NUL byte (binary data); take it out of the sources")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{place}: expected UTF-8, found: {error}; convert it or take it out of the sources"
        ) from None


def _empty(path: Path) -> DatasetError:
    return DatasetError(f"{path}: expected text, found an empty file; fill it or take it out of the sources")


def _unreadable(path: Path, error: OSError) -> DatasetError:
    reason = error.strerror or str(error)
    return DatasetError(f"{path}: expected a readable file, found: {reason}; correct the path or its permissions")
