"""Every parser of small files: any bytes give a result or one DemixError of one line, soon, and no code runs.

Bytes are a true file of the parser's, with some of them changed, cut, put in or repeated. Parsers of `.metadata` and of
tables of scores have tests of their own, in tests/checkpoints/test_hostile.py and tests/scoring/test_imported.py.
"""

import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from nemo_demix.artifacts import read_json_lines
from nemo_demix.config.recorded import recorded_place
from nemo_demix.datasets.benchmarks import _user_items
from nemo_demix.datasets.readers import read_file
from nemo_demix.errors import CheckpointError, DemixError, found_by, one_line
from nemo_demix.runtime.generation import read_generation
from nemo_demix.search.score_log import ProxyIdentity, ScoreLog
from nemo_demix.stages.convert import _hf_json, _indexed, _tensors
from tests.hostile_inputs import READERS, _yaml

ROW = b'{"text": "A page about a river."}\n'
SCORED = (
    b'{"name": "p", "proxy": "merge", "merge": "2", "merge_weights": {"a": 1.0}, "components": {"a": "1"}, '
    b'"groups": {"s": "3"}, "fingerprint": "x", "status": "OK", '
    b'"scores": {"s": {"score": 1.5, "higher_is_better": false}}}\n'
)
ITEM = b'{"id": "1", "context": "a", "gold": " b", "choices": [" b", " c"]}\n'


def _hydra(path: Path) -> Any:
    path.parent.joinpath("logs/hydra/.hydra").mkdir(parents=True, exist_ok=True)
    path.replace(path.parent / "logs/hydra/.hydra/hydra.yaml")
    return recorded_place(path.parent)


def _generation(path: Path) -> Any:
    return read_generation(path.parent, 8)


def _texts(path: Path) -> Any:
    return list(read_file(str(path), "text"))


# By what it is: the file's name, its true bytes, and what reads it.
PARSERS: dict[str, tuple[str, bytes, Callable[[Path], Any]]] = {
    "mixtures": ("m.json", b'{"m": {"a": 0.5, "b": 0.5}, "n": {"a": 1.0, "b": 0}}', READERS["mixtures"][1]),
    "another run's mixture": ("m.json", b'{"data_shares": {"a": 0.5, "b": 0.5}}', READERS["another run's mixture"][1]),
    "a record": ("record.json", b'{"role": "base", "name": "x", "checkpoint": "y"}', READERS["a record of a model"][1]),
    "JSON lines": ("a.jsonl", b'{"step": 1, "loss": [1, 2]}\n{"step": 2}\n', read_json_lines),
    "a log of scores": ("s.jsonl", SCORED, lambda path: _log(path)),
    "YAML": ("a.yaml", b"a: 1\nb: &b [1, 2]\nc: {x: 2001-01-01, y: *b}\n", _yaml),
    "Hydra's record": ("hydra.yaml", b"hydra:\n  runtime:\n    cwd: /nowhere\n", _hydra),
    "a Hugging Face configuration": ("config.json", b'{"model_type": "qwen3"}', _hf_json),
    "an index": ("index.json", b'{"weight_map": {"a": "x.safetensors"}}', _indexed),
    "how text is generated": ("generation_config.json", b'{"eos_token_id": [1, 2]}', _generation),
    "safetensors": ("model.safetensors", save({"a": torch.ones(3)}), lambda path: _tensors(path.parent, {})),
    "rows of text": ("a.jsonl", ROW * 2, _texts),
    "packed rows": ("a.jsonl.gz", gzip.compress(ROW * 2, mtime=0), _texts),
    "items of a benchmark": ("a.jsonl", ITEM, lambda path: list(_user_items(path))),
}  # fmt: skip
PIECES = [
    *(b"{", b"}", b"[", b"]", b'"', b",", b":", b"\n", b"-", b"0", b"\r", b"\0", b"\xff", b"\\ud800", b"? ", b"- "),
    *(b"1e999", b"NaN", b"null", b"true", b".inf", b"0x", b"1:30", b"2001-13-45", b"&a ", b"*a", b"<<: ", b"!!set "),
    *(b"9" * 5000, b"[" * 5000, b'{"a":' * 3000, b"1" * 400, b"\xef\xbb\xbf", b"\x1b[2J", b"\xe2\x80\xae"),
]


def _log(path: Path) -> Any:
    return ScoreLog(path, ProxyIdentity("merge", {"a": "1"}, "2", {"s": "3"}, ("s",), uses_all=False)).rows()


@st.composite
def spoiled(draw: Any, true: bytes) -> bytes:
    """True bytes, of which some were changed."""
    data = bytearray(true)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        end = place + draw(st.integers(0, 12))
        match draw(st.sampled_from(["change", "cut", "insert", "repeat", "put in place"])):
            case "change":
                data[place : place + 1] = bytes([draw(st.integers(0, 255))])
            case "cut":
                del data[place:end]
            case "insert":
                data[place:place] = draw(st.sampled_from(PIECES))
            case "repeat":
                data[place:place] = data[place:end]
            case _:
                data[place:end] = draw(st.sampled_from(PIECES))
    return bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("parser", PARSERS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes_give_a_result_or_one_error(tmp_path: Path, parser: str, data: Any) -> None:
    name, true, read = PARSERS[parser]
    (tmp_path / name).write_bytes(data.draw(spoiled(true)))
    started = time.process_time()
    errors = list(found_by(lambda: read(tmp_path / name)))
    assert "\n" not in "".join(map(str, errors))
    assert time.process_time() - started < 10


@pytest.mark.parametrize("parser", PARSERS)
def test_the_true_bytes_are_read_or_refused_for_what_they_say(tmp_path: Path, parser: str) -> None:
    """So that what is changed above comes further than the first byte."""
    name, true, read = PARSERS[parser]
    (tmp_path / name).write_bytes(true)
    if parser == "a record":
        with pytest.raises(DemixError, match="expected the fields"):
            read(tmp_path / name)
    else:
        read(tmp_path / name)


@pytest.mark.parametrize("line", [b"[" * 5000, b'{"a":' * 5000, b'{"a": ' + b"9" * 5000 + b"}"])
def test_a_line_that_is_deep_or_has_thousands_of_digits_is_refused(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(SCORED + line + b"\n")
    for read in (read_json_lines, _log):
        with pytest.raises(DemixError, match=r"nested too deeply|4300"):
            read(path)


@pytest.mark.parametrize(
    "value", [3, "a", [], {}, [1], {"w": 3}, {"w": None}, {"w": ["a"]}, {"w": "../a"}, {"w": "/a"}, {"w": "a\0"}]
)
def test_an_index_of_weights_names_files_beside_it(tmp_path: Path, value: Any) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": value}))
    with pytest.raises(CheckpointError, match=r"index\.json: weight_map"):
        _indexed(tmp_path / "model.safetensors.index.json")


def test_a_folder_that_no_file_system_can_hold_is_gone(tmp_path: Path) -> None:
    (tmp_path / "hydra.yaml").write_text(f"hydra: {{runtime: {{cwd: /{'x' * 5000}}}}}")
    assert _hydra(tmp_path / "hydra.yaml") is None


def test_a_message_that_quotes_a_name_of_a_megabyte_can_be_read() -> None:
    said = one_line(f"m.json: unknown name {'x' * 1_000_000!r}; expected one of a, b\nand no more")
    assert len(said) < 2100
    assert said.startswith("m.json: unknown name 'xxx")
    assert said.endswith("x'; expected one of a, b and no more")
    assert "characters left out]" in said
