"""At which tokens text ends: read from a stranger's file, and kept."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from nemo_demix.errors import CheckpointError
from nemo_demix.runtime.generation import FILE, read_generation


def write(folder: Path, content: Any) -> Path:
    (folder / FILE).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_all_ends_and_how_to_sample_are_kept(tmp_path: Path) -> None:
    found = read_generation(write(tmp_path, {"eos_token_id": [5, 7], "do_sample": True, "temperature": 0.6}), 8)
    assert (found.eos_token_id, found.temperature) == ([5, 7], 0.6)
    found.save_pretrained(tmp_path / "again")
    assert read_generation(tmp_path / "again", 8).eos_token_id == [5, 7]


def test_a_model_without_the_file_may_say_it_in_its_config(tmp_path: Path) -> None:
    assert read_generation(tmp_path, 8, {"eos_token_id": [5, 7], "bos_token_id": 1}).eos_token_id == [5, 7]
    assert read_generation(tmp_path, 8, {"eos_token_id": 5}) is None
    assert read_generation(Path("Qwen/Qwen3-8B"), 8) is None, "a name on the hub is no folder"


def test_what_transformers_would_not_write_loses_all_but_its_ids(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = read_generation(write(tmp_path, {"eos_token_id": [5, 7], "do_sample": False, "temperature": 0.6}), 8)
    assert (found.eos_token_id, found.temperature) == ([5, 7], 1.0)
    assert "its token ids alone are kept" in caplog.text
    found.save_pretrained(tmp_path / "again")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "expected a JSON object, found list"),
        ('{"eos_token_id": 1, "eos_token_id": 2}', "twice"),
        ("{", "expected JSON"),
        ({"eos_token_id": [1, 8]}, "eos_token_id: expected numbers of tokens below 8, .* found 8"),
        ({"pad_token_id": -1}, "pad_token_id: .*found -1"),
        ({"bos_token_id": True}, "bos_token_id: .*found True"),
        ({"eos_token_id": ["</s>"]}, "eos_token_id: .*found '</s>'"),
        ({"eos_token_id": {"a": 1}}, "eos_token_id: .*found"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_generation(write(tmp_path, content), 8)


def test_a_link_leads_out_of_a_folder_but_not_of_a_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "model/context/tokenizer"
    folder.mkdir(parents=True)
    (tmp_path / "blob").write_text('{"eos_token_id": [5, 7]}')
    (folder / FILE).symlink_to(tmp_path / "blob")
    assert read_generation(folder, 8).eos_token_id == [5, 7]
    with pytest.raises(CheckpointError, match="outside of the checkpoint"):
        read_generation(folder, 8, root=tmp_path / "model")
    (folder / FILE).unlink()
    os.mkfifo(folder / FILE)
    with pytest.raises(CheckpointError, match="is no file but a pipe"):
        read_generation(folder, 8)
