"""Small files of a checkpoint that no checksums cover: damaged, or at odds with each other or with the tensors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemo_demix.checkpoints.companions import check_companions
from nemo_demix.checkpoints.layouts import detect
from nemo_demix.checkpoints.metadata import read_metadata
from nemo_demix.errors import CheckpointError
from tests.merging.grids import HIDDEN, LAYERS, random_model, write_checkpoint


def graph(**values: Any) -> dict[str, Any]:
    """As fiddle writes a configuration: objects that refer to each other, their attributes as pairs."""

    def pairs(**items: Any) -> list[list[Any]]:
        return [[f"Attr(name='{name}')", value] for name, value in items.items()]

    def reference(key: str) -> dict[str, Any]:
        return {"type": "ref", "key": key}

    kind = [["Attr(name='fn_or_cls')", {"type": "pyref", "module": "nemo.collections.llm", "name": "GPTModel"}]]
    leaves = {name: {"type": "leaf", "value": value} for name, value in values.items()}
    objects = {
        "root": {"items": pairs(model=reference("model")), "metadata": reference("kind")},
        "model": {"items": pairs(config=reference("config")), "metadata": reference("kind")},
        "config": {"items": pairs(**leaves), "metadata": reference("kind")},
        "kind": {"items": kind},
    }
    return {"root": reference("root"), "objects": objects}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Two descriptions of its model that agree, and a tokenizer."""
    said = {"layernorm_epsilon": "1e-05", "attention_dropout": 0.0, "bias_dropout_fusion": True}
    root = write_checkpoint(tmp_path / "c", random_model(0), config=said)
    values = {"hidden_size": HIDDEN, "layernorm_epsilon": 1e-05, "attention_dropout": 0, "bias_dropout_fusion": True}
    (root / "context/io.json").write_text(json.dumps(graph(**values, not_in_the_yaml="a value")))
    (root / "context/tokenizer").mkdir()
    (root / "context/tokenizer/tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    (root / "context/tokenizer/chat_template.jinja").write_text("{% if %}")
    return root


def check(root: Path) -> None:
    layout = detect(root)
    check_companions(layout, read_metadata(layout.weights).tensors)


def replaced(file: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / file).read_text()
        assert old in text
        (root / file).write_text(text.replace(old, new, 1))

    return change


def test_a_whole_checkpoint_is_taken(checkpoint: Path) -> None:
    check(checkpoint)
    (checkpoint / "context/io.json").write_text("{}")  # no graph says nothing
    check(checkpoint)
    metadata = checkpoint / "weights/metadata.json"
    metadata.write_text(json.dumps({**json.loads(metadata.read_text()), "of_a_later_release": [1]}))
    check(checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replaced("context/tokenizer/tokenizer.json", "}}}", "}}"), r"tokenizer\.json: expected JSON.*copy"),
        (replaced("context/io.json", '"root"', '"root" '[1:]), r"io\.json: expected JSON"),
        (replaced("context/model.yaml", "config:", "config: ["), r"model\.yaml: expected YAML"),
        (replaced("context/model.yaml", "true", "false"), "bias_dropout_fusion is True in io.json, False in model"),
        (replaced("context/model.yaml", "1e-05", "1e-01"), "layernorm_epsilon is 1e-05 in io.json, '1e-01' in model"),
        (replaced("context/model.yaml", "1e-05", "1g-05"), "layernorm_epsilon is 1e-05 in io.json, '1g-05' in model"),
        (replaced("context/io.json", f'"value": {HIDDEN}', '"value": 36'), "hidden_size is 36 in io.json, 32 in model"),
        (
            replaced("context/model.yaml", f"num_layers: {LAYERS}", "num_layers: 3"),
            "num_layers is 3 in its configuration, but its tensors are of 2",
        ),
        (replaced("weights/metadata.json", "_version", "_vershon"), "'sharded_backend_vershon', expected sharded_"),
        (replaced("weights/metadata.json", ": 1", ': "1"'), "sharded_backend_version: expected a number, found '1'"),
    ],
)
def test_what_is_damaged_or_contradicts_is_refused(
    checkpoint: Path, change: Callable[[Path], None], message: str
) -> None:
    change(checkpoint)
    with pytest.raises(CheckpointError, match=message):
        check(checkpoint)


def test_the_width_is_that_of_the_embedding(checkpoint: Path) -> None:
    (checkpoint / "context/io.json").unlink()
    replaced("context/model.yaml", f"hidden_size: {HIDDEN}", "hidden_size: 48")(checkpoint)
    with pytest.raises(CheckpointError, match=r"hidden_size is 48 in its configuration, but .* is 32 wide"):
        check(checkpoint)
