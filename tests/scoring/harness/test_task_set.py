import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemo_demix.artifacts import canonical_json
from nemo_demix.config import SuiteConfig, TaskConfig
from nemo_demix.errors import ConfigError, DatasetError, ScoreError
from nemo_demix.scoring.harness import TaskSet, task_fingerprints
from tests.scoring.harness.toy import ToyLM, prepared, task_set, write_definitions

ADDED = ("bpb", "choice_prob")  # to what the harness gives
SINGLE = ("many", "few", "generate", "greedy", "rolling")


@pytest.fixture(scope="module")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_definitions(tmp_path_factory.mktemp("definitions"))


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`datasets` keeps what it reads; not in the home of whoever runs the tests."""
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


def suite_of(definitions: Path, *names: str, **settings: Any) -> SuiteConfig:
    tasks = {name: TaskConfig(task=str(definitions / f"{name}.yaml"), capability="general") for name in names}
    return SuiteConfig(tasks=tasks, **settings)


def simple_evaluate(definitions: Path, names: list[str], lm: ToyLM, **more: Any) -> dict[str, Any]:
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=False, include_path=str(definitions))
    found = lm_eval.simple_evaluate(lm, tasks=names, task_manager=manager, bootstrap_iters=100, **more)
    assert found is not None
    return found


def plain(value: Any) -> Any:
    from lm_eval.utils import handle_non_serializable

    return json.loads(json.dumps(value, default=handle_non_serializable))


def without_added(results: dict[str, Any]) -> dict[str, Any]:
    return {
        task: {name: value for name, value in rows.items() if not name.startswith(ADDED)}
        for task, rows in results.items()
    }


@pytest.mark.parametrize("names", [SINGLE, ("by_size", "rolling"), ("alike",)])
def test_results_are_those_of_simple_evaluate(
    definitions: Path, tmp_path: Path, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    lm = ToyLM()
    tasks = task_set(suite_of(definitions, *names, log_samples=True), tmp_path)
    ours = tasks.results(lm.answer(tasks.instances))
    theirs = plain(simple_evaluate(definitions, list(names), lm))
    assert without_added(ours.lm_eval["results"]) == theirs["results"]
    for part in ("versions", "n-shot", "n-samples", "group_subtasks"):
        assert ours.lm_eval[part] == theirs[part], part
    assert ours.lm_eval.get("groups", {}) == theirs.get("groups", {})
    assert set(ours.samples) == set(theirs["samples"])
    for name, rows in theirs["samples"].items():
        mine = plain(ours.samples[name])
        for row in mine:
            for added in ADDED:
                row.pop(added, None)
            row["metrics"] = [metric for metric in row["metrics"] if metric not in ADDED]
        assert mine == rows
    canonical_json(ours.lm_eval)


@pytest.mark.parametrize("name", ["many", "generate", "greedy", "rolling", "by_size", "alike"])
def test_a_score_is_the_weighted_mean_of_its_documents(definitions: Path, tmp_path: Path, name: str) -> None:
    tasks = task_set(suite_of(definitions, name), tmp_path)
    found = tasks.results(ToyLM().answer(tasks.instances))
    items = found.items[name]
    expected = found.lm_eval["results"][name][f"{items.metric},{items.filter}"]
    assert np.average(items.values_I, weights=items.weights_I) == pytest.approx(expected, rel=1e-12)
    assert len(items.documents) == len(set(items.documents)) == len(items.values_I)
    assert items.unit == ("bits/byte" if name == "rolling" else "share")
    assert items.higher_is_better == (name != "rolling")


def test_gold_bits_are_of_the_right_answer_with_its_space(definitions: Path, tmp_path: Path) -> None:
    suite = suite_of(definitions, "few")
    suite.tasks["few"].metric = "bpb"
    tasks = task_set(suite, tmp_path)
    lm = ToyLM()
    found = tasks.results(lm.answer(tasks.instances))
    rows = [json.loads(line) for line in (definitions / "few.jsonl").read_text().splitlines()]
    by_question = {one.doc["question"]: [] for one in tasks.instances["loglikelihood"]}
    for one in tasks.instances["loglikelihood"]:
        by_question[one.doc["question"]].append(one)
    expected = []
    for row in rows:
        request = by_question[row["question"]][row["gold"]]
        answer = " " + row["choices"][row["gold"]]
        assert request.args[1] == answer
        expected.append(-lm.loglikelihood([request])[0][0] / math.log(2) / len(answer.encode()))
    assert found.items["few"].values_I == pytest.approx(expected, rel=1e-12)
    assert found.items["few"].chance is None
    assert found.lm_eval["higher_is_better"]["few"]["bpb"] is False


@pytest.mark.parametrize("name", ["few", "two_right"])
def test_the_right_choices_share_of_probability(definitions: Path, tmp_path: Path, name: str) -> None:
    suite = suite_of(definitions, name)
    suite.tasks[name].metric = "choice_prob"
    tasks = task_set(suite, tmp_path)
    lm = ToyLM()
    found = tasks.results(lm.answer(tasks.instances)).items[name]
    by_question: dict[str, list[float]] = {}
    for one in tasks.instances["loglikelihood"]:
        by_question.setdefault(one.doc["question"], []).append(math.exp(lm.loglikelihood([one])[0][0]))
    rows = [json.loads(line) for line in (definitions / "few.jsonl").read_text().splitlines()]
    expected, chance = [], []
    for row in rows:
        probabilities = by_question[row["question"]]
        right = {row["gold"], 0} if name == "two_right" else {row["gold"]}
        expected.append(sum(probabilities[place] for place in right) / sum(probabilities))
        chance.append(len(right) / len(row["choices"]))
    assert found.values_I == pytest.approx(expected, rel=1e-9)
    assert (found.unit, found.higher_is_better, found.chance) == ("share", True, pytest.approx(np.mean(chance)))


def test_chance_is_a_mean_over_documents(definitions: Path, tmp_path: Path) -> None:
    tasks = task_set(suite_of(definitions, "few", "generate"), tmp_path)
    items = tasks.results(ToyLM().answer(tasks.instances)).items
    rows = [json.loads(line) for line in (definitions / "few.jsonl").read_text().splitlines()]
    assert items["few"].chance == pytest.approx(np.mean([1 / len(row["choices"]) for row in rows]))
    assert items["generate"].chance == 0.0


def test_the_next_model_finds_nothing_of_the_last(definitions: Path, tmp_path: Path) -> None:
    suite = suite_of(definitions, *SINGLE, log_samples=True)
    tasks = task_set(suite, tmp_path)
    first = tasks.results(ToyLM(1).answer(tasks.instances))
    second = tasks.results(ToyLM(2).answer(tasks.instances))
    again = tasks.results(ToyLM(1).answer(tasks.instances))
    assert canonical_json(first.lm_eval) == canonical_json(again.lm_eval) != canonical_json(second.lm_eval)
    assert first.samples == again.samples


def test_every_rank_builds_the_same_requests(definitions: Path, tmp_path: Path) -> None:
    suite = suite_of(definitions, *SINGLE)
    manifest = prepared(suite, tmp_path)
    one, two = TaskSet.load(suite, manifest), TaskSet.load(suite, manifest)
    for kind, requests in one.instances.items():
        assert [request.args for request in requests] == [request.args for request in two.instances[kind]]
    assert len(one.instances["generate_until"]) == 3 * 12  # repeats


def test_a_limit_is_a_seeded_sample(definitions: Path, tmp_path: Path) -> None:
    def documents(seed: int) -> list[str]:
        suite = suite_of(definitions, "many", seed=seed)
        suite.tasks["many"].limit = 6
        tasks = task_set(suite, tmp_path)
        return tasks.results(ToyLM().answer(tasks.instances)).items["many"].documents

    first = documents(0)
    assert len(first) == 6
    assert first == documents(0) != documents(1)
    assert first != [f"many/{number}" for number in range(6)]


def test_a_sample_gives_what_simple_evaluate_gives_on_it(definitions: Path, tmp_path: Path) -> None:
    suite = suite_of(definitions, "greedy")
    suite.tasks["greedy"].limit = 5
    tasks = task_set(suite, tmp_path)
    found = tasks.results(ToyLM().answer(tasks.instances))
    chosen = [int(name.split("/")[1]) for name in found.items["greedy"].documents]
    theirs = plain(simple_evaluate(definitions, ["greedy"], ToyLM(), samples={"greedy": chosen}))
    assert found.lm_eval["results"]["greedy"]["acc,none"] == theirs["results"]["greedy"]["acc,none"]


def test_a_filter_can_be_named(definitions: Path, tmp_path: Path) -> None:
    suite = suite_of(definitions, "generate")
    suite.tasks["generate"].metric = "exact_match,vote"
    tasks = task_set(suite, tmp_path)
    found = tasks.results(ToyLM().answer(tasks.instances))
    assert found.items["generate"].filter == "vote"
    rows = found.lm_eval["results"]["generate"]
    assert found.items["generate"].values_I.mean() == pytest.approx(rows["exact_match,vote"])
    assert rows["exact_match,vote"] != rows["exact_match,first"]


def test_one_task_at_two_numbers_of_shots(definitions: Path, tmp_path: Path) -> None:
    suite = suite_of(definitions, "few")
    suite.tasks["unshot"] = replace(suite.tasks["few"], num_fewshot=0)
    tasks = task_set(suite, tmp_path)
    found = tasks.results(ToyLM().answer(tasks.instances))
    assert found.lm_eval["n-shot"] == {"few": 2, "unshot": 0}
    assert found.items["few"].values_I.shape == found.items["unshot"].values_I.shape


def test_two_groups_of_the_same_task_are_refused(definitions: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"suite\.tasks\.alike\.task: many, few.*suite\.tasks\.by_size has it too"):
        task_set(suite_of(definitions, "by_size", "alike"), tmp_path)


@pytest.mark.parametrize(
    ("name", "metric", "message"),
    [
        ("many", "acc_nrm", r"many\.metric: found 'acc_nrm', expected one of: acc,none; mcc,none; acc_norm,none"),
        (
            "many",
            "mcc",
            r"mcc is computed over all documents at once.*acc,none; acc_norm,none; bpb,none; choice_prob,none",
        ),
        ("greedy", "perplexity", r"perplexity is computed over all documents at once"),
        ("generate", "exact_match,last", r"expected one of: exact_match,first; exact_match,vote"),
        ("by_size", "acc_norm", r"expected one of: acc,none"),
    ],
)
def test_a_metric_that_cannot_be_the_score(
    definitions: Path, tmp_path: Path, name: str, metric: str, message: str
) -> None:
    suite = suite_of(definitions, name)
    suite.tasks[name].metric = metric
    with pytest.raises(ConfigError, match=message):
        task_set(suite, tmp_path)


def test_a_model_that_gives_no_number_is_named_with_its_task(definitions: Path, tmp_path: Path) -> None:
    tasks = task_set(suite_of(definitions, "few"), tmp_path)
    responses = ToyLM().answer(tasks.instances)
    responses["loglikelihood"][3] = (float("nan"), False)
    with pytest.raises(ScoreError, match=r"few: document .*log-likelihood of nan"):
        tasks.results(responses)
    with pytest.raises(ScoreError, match=r"loglikelihood: expected \d+ responses"):
        tasks.results({"loglikelihood": responses["loglikelihood"][1:]})


def test_uses_choose_tasks(definitions: Path, tmp_path: Path) -> None:
    suite = suite_of(definitions, "few", "greedy")
    suite.tasks["greedy"].use = "report"
    manifest = prepared(suite, tmp_path)
    assert TaskSet.load(suite, manifest, ("search", "fit")).keys == ["few"]
    assert TaskSet.load(suite, manifest).keys == ["few", "greedy"]
    assert TaskSet.load(suite, manifest, ("fit",)).instances == {}


def test_fingerprints_change_with_what_changes_a_score(definitions: Path, tmp_path: Path) -> None:
    suite = suite_of(definitions, "few")
    manifest = prepared(suite, tmp_path)
    before = task_fingerprints(suite, manifest)
    assert TaskSet.load(suite, manifest).fingerprints == before

    def after(**changes: Any) -> dict[str, str]:
        changed = replace(suite, tasks={"few": replace(suite.tasks["few"], **changes)})
        return task_fingerprints(changed, prepared(changed, tmp_path))

    assert after(capability="code", use="fit", weight=2.0) == before
    for change in ({"metric": "acc_norm"}, {"num_fewshot": 1}, {"limit": 4}, {"fewshot_seed": 5}):
        assert after(**change) != before, change
    records = {"few": replace(manifest.tasks["few"], sha256="other")}
    assert task_fingerprints(suite, replace(manifest, tasks=records)) != before


def test_documents_that_changed_or_were_not_prepared(definitions: Path, tmp_path: Path) -> None:
    suite = suite_of(definitions, "few")
    manifest = prepared(suite, tmp_path)
    with pytest.raises(DatasetError, match=r"suite\.tasks\.few: its documents are not prepared"):
        TaskSet.load(suite, replace(manifest, tasks={}))
    path = Path(manifest.tasks["few"].path)
    path.write_text(path.read_text().replace("number 39", "number 93"))
    with pytest.raises(DatasetError, match="not what `prepare` wrote any more"):
        TaskSet.load(suite, manifest)
    path.unlink()
    with pytest.raises(DatasetError, match="the documents of a task are not there"):
        TaskSet.load(suite, manifest)
