"""Documents out of files, one at a time, with errors that name the file and the line or row.

A file can be read in parts, so that several workers share a large one: a part of lines is a range of bytes, and has the
lines that start in it; a part of a .parquet file is a range of row groups.

Memory: one document (one line, one file, or one batch of a .parquet row group).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nemo_demix.artifacts import json_value
from nemo_demix.datasets.files import LARGEST_RECORD, PACKED, lines, opened, too_large
from nemo_demix.errors import DatasetError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

TEXT, ROWS = (".txt",), (".jsonl", ".json", ".ndjson")
SUFFIXES = (*TEXT, *ROWS, *(suffix + packed for suffix in (*TEXT, *ROWS) for packed in PACKED), ".parquet")
_PARQUET_BATCH_ROWS = 128
_FIRST_BYTES = 1 << 16
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Part = tuple[int, int]  # from, and up to: bytes of lines, or row groups


def file_format(place: str) -> str:
    """Return the suffix of `SUFFIXES` that a file name ends in.

    Raises:
        DatasetError: if there is none.
    """
    for suffix in SUFFIXES:
        if place.lower().endswith(suffix):
            return suffix
    raise DatasetError(
        f"{place}: expected a name ending in {', '.join((*TEXT, *ROWS, '.parquet'))}, packed or not "
        f"({', '.join(PACKED)}); rename or convert the file, or give a folder of source code as code= instead of path="
    )


def is_one_document(place: str) -> bool:
    """Return whether a file holds a single document."""
    return file_format(place).startswith(TEXT)


def read_file(place: str, text_field: str, part: Part | None = None) -> Iterator[str]:
    """Yield the documents of one text file.

    Args:
        place: A .txt file (one document), or a file of JSON lines or a .parquet file (one document a row).
        text_field: The field of a row that holds its text.
        part: What of it; None: all.
    Raises:
        DatasetError: if the file is missing, empty, binary, not UTF-8 or not of its format, or if a row has no
            such field or holds no string there, or a document is longer than LARGEST_RECORD.
    """
    if is_one_document(place):
        text = read_text(place)
        if not text:
            raise _empty(place)
        yield text
        return
    empty = True
    parquet = file_format(place) == ".parquet"
    for text in _parquet_texts(place, text_field, part) if parquet else _json_texts(place, text_field, part):
        empty = False
        yield text
    if empty and part is None:
        raise _empty(place)


def first_row(place: str) -> dict[str, Any]:
    """Return the first row of a file of JSON lines or a .parquet file, its fields by name.

    Raises:
        DatasetError: as `read_file`, or if there is no row.
    """
    if file_format(place) != ".parquet":
        row = next(json_lines(place), None)
        if row is None:
            raise _empty(place)
        return row[1]
    with parquet_file(place) as file:
        batch = next(file.iter_batches(batch_size=1), None)
    if batch is None or not batch.num_rows:
        raise _empty(place)
    found: dict[str, Any] = batch.to_pylist()[0]
    return found


def check_first_record(place: str, text_field: str, is_text: bool) -> None:
    """Read the first document of a file, of plain text only its beginning.

    Args:
        is_text: Whether it is a file of source code: one document, whatever its name.
    Raises:
        DatasetError: as `read_file`.
    """
    if not is_text and not is_one_document(place):
        next(read_file(place, text_field), None)
        return
    with opened(place, unpacked=not is_text) as file:
        raw = file.read(_FIRST_BYTES)
    if not raw and not is_text:
        raise _empty(place)
    if len(raw) == _FIRST_BYTES:  # the last character may be cut off
        raw = raw[: max(end for end in range(len(raw) - 4, len(raw)) if raw[end] & 0xC0 != 0x80)]
    _decoded(raw, place)


def read_text(place: str, unpacked: bool = True) -> str:
    """Return a whole file's text.

    Raises:
        DatasetError: if it is missing, binary, not UTF-8 or longer than LARGEST_RECORD.
    """
    with opened(place, unpacked) as file:
        raw = file.read(LARGEST_RECORD + 1)
    if len(raw) > LARGEST_RECORD:
        raise too_large(place)
    return _decoded(raw, place)


def json_lines(place: str, part: Part | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a file of JSON lines with their line numbers, from 1; blank lines are passed over.

    Args:
        part: Range of bytes in which the lines start, of a file that is not packed; None: all.
    Raises:
        DatasetError: if the file is missing, binary, not UTF-8 or damaged, if a line is not a JSON object, or is longer
            than LARGEST_RECORD.
    """
    start, stop = part or (0, None)
    with opened(place) as file:
        if start:  # the line that is under way there is the part's before
            file.seek(start - 1)
            file.readline(LARGEST_RECORD)
        read = file.tell() if stop is not None else 0
        for number, line in lines(file, lambda number: Line(place, start, number)):
            if stop is not None and read >= stop:
                return
            read += len(line)
            if line.strip():
                yield number, _json_object(line, Line(place, start, number))


@dataclass(frozen=True)
class Line:
    """Where a line is; its number in the file is counted when somebody wants to read it.

    Attributes:
        start: Byte from which lines were counted.
        number: Its number, counted from 1 for the first line that starts there.
    """

    place: str
    start: int
    number: int

    def __str__(self) -> str:
        before = 0
        if self.start:
            with opened(self.place) as file:
                left = self.start
                while left > 0 and (block := file.read(min(left, 1 << 20))):
                    before += block.count(b"\n")
                    left -= len(block)
                before += not block.endswith(b"\n")  # the line that is under way there
        return f"{self.place}: line {before + self.number}"


def checked_string(row: dict[str, Any], field: str, place: object) -> str:
    """Return a row's field, which has to be a string of whole Unicode characters.

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


@contextmanager
def parquet_file(place: str) -> Iterator["pq.ParquetFile"]:
    """Open a .parquet file; whatever is wrong with it while it is read is said.

    Raises:
        DatasetError: if it cannot be read, or is none.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with opened(place) as raw:
        try:
            with pq.ParquetFile(raw) as file:
                yield file
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            reason = " ".join(str(error).split())
            raise DatasetError(f"{place}: expected a parquet file, found: {reason}; write it again") from None


def _json_texts(place: str, text_field: str, part: Part | None) -> Iterator[str]:
    start = part[0] if part is not None else 0
    for number, row in json_lines(place, part):
        yield checked_string(row, text_field, Line(place, start, number))


def _json_object(line: bytes, where: Line) -> dict[str, Any]:
    text = _decoded(line.removeprefix(BYTE_ORDER_MARK), where)
    try:
        value = json_value(text)
    except ValueError as error:
        raise DatasetError(
            f"{where}: expected a JSON object, found: {str(error)[:200]}; correct or drop the line"
        ) from None
    if not isinstance(value, dict):
        raise DatasetError(
            f"{where}: expected a JSON object a line, found {type(value).__name__}; correct or drop the line"
        )
    return value


def _parquet_texts(place: str, text_field: str, part: Part | None) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.compute as pc

    with parquet_file(place) as file:
        if text_field not in file.schema_arrow.names:
            raise DatasetError(
                f"{place}: expected a column {text_field!r}, found {file.schema_arrow.names}; set text_field"
            )
        first, stop = part or (0, file.num_row_groups)
        number = sum(file.metadata.row_group(group).num_rows for group in range(first))
        groups = list(range(first, stop))
        for batch in file.iter_batches(batch_size=_PARQUET_BATCH_ROWS, row_groups=groups, columns=[text_field]):
            column = batch.column(0)
            is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
            sizes = pc.binary_length(column).to_pylist() if is_text else [0] * len(column)
            for text, size in zip(column.to_pylist(), sizes, strict=True):
                number += 1
                if size is not None and size > LARGEST_RECORD:
                    raise too_large(f"{place}: row {number}")
                yield checked_string({text_field: text}, text_field, f"{place}: row {number}")


def _decoded(raw: bytes, place: object) -> str:
    if b"\0" in raw:
        raise DatasetError(f"{place}: expected text, found a NUL byte (binary data); take it out of the sources")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{place}: expected UTF-8, found: {error}; convert it or take it out of the sources"
        ) from None


def _empty(place: str) -> DatasetError:
    return DatasetError(f"{place}: expected text, found an empty file; fill it or take it out of the sources")
