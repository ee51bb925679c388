import bz2
import gzip
import json
import lzma
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nemo_demix.datasets import files, readers
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
    packed = {".zst": zstd, ".bz2": bz2.compress, ".xz": lzma.compress}
    others = [plain.rename(tmp_path / "a.json"), zipped, table]
    for suffix, pack in packed.items():
        others.append(tmp_path / f"a.ndjson{suffix}")
        others[-1].write_bytes(pack(others[0].read_bytes()))
    for path in others:
        assert list(read_file(str(path), "body")) == TEXTS


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


def test_parts_of_a_file_are_the_whole_of_it(tmp_path: Path) -> None:
    """Wherever the bytes are cut, each line is read once, and errors have the line's number in the file."""
    path = write_rows(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS])
    raw = path.read_bytes()
    for size in (1, 7, 16, len(raw)):
        parts = [(start, min(start + size, len(raw))) for start in range(0, len(raw), size)]
        assert [text for part in parts for text in read_file(str(path), "text", part)] == TEXTS
    path.write_bytes(raw + b"{broken\n")
    with pytest.raises(DatasetError, match=r"a\.jsonl: line 5: expected a JSON object"):
        list(read_file(str(path), "text", (len(raw) - 20, len(raw) + 8)))
    pq.write_table(pa.table({"text": [*TEXTS, None]}), tmp_path / "a.parquet", row_group_size=2)
    first, rest = ((0, 1), (1, 3))
    assert list(read_file(str(tmp_path / "a.parquet"), "text", first)) == TEXTS[:2]
    with pytest.raises(DatasetError, match=r"a\.parquet: row 5: expected a string"):
        list(read_file(str(tmp_path / "a.parquet"), "text", rest))


def test_a_record_beyond_the_stated_size_is_refused_by_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a packed file, without unpacking more of it than that."""
    for module in (files, readers):
        monkeypatch.setattr(module, "LARGEST_RECORD", 1 << 12)
    rows = '{"text": "a"}\n{"text": "' + "b" * 5000 + '"}\n'
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    pq.write_table(pa.table({"text": ["a", "b" * 5000]}), tmp_path / "a.parquet")
    (tmp_path / "a.txt").write_text("b" * 5000)
    for name, place in (("a.jsonl.gz", "line 2: "), ("a.parquet", "row 2: "), ("a.txt", "")):
        with pytest.raises(DatasetError, match=rf"{name}: {place}expected a document of at most 0 MiB"):
            list(read_file(str(tmp_path / name), "text"))


@pytest.mark.parametrize(("suffix", "kind"), [(".zst", "zstd"), (".bz2", "bzip2"), (".xz", "xz")])
def test_a_cut_off_packed_file_is_named(tmp_path: Path, suffix: str, kind: str) -> None:
    data = json.dumps({"text": "".join(map(str, range(3000)))}).encode()
    packed = {".zst": zstd, ".bz2": bz2.compress, ".xz": lzma.compress}[suffix](data)
    path = tmp_path / f"cut.jsonl{suffix}"
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DatasetError, match=rf"cut\.jsonl{suffix}: expected a whole {kind} file"):
        list(read_file(str(path), "text"))


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n{"text": "b"}')
    assert list(read_file(str(path), "text")) == ["a", "b"]


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("first\n\nsecond", encoding="utf-8")
    assert list(read_file(str(path), "text")) == ["first\n\nsecond"]


def test_blank_lines_between_rows_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n\n   \n{"text": "b"}\n', encoding="utf-8")
    assert list(read_file(str(path), "text")) == ["a", "b"]


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
        list(read_file(str(path), "text"))
    for part in [str(path), *expected]:
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["gone.txt", "gone.jsonl", "gone.jsonl.gz", "gone.parquet"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match=rf"{name}: expected a readable file, found: .*[Nn]o such file"):
        list(read_file(str(tmp_path / name), "text"))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty file"), (b"ab\0c", "NUL byte"), (b"caf\xe9", "expected UTF-8")],
)
def test_a_bad_text_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"bad\.txt: .*{message}"):
        list(read_file(str(path), "text"))


def test_a_cut_off_gzip_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps({"text": "a" * 1000}).encode())[:-6])
    with pytest.raises(DatasetError, match=r"cut\.jsonl\.gz: expected a whole gzip file"):
        list(read_file(str(path), "text"))


def test_a_file_that_is_not_gzip_is_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "plain.jsonl.gz", [{"text": "a"}])
    with pytest.raises(DatasetError, match=r"plain\.jsonl\.gz: expected a whole gzip file"):
        list(read_file(str(path), "text"))


def test_parquet_errors_name_the_file_and_the_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", None]}), path)
    with pytest.raises(DatasetError, match=r"a\.parquet: row 2: expected a string.*NoneType"):
        list(read_file(str(path), "text"))
    with pytest.raises(DatasetError, match=r"a\.parquet: expected a column 'body', found \['text'\]"):
        list(read_file(str(path), "body"))
    path.write_bytes(b"not parquet at all, but long enough")
    with pytest.raises(DatasetError, match=r"a\.parquet: expected a parquet file"):
        list(read_file(str(path), "text"))


def test_a_damaged_parquet_file_gives_whole_texts_or_one_error(tmp_path: Path) -> None:
    path, rng = tmp_path / "a.parquet", np.random.default_rng(0)
    pq.write_table(pa.table({"text": [f"page {number}" for number in range(200)]}), path)
    whole, refused = path.read_bytes(), []
    for number in range(60):
        data = bytearray(whole)
        for place in rng.integers(len(data), size=3):
            data[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(data if number % 3 else data[: int(rng.integers(len(data)))])
        try:
            assert all(isinstance(text, str) for text in read_file(str(path), "text"))
        except DatasetError as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert all(said.startswith(str(path)) and "\n" not in said for said in refused)


def test_an_unknown_suffix_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"a\.csv: expected a name ending in \.txt, \.jsonl, .*packed"):
        file_format(str(tmp_path / "a.csv"))


def test_an_empty_source_file_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "__init__.py"
    path.touch()
    assert read_text(str(path)) == ""
