"""A Hugging Face folder of each family that has a recipe: imported, trained from, merged and exported again."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import run_program

FAMILIES = ("llama3", "llama31", "qwen3", "qwen3_moe")  # of tests/programs/families.py


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, dict[str, Any]]:
    return run_program("families", str(folder), *FAMILIES)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_the_same_on_both_sides(found: dict[str, dict[str, Any]], family: str) -> None:
    row = found[family]
    assert row["size"] > 0.1, "the comparison would mean little"
    assert row["imported"] <= 1e-4, "transformers' model and what it was imported as"
    assert row["trained"] > 1e-3
    assert row["changed"] > 1e-2, "training changed nothing that is seen here"
    assert row["exported"] <= 1e-4, "the merged model and what it was exported as"


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_folder_said_of_itself_is_there_again(found: dict[str, Any], folder: Path, family: str) -> None:
    before, after = (json.loads((folder / family / name / "config.json").read_text()) for name in ("hf", "hf_merged"))
    # What the recipe, the run and the exporter say; none of it changes what the model computes.
    lost = {"initializer_range", "max_position_embeddings", "max_window_layers", "transformers_version"}
    different = {key for key in before if before[key] != after.get(key)} - lost
    assert not different, {key: (before[key], after.get(key)) for key in different}
    generation = json.loads((folder / family / "hf_merged/generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["temperature"]) == ([1, 2], 0.6)


def test_a_tokenizer_that_the_checkpoint_lost_is_taken_from_the_recipe(found: dict[str, Any], folder: Path) -> None:
    one, other = (folder / "llama3" / name for name in ("hf_merged", "hf_without_tokenizer"))
    for name in ("model.safetensors", "tokenizer.json", "generation_config.json", "config.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_what_was_only_imported_is_exported_as_it_was(found: dict[str, Any], folder: Path) -> None:
    one, other = (folder / "llama31" / name for name in ("hf", "hf_again"))
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    for name in ("config.json", "generation_config.json"):
        before, after = (json.loads((path / name).read_text()) for path in (one, other))
        different = {key for key in {**before, **after} if before.get(key) != after.get(key)}
        assert different <= {"initializer_range"}, different
