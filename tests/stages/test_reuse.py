"""What a finished run keeps when a candidate dataset is added or dropped, or the suite changes."""

import json
from pathlib import Path
from typing import Any

import pytest

from nemo_demix.artifacts import DataManifest
from nemo_demix.prepared import PreparedRun
from nemo_demix.stages.prepare import prepare_stage
from tests.helpers import fork_run, run_cli
from tests.test_recipes import composed

SEVEN = ("general", "math_1", "math_2", "math_3", "code_1", "code_2", "code_3")
KEEP_TOKENIZER = f"tokenizer.datasets=[{','.join(SEVEN)}]"
QUICK = (
    "search.pool_size=500",
    "search.select_top=8",
    "search.num_refits=0",
    "search.predictor.kind=ridge",
    "search.predictor.num_bootstrap=2",
)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def trained(run: Path) -> dict[str, int]:
    """When each model was recorded."""
    return {path.parent.name: path.stat().st_mtime_ns for path in run.glob("models/*/*/record.json")}


@pytest.mark.slow
def test_an_added_dataset_trains_one_component_and_the_search_goes_on_from_the_old_proxies(
    smoke_run: Path, tmp_path: Path
) -> None:
    runs = fork_run(smoke_run, tmp_path, "models/final", "final")
    run = runs / "smoke"
    text = tmp_path / "extra.jsonl"
    text.write_text(
        "".join(json.dumps({"text": f"line {i}: the square of {i} is {i * i}. " * 8}) + "\n" for i in range(400))
    )
    recipe = ["--config-name", "smoke", f"runs_dir={runs}", KEEP_TOKENIZER]
    more = tmp_path / "more.yaml"
    more.write_text(
        "defaults: [smoke, override datasets: quickstart, _self_]\n"
        f"datasets: {{extra: {{capability: math, sources: [{{path: {text}}}]}}}}\n"
    )
    extra = ["--config-name", str(more), *recipe[2:]]
    models, manifest = trained(run), DataManifest.load(run / "datasets/manifest.json")
    old = lines(run / "search/scores.jsonl")
    before = (run / "search/mixture.json").read_bytes()

    run_cli("prepare", *extra)
    grown = DataManifest.load(run / "datasets/manifest.json")
    assert grown.tokenizer == manifest.tokenizer
    assert {name: record for name, record in grown.datasets.items() if name != "extra"} == manifest.datasets
    run_cli("train", *extra, "role=component")
    after = trained(run)
    assert after.pop("extra")
    assert after == models

    run_cli("search", *extra, "search.iterations=[8]", *QUICK)
    mixture = json.loads((run / "search/mixture.json").read_text())
    assert (mixture["num_prior"], mixture["num_proxies"]) == (28, 8)
    assert list(mixture["merge_weights"]) == [*SEVEN, "extra"]
    rows = lines(run / "search/scores.jsonl")
    assert rows[:28] == old
    assert len(rows) == 28 + 8
    assert all(json.loads(row)["merge_weights"]["extra"] > 0 for row in rows[28:])

    # Dropped again: every old proxy is found, none that holds the new component, and the mixture is the old one.
    prepare_stage(composed("smoke", *recipe[2:]))
    run_cli("search", *recipe)
    assert (run / "search/mixture.json").read_bytes() == before
    assert lines(run / "search/scores.jsonl") == rows

    # One that was there from the start goes: nothing is trained.
    fewer = composed("smoke", *recipe[2:], "~datasets.code_3")
    without = prepare_stage(fewer)
    assert all(job.is_done for job in PreparedRun(fewer, without).components)
    assert without.tokenizer == manifest.tokenizer


@pytest.mark.slow
def test_a_changed_suite_scores_again_and_trains_nothing(smoke_run: Path, tmp_path: Path) -> None:
    runs = fork_run(smoke_run, tmp_path, "models/final", "final")
    run = runs / "smoke"
    recipe = [f"runs_dir={runs}", "search.iterations=[16]", *QUICK]
    models, old = trained(run), lines(run / "search/scores.jsonl")

    def search(*overrides: str) -> dict[str, Any]:
        prepare_stage(composed("smoke", *overrides))
        run_cli("search", "--config-name", "smoke", *overrides)
        return json.loads((run / "search/mixture.json").read_text())

    mixture = search(*recipe, "suite.items_per_benchmark=6")
    rows = lines(run / "search/scores.jsonl")
    assert rows[:28] == old
    assert len(rows) == 28 + 16
    assert (mixture["num_prior"], mixture["num_proxies"]) == (0, 16)

    # A benchmark that is taken out leaves the other scores good: not one proxy is scored again.
    mixture = search(*recipe, "~suite.benchmarks.gsm8k")
    assert lines(run / "search/scores.jsonl") == rows
    assert (mixture["num_prior"], mixture["num_proxies"]) == (28, 16)

    # The same of one that judges: the search does not look at it, the chosen mixture is measured on nothing else there.
    mixture = search(*recipe, "suite.benchmarks.gsm8k.use=report")
    assert lines(run / "search/scores.jsonl") == rows
    assert mixture["measured"]["math"]["num_items"] == 8
    assert trained(run) == models
