import os
from pathlib import Path

import pytest

from nemo_demix.config import DatasetConfig, SourceConfig
from nemo_demix.datasets import sources
from nemo_demix.datasets.files import identity
from nemo_demix.datasets.inputs import Inputs
from nemo_demix.datasets.sources import dataset_identity, dataset_units, is_megatron
from nemo_demix.errors import ConfigError, DatasetError
from tests.datasets.helpers import write_texts


def documents(*given: SourceConfig) -> list[str]:
    dataset = DatasetConfig(capability="code", sources=list(given))
    return [text for unit in dataset_units(dataset, "datasets.d") for text in unit.documents()]


def test_a_glob_reads_its_files_in_sorted_order(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        write_texts(tmp_path / f"{name}.jsonl", [name])
    assert documents(SourceConfig(path=str(tmp_path / "*.jsonl"))) == ["a", "b", "c"]


def test_a_name_with_glob_characters_that_exists_is_that_file(tmp_path: Path) -> None:
    write_texts(tmp_path / "x[1].jsonl", ["literal"])
    assert documents(SourceConfig(path=str(tmp_path / "x[1].jsonl"))) == ["literal"]


def test_code_folders_are_read_by_suffix_and_to_any_depth(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.py").write_text("A = 1")
    (tmp_path / "sub" / "b.c").write_text("int b;")
    (tmp_path / "sub" / "c.md").write_text("no code")
    assert documents(SourceConfig(code=str(tmp_path), code_suffixes=[".py", ".c"])) == ["A = 1", "int b;"]


def test_many_small_files_become_several_units_and_lose_nothing(tmp_path: Path) -> None:
    for number in range(600):
        (tmp_path / f"{number:03}.txt").write_text(str(number))
    dataset = DatasetConfig(capability="general", sources=[SourceConfig(path=f"{tmp_path}/*.txt")])
    units = dataset_units(dataset, "d")
    assert len(units) == 3
    assert [text for unit in units for text in unit.documents()] == [str(number) for number in range(600)]


def test_a_large_file_is_shared_between_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_texts(tmp_path / "a.jsonl", [f"{number}" * 10 for number in range(100)])
    monkeypatch.setattr(sources, "_PART_BYTES", 500)
    units = dataset_units(DatasetConfig(capability="general", sources=[SourceConfig(path=str(path))]), "d")
    assert len(units) == -(-path.stat().st_size // 500)
    assert sum(unit.num_files for unit in units) == 1
    assert documents(SourceConfig(path=str(path))) == [f"{number}" * 10 for number in range(100)]


def test_an_address_is_read_by_fsspec(tmp_path: Path) -> None:
    """Globs, packed files, identity; one that no package here serves is named."""
    for name in ("b", "a"):
        write_texts(tmp_path / f"{name}.jsonl", [name])
    source = SourceConfig(path=f"file://{tmp_path}/*.jsonl")
    assert documents(source) == ["a", "b"]
    dataset = DatasetConfig(capability="general", sources=[source])
    first = dataset_identity(dataset, "d")
    assert first[0]["files"][0][:2] == [f"file://{tmp_path}/a.jsonl", 14]
    write_texts(tmp_path / "a.jsonl", ["changed"])
    assert dataset_identity(dataset, "d") != first
    for address, message in (
        (f"file://{tmp_path}/none*.jsonl", "no file matches"),
        (f"file://{tmp_path}/none.jsonl", "expected a file, found none"),
        ("nosuch://bucket/a.jsonl", "nosuch://bucket/a.jsonl: expected an address that fsspec knows"),
    ):
        with pytest.raises(DatasetError, match=message):
            documents(SourceConfig(path=address))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (SourceConfig(), r"sources\[0\]: expected exactly one of registry, path, code, megatron, found none"),
        (SourceConfig(path="a", code="b"), r"found \['path', 'code'\]"),
        (SourceConfig(path="a", heldout="b"), r"sources\[0\]\.heldout: it goes with megatron="),
    ],
)
def test_a_source_is_exactly_one_thing(source: SourceConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        is_megatron(DatasetConfig(capability="general", sources=[source]), "datasets.d")


def test_a_prefix_is_a_dataset_of_its_own() -> None:
    prefix = SourceConfig(megatron="p")
    with pytest.raises(ConfigError, match="must be the only source"):
        is_megatron(DatasetConfig(capability="general", sources=[prefix, SourceConfig(path="a")]), "d")
    with pytest.raises(ConfigError, match=r"d\.max_bytes: a megatron prefix is used whole"):
        is_megatron(DatasetConfig(capability="general", sources=[prefix], max_bytes=5), "d")
    with pytest.raises(ConfigError, match=r"d\.sources: expected at least one source"):
        is_megatron(DatasetConfig(capability="general"), "d")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("path", "nothing.txt", "expected a file, found none"),
        ("path", "no*.jsonl", "no file matches"),
        ("path", ".", "expected a file, found a folder"),
        ("path", "data.csv", "expected a name ending in"),
        ("code", "nowhere", "expected a folder, found none"),
        ("code", ".", "no file ends in"),
        ("registry", "wikipedia", "found 'wikipedia', expected one of: open_passages"),
    ],
)
def test_a_source_that_names_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.csv").write_text("a,b")
    with pytest.raises(DatasetError, match=message):
        documents(SourceConfig(**{key: value}))


def test_a_file_that_was_touched_or_copied_back_is_the_same_and_another_is_not(tmp_path: Path) -> None:
    path = write_texts(tmp_path / "a.jsonl", ["a"])
    dataset = DatasetConfig(capability="general", sources=[SourceConfig(path=str(path))])
    first = dataset_identity(dataset, "d", Inputs(tmp_path))
    assert dataset_identity(dataset, "d") == first
    Inputs(tmp_path).keep({str(path): identity(str(path))})
    os.utime(path, (1, 1))
    assert dataset_identity(dataset, "d", Inputs(tmp_path)) == first
    assert dataset_identity(dataset, "d") != first, "which a run that knows nothing of it has to take for another"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    assert dataset_identity(dataset, "d", Inputs(tmp_path)) == first
    path.write_bytes(content.replace(b"a", b"b"))  # as long as before
    other = dataset_identity(dataset, "d", Inputs(tmp_path))
    assert other != first
    Inputs(tmp_path).keep({str(path): identity(str(path))})
    os.utime(path, (2, 2))
    assert dataset_identity(dataset, "d", Inputs(tmp_path)) == other


def test_what_was_written_to_while_it_was_read_is_not_taken_down(tmp_path: Path) -> None:
    path = write_texts(tmp_path / "a.jsonl", ["a"])
    before = identity(str(path))
    os.utime(path, (1, 1))
    Inputs(tmp_path).keep({str(path): before})
    assert Inputs(tmp_path).identity(str(path)) == identity(str(path))
