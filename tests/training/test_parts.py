"""Components that repeat text as often as the final run will."""

from dataclasses import replace

import pytest

from nemo_demix.config import DemixConfig
from nemo_demix.prepared import PreparedRun
from nemo_demix.search.search import component_epochs
from nemo_demix.training.jobs import blend_paths
from tests.test_recipes import composed
from tests.training.test_retraining import manifest_of


@pytest.fixture(scope="module")
def repeating() -> DemixConfig:
    """Components of 16 tokens, a quarter of them general, where every dataset has 100."""
    config = composed("smoke", "train.seq_length=1", "components.num_tokens=16", "components.epochs=3")
    return config


def test_a_component_is_shown_what_its_epochs_take(repeating: DemixConfig) -> None:
    jobs = {job.name: job for job in PreparedRun(repeating, manifest_of(repeating)).components}
    shown = {name: part.num_tokens for name, part in jobs["code_1"].parts.items()}
    assert shown == {"general": 1, "code_1": 4}  # 4 and 12 tokens, three times
    assert {name: part.num_tokens for name, part in jobs["general"].parts.items()} == {"general": 5}
    assert jobs["code_1"].parts["general"] == jobs["math_1"].parts["general"]
    paths = blend_paths(jobs["code_1"].blend, manifest_of(repeating), "train", jobs["code_1"].parts)
    assert paths[1::2] == [jobs["code_1"].parts[name].prefix for name in jobs["code_1"].blend]
    assert blend_paths(jobs["code_1"].blend, manifest_of(repeating), "heldout", jobs["code_1"].parts)[1::2] == ["h"] * 2
    epochs = component_epochs(PreparedRun(repeating, manifest_of(repeating)))
    assert all(count >= 3 for count in epochs.values())


def test_what_is_shown_is_part_of_what_a_component_is(repeating: DemixConfig) -> None:
    def found(epochs: float | None, changed: str = "") -> dict[str, tuple[str, dict[str, str]]]:
        config = replace(repeating, components=replace(repeating.components, epochs=epochs))
        jobs = PreparedRun(config, manifest_of(config, changed)).components
        return {job.name: (job.fingerprint, {name: part.prefix for name, part in job.parts.items()}) for job in jobs}

    whole, thrice, often, other = found(None), found(3), found(4), found(3, changed="code_1")
    assert found(0.01) == whole  # all of a dataset is less than a hundredth of an epoch takes
    assert whole["code_1"][1] == {}
    assert len({one["code_1"][0] for one in (whole, thrice, often, other)}) == 4
    assert len({one["code_1"][1]["code_1"] for one in (thrice, other)}) == 2  # Megatron meets no old name
    assert thrice["math_1"] == other["math_1"]


def test_only_components_repeat(repeating: DemixConfig) -> None:
    (job,) = PreparedRun(repeating, manifest_of(repeating)).references({"one": {"code_1": 1.0}}, {"one": 0})
    assert job.parts == {}
