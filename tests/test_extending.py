"""docs/extending.md followed to the letter: its examples, registered as it says, pass the contract of their kind."""

import json
import re
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nemo_demix.checkpoints import layouts
from nemo_demix.config import BenchmarkConfig
from nemo_demix.datasets.benchmarks import BENCHMARKS, read_items, write_benchmark
from nemo_demix.merging.methods import METHODS
from nemo_demix.prediction.predictors import PREDICTORS
from nemo_demix.search.strategies import STRATEGIES
from tests.checkpoints import test_layout_contract
from tests.helpers import REPOSITORY
from tests.merging import oracles, test_methods
from tests.prediction import test_contract
from tests.search import test_strategies

EXAMPLES = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs/extending.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The example that has a name in it, as a module that can be imported."""
    (source,) = [example for example in EXAMPLES if request.param in example]
    found = types.ModuleType("extending_example")
    found.__dict__["np"] = np
    monkeypatch.setitem(sys.modules, found.__name__, found)
    exec(compile(source, "docs/extending.md", "exec"), found.__dict__)
    return found


def with_example(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("module", [name], indirect=True)


@with_example("class Sharpened")
def test_the_merge_method_is_one(module: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    (source,) = [example for example in EXAMPLES if "def sharpened(" in example]
    exec(source, module.__dict__)
    monkeypatch.setitem(METHODS, "sharpened", module.Sharpened)
    monkeypatch.setitem(oracles.ORACLES, "sharpened", module.sharpened)
    test_methods.test_every_method_has_an_oracle_and_says_what_it_is("sharpened")
    test_methods.test_agrees_with_the_float64_oracle("sharpened", {"power": 2}, 9, 37)
    test_methods.test_bits_do_not_depend_on_where_blocks_are_cut("sharpened", {}, (4, 5))
    test_methods.test_the_same_call_gives_the_same_bits("sharpened")
    test_methods.test_the_order_of_components_is_only_rounding("sharpened", {})
    test_methods.test_identical_components_give_that_component("sharpened")
    test_methods.test_a_one_hot_mixture_gives_that_component("sharpened")
    test_methods.test_negative_weights_agree_with_the_oracle_are_finite_on_the_sphere_or_refused("sharpened")


@with_example("class OneShot(")
def test_the_strategy_is_one(module: types.ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(STRATEGIES, "one_shot", module.OneShot)
    settings = replace(test_strategies.SETTINGS["demix"], strategy="one_shot")
    monkeypatch.setitem(test_strategies.SETTINGS, "one_shot", settings)
    test_strategies.test_what_it_says_of_itself_goes_together("one_shot")
    for number, test in enumerate(
        (
            test_strategies.test_it_asks_for_what_it_says_and_ends_on_the_simplex,
            test_strategies.test_constraints_hold_for_what_it_asks_and_what_it_ends_with,
        )
    ):
        (tmp_path / str(number)).mkdir()
        test(settings, tmp_path / str(number))


@with_example("KERNEL = Kind(")
def test_the_predictor_is_one(module: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PREDICTORS, "kernel", module.KERNEL)
    test_contract.test_a_finite_mean_and_standard_deviation_for_every_row_and_benchmark("kernel")
    test_contract.test_the_order_of_rows_and_benchmarks_does_not_matter("kernel")
    test_contract.test_it_learns_a_smooth_function_of_either_direction("kernel", -1)
    test_contract.test_the_unit_of_a_score_does_not_change_what_is_learnt("kernel")
    test_contract.test_predictions_of_a_fold_do_not_hang_on_its_scores("kernel")


@with_example("OPENBOOKQA = ")
def test_the_benchmark_is_one(module: types.ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(BENCHMARKS, "openbookqa", module.OPENBOOKQA)
    record = write_benchmark("mine", BenchmarkConfig(capability="general", registry="openbookqa"), tmp_path)
    items = list(read_items(Path(record.path)))
    assert record.num_items == len(items) == 500
    assert len({one["id"] for one in items}) == 500
    assert all(one["choices"][one["gold_index"]] == one["gold"] for one in items)


@with_example("class Sized(")
def test_the_layout_is_one(module: types.ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (source,) = [example for example in EXAMPLES if "def _sized(" in example]
    module.__dict__.update(shutil=shutil, json=json, CONFIG=test_layout_contract.CONFIG)
    exec(source, module.__dict__)
    monkeypatch.setattr(layouts, "LAYOUTS", (module.Sized, *layouts.LAYOUTS))
    monkeypatch.setitem(test_layout_contract.MAKERS, "sized", module._sized)
    pairs = test_layout_contract.make_pairs(tmp_path)
    test_layout_contract.test_every_layout_has_a_name_of_its_own()
    test_layout_contract.test_it_says_what_its_model_is_or_that_it_does_not_know(pairs, module.Sized)
    test_layout_contract.test_a_merge_is_of_the_same_layout_and_has_its_companions(pairs, module.Sized, tmp_path)
    for layout in layouts.LAYOUTS:
        with monkeypatch.context() as inner:
            test_layout_contract.test_its_checkpoint_is_found_whichever_way_the_registry_is_asked(pairs, layout, inner)
