"""A Hugging Face folder of each family that has a recipe: imported, trained from, merged and exported again."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bridge import Bridge, needs_bridge
from tests.helpers import run_program

FAMILIES = {  # of tests/programs/families.py
    "nemo": ("llama3", "llama31", "qwen3", "qwen3_moe"),
    "bridge": ("llama3", "llama31", "qwen3", "qwen3_moe"),
}
Found = tuple[Path, dict[str, dict[str, Any]]]  # where the folders are, and what the program says of them


@pytest.fixture(scope="module")
def by_nemo(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("nemo")
    return folder, run_program("families", "nemo", str(folder), *FAMILIES["nemo"])


@pytest.fixture(scope="module")
def by_bridge(tmp_path_factory: pytest.TempPathFactory, bridge: Bridge) -> Found:
    folder = tmp_path_factory.mktemp("bridge")
    return folder, bridge.run_program("families", "bridge", str(folder), *FAMILIES["bridge"])


@pytest.fixture
def found(request: pytest.FixtureRequest, backend: str) -> Found:
    return request.getfixturevalue(f"by_{backend}")  # type: ignore[no-any-return]


def of_each(**of: str) -> Any:
    """Cases of a test by back end: its families, or the one that is given."""
    cases = [(backend, family) for backend, all_ in FAMILIES.items() for family in ([of[backend]] if of else all_)]
    marked = [pytest.param(*case, marks=needs_bridge if case[0] == "bridge" else ()) for case in cases]
    return pytest.mark.parametrize(("backend", "family"), marked)


@pytest.mark.slow
@of_each()
def test_logits_are_the_same_on_both_sides(found: Found, backend: str, family: str) -> None:
    row = found[1][family]
    assert row["size"] > 0.1, "the comparison would mean little"
    assert row["imported"] <= 1e-4, "transformers' model and what it was imported as"
    assert row["trained"] > 1e-3
    assert row["changed"] > 1e-2, "training changed nothing that is seen here"
    assert row["exported"] <= 1e-4, "the merged model and what it was exported as"


@of_each()
def test_what_the_folder_said_of_itself_is_there_again(found: Found, backend: str, family: str) -> None:
    folder = found[0]
    before, after = (json.loads((folder / family / name / "config.json").read_text()) for name in ("hf", "hf_merged"))
    # What the recipe, the run and the exporter say; none of it changes what the model computes.
    lost = {"initializer_range", "max_position_embeddings", "max_window_layers", "transformers_version"}
    different = {key for key in before if before[key] != after.get(key)} - lost
    assert not different, {key: (before[key], after.get(key)) for key in different}
    generation = json.loads((folder / family / "hf_merged/generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["temperature"]) == ([1, 2], 0.6)


@of_each(nemo="llama3", bridge="llama3")
def test_a_tokenizer_that_the_checkpoint_lost_is_taken_from_the_recipe(found: Found, backend: str, family: str) -> None:
    one, other = (found[0] / family / name for name in ("hf_merged", "hf_without_tokenizer"))
    for name in ("model.safetensors", "tokenizer.json", "generation_config.json", "config.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@of_each(nemo="llama31", bridge="qwen3")
def test_what_was_only_imported_is_exported_as_it_was(found: Found, backend: str, family: str) -> None:
    one, other = (found[0] / family / name for name in ("hf", "hf_again"))
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    for name in ("config.json", "generation_config.json"):
        before, after = (json.loads((path / name).read_text()) for path in (one, other))
        different = {key for key in {**before, **after} if before.get(key) != after.get(key)}
        assert different <= {"initializer_range"}, different


@needs_bridge
@pytest.mark.parametrize(
    ("folder", "said"),
    {
        "code": "imported",
        "unknown": "architectures: SomeoneElsesForCausalLM, which Megatron-Bridge does not convert; expected one of ",
        "silent": "architectures: none, which",
        "other_size": "layernorm_epsilon is 0.001, the recipe's 1e-06. Use the recipe of this model",
        "window": "layer_types are sliding_attention there, full_attention after it: ",
        "bias": "attention_bias is True there, False after it: ",
        "positions": "rope_scaling.factor is 2.0 there, None after it",
        "missing": "the first is model.norm.weight, which the folder lacks",
        "short": "model.layers.0.mlp.up_proj.weight makes a tensor of shape (190, 64); expected (192, 64)",
    }.items(),
)
def test_an_odd_folder_is_refused_in_one_line_and_runs_no_code(by_bridge: Found, folder: str, said: str) -> None:
    place, told = by_bridge
    assert said in told["odd"][folder]
    assert "\n" not in told["odd"][folder]
    assert not (place / "odd/trace").exists()
