"""Records and fingerprints."""

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_demix.artifacts import canonical_json, fingerprint, is_done, load_record, parse_json, read_json, write_json
from nemo_demix.errors import DemixError


@dataclasses.dataclass(frozen=True)
class Thing:
    name: str
    size: float
    fingerprint: str


def test_a_record_comes_back_as_it_was_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    thing = Thing("a", 0.1 + 0.2, "f")
    write_json(tmp_path / "deep/thing.json", thing)
    assert load_record(tmp_path / "deep/thing.json", Thing) == thing
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["thing.json"]
    assert is_done(tmp_path / "deep/thing.json", "f")
    assert not is_done(tmp_path / "deep/thing.json", "g")
    assert not is_done(tmp_path / "absent.json", "f")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object(), b"bytes"])
def test_a_value_without_a_stable_identity_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        fingerprint(value=value)


def test_a_fingerprint_depends_on_values_not_on_order() -> None:
    assert fingerprint(a=1, b=[1, 2]) == fingerprint(b=(1, 2), a=1)
    assert fingerprint(a=1) != fingerprint(a=1.5)
    assert fingerprint(a=[1, 2]) != fingerprint(a=[2, 1])
    assert canonical_json({"b": 1, "a": None}) == '{"a":null,"b":1}'


@pytest.mark.parametrize(
    ("content", "expected"),
    [("{", "expected JSON"), ('{"name": "a"}', "expected the fields"), ("[1]", "expected the fields")],
)
def test_a_bad_record_names_its_file(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "thing.json"
    path.write_text(content)
    with pytest.raises(DemixError, match=f"{path}: {expected}"):
        load_record(path, Thing)
    with pytest.raises(DemixError, match="run the stage"):
        load_record(tmp_path / "absent.json", Thing)


def test_json_is_readable_text(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"é": Path("/a")})
    assert json.loads((tmp_path / "x.json").read_text()) == {"é": "/a"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"m": {"a": 1, "b": 2, "a": 3}}', "the key 'a' twice in one object"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"9" * 5_000, "4300"),
        (b"\xff\xfe{", "codec"),
        (b"", "Expecting value"),
    ],
)
def test_json_that_means_nothing_or_two_things(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "mixtures.json"
    path.write_bytes(content)
    with pytest.raises(DemixError, match=f"{path}: expected JSON, found: .*{expected}") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b'\xef\xbb\xbf{"a": {"b": 1}, "c": {"b": 1}}')
    assert read_json(tmp_path / "x.json") == {"a": {"b": 1}, "c": {"b": 1}}


@settings(max_examples=60)
@given(st.one_of(st.binary(max_size=60), st.text(alphabet='{}[]",:0e-\\ua', max_size=60).map(str.encode)))
def test_any_bytes_are_json_or_one_error(data: bytes) -> None:
    try:
        parse_json(data, Path("x.json"))
    except DemixError as error:
        found = str(error)
    else:
        found = "x.json: a value"
    assert found.startswith("x.json: ")
