import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nemo_demix.datasets.readers import file_format, read_file, read_text
from nemo_demix.errors import DatasetError
from tests.datasets.helpers import write_rows

TEXTS = ["one", "zwei\nLinien", "три", "四\u2028line"]


def test_the_same_texts_come_out_of_every_row_format(tmp_path: Path) -> None:
    rows = [{"body": text, "other": 1} for text in TEXTS]
    plain = write_rows(tmp_path / "a.jsonl", rows)
    zipped = tmp_path / "a.jsonl.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    table = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": TEXTS, "n": [1, 2, 3, 4]}), table, row_group_size=2)
    for path in (plain, zipped, table):
        assert list(read_file(path, "body")) == TEXTS


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("first\n\nsecond", encoding="utf-8")
    assert list(read_file(path, "text")) == ["first\n\nsecond"]


def test_blank_lines_between_rows_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n\n   \n{"text": "b"}\n', encoding="utf-8")
    assert list(read_file(path, "text")) == ["a", "b"]


BAD_ROWS = {
    "empty": (b"", ["expected text", "empty file"]),
    "only blank lines": (b"\n\n", ["expected text", "empty file"]),
    "binary": (b'{"text": "a"}\n\x00\x01\n', ["line 2", "NUL byte"]),
    "not UTF-8": (b'{"text": "a"}\n{"text": "\xff"}\n', ["line 2", "expected UTF-8"]),
    "bad JSON": (b'{"text": "a"}\n{"text": \n', ["line 2", "expected a JSON object"]),
    "no object": (b"[1]\n", ["line 1", "expected a JSON object", "list"]),
    "missing field": (b'{"text": "a"}\n{"body": "b", "id": 1}\n', ["line 2", "'text'", "['body', 'id']"]),
    "no string": (b'{"text": "a"}\n{"text": 3}\n', ["line 2", "expected a string", "int"]),
    "half a character": (b'{"text": "\\ud800"}\n', ["line 1", "expected Unicode", "surrogates"]),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_file_is_named_with_its_line(tmp_path: Path, case: str) -> None:
    content, expected = BAD_ROWS[case]
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        list(read_file(path, "text"))
    for part in [str(path), *expected]:
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["gone.txt", "gone.jsonl", "gone.jsonl.gz", "gone.parquet"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match=rf"{name}: expected a readable file, found: .*[Nn]o such file"):
        list(read_file(tmp_path / name, "text"))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty file"), (b"ab\0c", "NUL byte"), (b"caf\xe9", "expected UTF-8")],
)
def test_a_bad_text_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"bad\.txt: .*{message}"):
        list(read_file(path, "text"))


def test_a_cut_off_gzip_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps({"text": "a" * 1000}).encode())[:-6])
    with pytest.raises(DatasetError, match=r"cut\.jsonl\.gz: expected a whole gzip file"):
        list(read_file(path, "text"))


def test_a_file_that_is_not_gzip_is_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "plain.jsonl.gz", [{"text": "a"}])
    with pytest.raises(DatasetError, match=r"plain\.jsonl\.gz: expected a whole gzip file"):
        list(read_file(path, "text"))


def test_parquet_errors_name_the_file_and_the_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", None]}), path)
    with pytest.raises(DatasetError, match=r"a\.parquet: row 2: expected a string.*NoneType"):
        list(read_file(path, "text"))
    with pytest.raises(DatasetError, match=r"a\.parquet: expected a column 'body', found \['text'\]"):
        list(read_file(path, "body"))
    path.write_bytes(b"not parquet at all, but long enough")
    with pytest.raises(DatasetError, match=r"a\.parquet: expected a parquet file"):
        list(read_file(path, "text"))


def test_an_unknown_suffix_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"a\.csv: expected a name ending in \.txt, \.jsonl"):
        file_format(tmp_path / "a.csv")


def test_an_empty_source_file_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "__init__.py"
    path.touch()
    assert read_text(path) == ""
