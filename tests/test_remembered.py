"""Answers in the user's cache: taken for the same question alone, and never in the way."""

from pathlib import Path

import pytest

from nemo_demix.errors import DemixError
from nemo_demix.remembered import cache_folder, remembered


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def never() -> int:
    raise AssertionError("asked again")


def test_an_answer_is_found_once_for_the_same_inputs() -> None:
    assert remembered("size", {"version": "1", "of": [1, 2]}, lambda: {"bytes": 3}) == {"bytes": 3}
    assert remembered("size", {"of": (1, 2), "version": "1"}, never) == {"bytes": 3}
    assert remembered("size", {"version": "2", "of": [1, 2]}, lambda: 4) == 4
    assert remembered("other", {"version": "1", "of": [1, 2]}, lambda: None) is None
    assert remembered("other", {"version": "1", "of": [1, 2]}, never) is None


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"inputs": {"a": 2}, "answer": 9}', '{"inputs": {"a": 1}}'])
def test_a_damaged_file_or_one_of_other_inputs_is_written_anew(damage: str) -> None:
    remembered("size", {"a": 1}, lambda: 5)
    (path,) = cache_folder().iterdir()
    path.write_text(damage)
    assert remembered("size", {"a": 1}, lambda: 6) == 6
    assert remembered("size", {"a": 1}, never) == 6


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "nemo-demix").write_text("a file where the folder would be")
    assert remembered("size", {"a": 1}, lambda: 1) == 1
    assert remembered("size", {"a": 1}, lambda: 2) == 2


def test_an_error_is_passed_on_and_not_kept() -> None:
    def fails() -> int:
        raise DemixError("no such recipe")

    with pytest.raises(DemixError):
        remembered("size", {"a": 1}, fails)
    assert remembered("size", {"a": 1}, lambda: 1) == 1
