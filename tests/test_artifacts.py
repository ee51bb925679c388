"""Records and fingerprints."""

import dataclasses
import json
from pathlib import Path

import pytest

from nemo_demix.artifacts import canonical_json, fingerprint, is_done, load_record, write_json
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
