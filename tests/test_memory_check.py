"""What does not fit is refused where the GPU is seen, and warned of where none is; NeMo's own recipes are read."""

from dataclasses import replace
from pathlib import Path

import pytest

from nemo_demix import memory_check
from nemo_demix.config import DemixConfig, ModelConfig, ParallelConfig
from nemo_demix.memory_check import judge_memory
from nemo_demix.model_shape import ModelShape
from nemo_demix.runtime.recipe import recipe_shape
from tests.test_recipes import composed, data_root

__all__ = ["data_root"]  # a fixture: recipes read DEMIX_DATA
H100_GIB = 79.6


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def llama(tmp_path: Path) -> DemixConfig:
    return composed("llama3_8b", f"runs_dir={tmp_path}")


def test_what_fits_is_listed_in_parts(llama: DemixConfig) -> None:
    verdict = judge_memory(llama, llama, H100_GIB, 1000.0)
    assert (verdict.problems, verdict.warnings) == ([], [])
    training = verdict.used["memory of a rank, training"]
    assert training.startswith("47.8 GiB = weights 7.5 + gradients 15.0 + optimizer 1.4 + activations 17.0 + logits")
    assert "components 52.4" in verdict.used["memory of a rank, search"]


def test_second_moments_are_held_beside_the_components_in_their_precision(llama: DemixConfig) -> None:
    llama.merge.method = "fisher"
    assert "components 104.7" in judge_memory(llama, llama, 2 * H100_GIB, 1000.0).used["memory of a rank, search"]
    llama.merge.method = "ties"  # seven differences and the base, in fp32
    assert "components 119.7" in judge_memory(llama, llama, 2 * H100_GIB, 1000.0).used["memory of a rank, search"]


def test_what_does_not_fit_the_gpu_is_a_problem_and_without_one_a_warning(llama: DemixConfig) -> None:
    wide = replace(llama, parallel=ParallelConfig(data=64, nodes=8))
    seen = judge_memory(wide, llama, H100_GIB, 1000.0)
    assert len(seen.problems) == 1
    assert seen.problems[0].startswith("training needs about 90.1 GiB of each GPU's 79.6 (90.1 GiB = weights 15.0")
    assert "raise parallel.tensor" in seen.problems[0]
    unseen = judge_memory(wide, llama, None, 1000.0)
    assert unseen.problems == []
    assert unseen.warnings[0].startswith("no GPU is seen here, and where one has 80 GiB, training needs about 90.1")


def test_the_search_is_held_against_its_own_layout(llama: DemixConfig) -> None:
    wide = replace(llama, parallel=ParallelConfig(data=8))
    problem = judge_memory(llama, wide, H100_GIB, 1000.0).problems[0]
    assert problem.startswith("search needs about 138.1 GiB of each GPU's 79.6")
    assert "launch.jobs.search.overrides" in problem
    own = replace(llama, search=replace(llama.search, tensor=1))
    assert judge_memory(own, own, H100_GIB, 1000.0).problems == [problem]


def test_a_search_without_merges_needs_no_components(llama: DemixConfig) -> None:
    llama.search.strategy = "proportional"
    assert list(judge_memory(llama, llama, H100_GIB, 1000.0).used) == ["memory of a rank, training"]


def test_on_a_cpu_ranks_share_the_machines_memory(tmp_path: Path) -> None:
    quickstart = composed("quickstart", f"runs_dir={tmp_path}")
    assert judge_memory(quickstart, quickstart, None, 8.0).warnings == []
    assert (
        judge_memory(quickstart, quickstart, None, 1.0).warnings[0].startswith("training: 2 rank(s) need about 2.1 GiB")
    )


def test_a_model_that_cannot_be_made_or_divided_is_a_problem(llama: DemixConfig) -> None:
    odd = replace(llama, parallel=ParallelConfig(tensor=3))
    assert judge_memory(odd, odd, H100_GIB, 1000.0).problems[0].startswith("parallel.tensor=3: expected a divisor")
    llama.model.overrides = {"model": {"config": {"hiden_size": 8}}}
    assert "model.overrides.model.config.hiden_size" in judge_memory(llama, llama, H100_GIB, 1000.0).problems[0]
    llama.model.overrides, llama.model.recipe = {}, "nemo.collections.llm.recipes.nemotronh_8b.pretrain_recipe"
    assert "Hybrids with Mamba layers are not supported" in judge_memory(llama, llama, H100_GIB, 1000.0).problems[0]


def test_texts_longer_than_the_model_reads_are_refused_or_warned_of(
    llama: DemixConfig, caplog: pytest.LogCaptureFixture
) -> None:
    llama.suite.max_length = 2 * llama.train.seq_length
    assert judge_memory(llama, llama, H100_GIB, 1000.0).problems == []
    assert "suite.max_length=16384 is beyond train.seq_length=8192" in caplog.text
    gpt = ModelConfig("nemo.collections.llm.recipes.gpt3_175b.pretrain_recipe", vocab_size=51200)
    learned = replace(llama, model=gpt)
    problem = judge_memory(learned, learned, H100_GIB, 1000.0).problems[0]
    assert "suite.max_length=16384: the model has learned positions for 8192 tokens" in problem


def test_nemo_is_asked_once_for_a_model_and_again_for_another(
    llama: DemixConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def counted(config: DemixConfig, vocab_size: int | None) -> ModelShape | None:
        asked.append(config.model.overrides)
        return recipe_shape(config, vocab_size)

    monkeypatch.setattr(memory_check, "recipe_shape", counted)
    first = judge_memory(llama, llama, H100_GIB, 1000.0)
    assert len(asked) == 1
    assert judge_memory(llama, llama, H100_GIB, 1000.0) == first
    assert len(asked) == 1
    smaller = replace(llama, model=replace(llama.model, overrides={"model": {"config": {"num_layers": 16}}}))
    assert judge_memory(smaller, smaller, H100_GIB, 1000.0) != first
    assert len(asked) == 2


def test_what_is_remembered_is_still_held_against_the_layout(llama: DemixConfig) -> None:
    judge_memory(llama, llama, H100_GIB, 1000.0)
    odd = replace(llama, parallel=ParallelConfig(tensor=3))
    assert "parallel.tensor=3" in judge_memory(odd, odd, H100_GIB, 1000.0).problems[0]
