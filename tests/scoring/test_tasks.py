"""lm-evaluation-harness tasks on live models: a user's own and shipped ones, scored, searched over, in every layout."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemo_demix.config import load_resolved
from nemo_demix.config.overrides import stage_config
from nemo_demix.errors import DemixError
from nemo_demix.stages.prepare import prepare_stage
from tests.helpers import fork_run, run_cli, run_program

MODEL = "models/component/math_2/checkpoints/step_00000016"
DEFINITION = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {kind}
num_fewshot: 0
doc_to_text: "Q: {{{{question}}}}\\nA:"
{rest}
metadata: {{version: 1.0}}
"""
CHOICES = """doc_to_choice: "{{choices}}"
doc_to_target: "{{gold}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]"""
WRITING = """doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]"""


@pytest.fixture(scope="module")
def tasks(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run with tasks in its suite beside the benchmarks, prepared; and its command's arguments."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [
        {"question": f"What is {n} times {n}?", "choices": [str(n * n), str(n * n + 1), "none"], "gold": 0}
        for n in range(2, 42)
    ]
    data = folder / "squares.jsonl"
    data.write_text("".join(json.dumps({**row, "answer": row["choices"][0]}) + "\n" for row in rows))
    for name, kind, rest in (("squares", "multiple_choice", CHOICES), ("cubes", "generate_until", WRITING)):
        (folder / f"{name}.yaml").write_text(DEFINITION.format(name=name, kind=kind, rest=rest, data=data))
    recipe = folder / "tasks.yaml"
    recipe.write_text(
        "defaults: [smoke, _self_]\n"
        "search: {objective: percentile_rank}\n"
        "suite:\n"
        "  items_per_benchmark: 4\n"
        "  allow_code_execution: true\n"
        "  log_samples: true\n"
        "  tasks:\n"
        f"    squares: {{task: {folder / 'squares.yaml'}, capability: choice, metric: bpb, data: {data}}}\n"
        f"    cubes: {{task: {folder / 'cubes.yaml'}, capability: writing, data: {data}, limit: 9}}\n"
        "    programs: {task: demix_humaneval, capability: programs, use: report, limit: 3, "
        "generation: {max_gen_toks: 8}}\n"
    )
    runs = fork_run(smoke_run, folder / "runs", "models/final", "search", "final")
    command = ["--config-name", str(recipe), f"runs_dir={runs}"]
    run_cli("prepare", *command)
    run_cli("score", *command, f"score.checkpoint={runs / 'smoke' / MODEL}", "score.name=it")
    return runs / "smoke", command


@pytest.fixture(scope="module")
def live(tasks: tuple[Path, list[str]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What tests/programs/harness.py says of the run's model in two more layouts, at other batch sizes."""
    run, command = tasks
    definitions, store = Path(command[1]).parent, tmp_path_factory.mktemp("answers")
    return {
        "pipeline": run_program("harness", str(run), "1", "2", "1", "300", "kept", str(store), ranks=2),
        "data": run_program("harness", str(run), "1", "1", "2", "700", "peer", str(definitions), ranks=2),
    }


def record(run: Path) -> dict[str, Any]:
    return json.loads((run / "scores/it.json").read_text())


@pytest.mark.slow
def test_a_models_record_has_the_tasks_and_the_harness_its_own(tasks: tuple[Path, list[str]]) -> None:
    run, _ = tasks
    scores, harness = record(run)["scores"], json.loads((run / "scores/lm_eval/it.json").read_text())
    assert scores["task/squares"]["num_items"] == 40
    assert scores["task/squares"]["unit"] == "bits/byte"
    assert (scores["task/cubes"]["num_items"], scores["task/cubes"]["chance"]) == (9, 0.0)
    assert scores["task/programs"]["num_items"] == 3
    assert set(record(run)["capabilities"]) == {"general", "code", "math", "choice", "writing", "programs"}
    assert harness["results"]["squares"]["bpb,none"] == pytest.approx(scores["task/squares"]["score"])
    samples = (run / "scores/lm_eval/it/samples_cubes.jsonl").read_text().splitlines()
    assert len(samples) == 9
    assert all("exact_match" in json.loads(line) for line in samples)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["pipeline", "data"])
def test_every_layout_and_batch_size_gives_the_same_scores(
    tasks: tuple[Path, list[str]], live: dict[str, dict[str, Any]], layout: str
) -> None:
    for name, score in record(tasks[0])["scores"].items():
        assert live[layout]["scores"][name] == pytest.approx(score["score"], rel=1e-5), name


def test_lm_eval_alone_with_our_model_in_it_gives_the_same(live: dict[str, dict[str, Any]]) -> None:
    found = live["data"]
    assert found["peer"]["squares"]["acc,none"] == found["lm_eval"]["squares"]["acc,none"]
    assert np.isfinite(found["peer"]["cubes"]["exact_match,none"])


def test_kept_answers_are_asked_for_once_and_only_what_is_new_is_run(live: dict[str, dict[str, Any]]) -> None:
    found = live["pipeline"]
    assert found["fills"] == [1, 2, 2]  # models that were given their weights, after each call
    fewer, more, again = found["kept"]
    assert set(more) - set(fewer) == {"task/squares", *(name for name in more if name.startswith("heldout/"))}
    assert fewer.items() <= more.items()  # to the last digit
    assert again == more
    for name, score in found["scores"].items():
        assert more[name] == pytest.approx(score, rel=1e-5), name


@pytest.mark.slow
def test_proxies_are_searched_by_tasks(tasks: tuple[Path, list[str]]) -> None:
    run, command = tasks
    result = run_cli(
        "search", *command, "search.iterations=[12]", "search.pool_size=300", "search.select_top=8",
        "search.predictor.kind=ridge", "search.predictor.num_bootstrap=2", "search.num_refits=0",
    )  # fmt: skip
    rows = [json.loads(line) for line in (run / "search/scores.jsonl").read_text().splitlines()]
    assert len(rows) == 12
    for row in rows:
        assert {"task/squares", "task/cubes"} <= set(row["scores"])
        assert "task/programs" not in row["scores"]  # a report task is none of the search's business
        assert (run / f"search/lm_eval/{row['name']}.json").exists()
    assert len({row["scores"]["task/squares"]["score"] for row in rows}) == 12
    assert "task/cubes: no proxy is better or worse than guessing" in result.stderr
    assert set(json.loads((run / "search/mixture.json").read_text())["measured"]) >= {"choice", "programs"}


REFUSED = {
    "suite.tasks.cubes.capability=math": "capability math: benchmark/gsm8k is in bits/byte and task/cubes in share, "
    "which have no mean",
    "suite.tasks.cubes.metric=accuracy": "suite.tasks.cubes.metric: found 'accuracy', expected one of",
    "suite.tasks.cubes.task=demix_gsm9k": "demix_gsm8k",
    "suite.allow_code_execution=false": "suite.allow_code_execution=true",
    "+suite.tasks.cubes.generation.max_gen_toks=500": "suite.max_length is 128",
    "+suite.tasks.cubes.generation.num_beams=4": "generation_kwargs.num_beams=4 is not known here",
}


@pytest.mark.slow
def test_a_suite_that_cannot_be_scored_is_refused_before_anything_is_trained(
    tasks: tuple[Path, list[str]], tmp_path: Path
) -> None:
    run, command = tasks
    runs = fork_run(run, tmp_path, "models")
    override, said = next(iter(REFUSED.items()))
    assert said in run_cli("prepare", command[0], command[1], f"runs_dir={runs}", override, expect=2).stderr
    config = load_resolved(run / "config.yaml")
    config.runs_dir = str(runs)
    for override, said in REFUSED.items():
        config.launch.jobs.prepare.overrides = [override]
        with pytest.raises(DemixError, match=re.escape(said)):
            prepare_stage(stage_config(config, "prepare"))
