"""A live model's probabilities and texts, in every layout and batch size, against its own plain forward pass."""

from pathlib import Path

import numpy as np
import pytest

from tests.helpers import run_program

LAYOUTS = {  # tensor, pipeline, data; tokens and rows of a batch
    "tensor": (2, 1, 1, 8192, 64),
    "pipeline": (1, 2, 1, 300, 4),
    "data": (1, 1, 2, 200, 3),
}


@pytest.fixture(scope="module")
def found(smoke_run: Path) -> dict[str, dict]:
    given = (str(smoke_run), "models/base/base/checkpoints/step_00000040")
    return {name: run_program("live_model", *given, *map(str, how), ranks=2) for name, how in LAYOUTS.items()}


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_shared_contexts_change_no_probability(found: dict[str, dict], layout: str) -> None:
    here, whole = found[layout], found["tensor"]
    assert here["can_share"]
    for shared in ("shared_false", "shared_true"):
        np.testing.assert_allclose(here[shared]["logprobs"], whole["whole_logprobs"], rtol=2e-6)
        assert here[shared]["greedy"] == whole["whole_greedy"]
    assert any(whole["whole_greedy"])
    assert here["shared_true"]["num_tokens"] < here["shared_false"]["num_tokens"] / 2


def test_the_cache_changes_no_text(found: dict[str, dict]) -> None:
    assert found["data"]["greedy"] == found["data"]["plain"]


@pytest.mark.parametrize("kind", ["greedy", "sampled", "stopped"])
def test_texts_do_not_depend_on_the_layout_or_the_batch(found: dict[str, dict], kind: str) -> None:
    assert found["tensor"][kind] == found["pipeline"][kind] == found["data"][kind]


def test_sampling_is_not_greedy_and_stops_end_texts(found: dict[str, dict]) -> None:
    here = found["data"]
    assert here["sampled"] != here["greedy"]
    assert here["stop"]
    for whole, cut, decoded in zip(here["sampled"], here["stopped"], here["stopped_text"], strict=True):
        assert cut == whole[: len(cut)]
        assert len(cut) == len(whole) or here["stop"] in decoded
    assert any(len(cut) < len(whole) for whole, cut in zip(here["sampled"], here["stopped"], strict=True))
