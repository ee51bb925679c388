import json
from pathlib import Path
from typing import Any

import pytest

from nemo_demix.artifacts import BenchmarkRecord
from nemo_demix.config import BenchmarkConfig
from nemo_demix.datasets.benchmarks import BENCHMARKS, read_items, write_benchmark
from nemo_demix.errors import ConfigError, DatasetError
from tests.datasets.helpers import write_rows

COUNTS = {
    **{"arc_easy": 2376, "hellaswag": 10042, "piqa": 1838, "siqa": 1954, "winogrande": 1267},
    **{"humaneval": 164, "mbpp": 500, "gsm8k": 1319, "math": 5000},
}
NUM_CHOICES = {"hellaswag": {4}, "piqa": {2}, "siqa": {3}, "arc_easy": {3, 4, 5}}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[BenchmarkRecord, list[dict[str, Any]]]]:
    folder = tmp_path_factory.mktemp("benchmarks")
    records = {
        name: write_benchmark(name, BenchmarkConfig(capability="general", registry=name), folder) for name in BENCHMARKS
    }
    return {name: (record, list(read_items(Path(record.path)))) for name, record in records.items()}


def test_the_nine_are_there() -> None:
    assert {name: one.num_items for name, one in BENCHMARKS.items() if name in COUNTS} == COUNTS


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_is_whole(written: dict[str, Any], name: str) -> None:
    record, items = written[name]
    assert record.num_items == len(items) == BENCHMARKS[name].num_items
    assert len({item["id"] for item in items}) == len(items)
    if name in COUNTS:
        assert {len(item["choices"]) for item in items} <= NUM_CHOICES.get(name, {0})
    for item in items:
        assert set(item) == {"id", "context", "gold", "choices", "gold_index"}
        assert item["context"].strip()
        assert item["gold"].strip()
        if item["choices"]:
            assert item["choices"][item["gold_index"]] == item["gold"]
            assert all(choice.startswith(" ") for choice in item["choices"])
        else:
            assert item["gold_index"] is None


def test_contexts_and_golds_are_formatted_as_the_harnesses_do(written: dict[str, Any]) -> None:
    first = {name: items[0] for name, (_, items) in written.items()}
    assert first["arc_easy"]["context"].startswith("Question: ")
    assert first["arc_easy"]["context"].endswith("\nAnswer:")
    assert first["humaneval"]["context"].startswith("from typing import List")
    assert first["humaneval"]["gold"].startswith("    for idx, elem in enumerate(numbers):")
    assert first["mbpp"]["context"].startswith('"""\nWrite a ')
    assert first["gsm8k"]["gold"].endswith("#### 18")
    assert first["math"]["context"].startswith("Problem:\n")
    assert first["math"]["context"].endswith("\n\nSolution:")
    for name in ("gsm8k", "math"):
        assert all(item["gold"].startswith(" ") for item in written[name][1])
    assert not any("<<" in item["gold"] for item in written["gsm8k"][1])
    assert not any("\r" in item["gold"] + item["context"] for item in written["mbpp"][1])


def test_winogrande_scores_what_follows_the_right_option(written: dict[str, Any]) -> None:
    eggplant = next(item for item in written["winogrande"][1] if "bake the eggplant" in item["context"])
    assert eggplant["context"].endswith("in the toaster oven but the eggplant")
    assert eggplant["gold"] == " was too big."
    assert not any("_" in item["context"] + item["gold"] for item in written["winogrande"][1])


def test_a_users_benchmark_is_taken_as_it_is(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "context": "Q: 1+1\nA:", "gold": " 2"},
        {"id": "b", "context": "The sky is", "gold": " blue", "choices": [" red", " blue"]},
    ]
    path = write_rows(tmp_path / "mine.jsonl", rows)
    record = write_benchmark("mine", BenchmarkConfig(capability="x", path=str(path)), tmp_path / "out")
    assert list(read_items(Path(record.path))) == [
        {**rows[0], "choices": [], "gold_index": None},
        {**rows[1], "gold_index": 1},
    ]
    assert record.capability == "x"


def test_an_unchanged_benchmark_is_left_alone(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "mine.jsonl", [{"id": "a", "context": "c", "gold": " g"}])
    config = BenchmarkConfig(capability="x", path=str(path))
    first = write_benchmark("mine", config, tmp_path / "out")
    time = Path(first.path).stat().st_mtime_ns
    assert write_benchmark("mine", config, tmp_path / "out") == first
    assert Path(first.path).stat().st_mtime_ns == time
    write_rows(path, [{"id": "a", "context": "c", "gold": " g"}, {"id": "b", "context": "c", "gold": " g"}])
    second = write_benchmark("mine", config, tmp_path / "out")
    assert second.num_items == 2
    assert second.fingerprint != first.fingerprint


GOOD = {"id": "0", "context": "c", "gold": " g"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], r"mine\.jsonl: expected at least one item"),
        (
            [GOOD, {"id": "1", "context": "c"}],
            r"mine\.jsonl: line 2: expected a field 'gold', found \['context', 'id'\]",
        ),
        ([{"context": "c", "gold": " g"}], "line 1: expected a field 'id'"),
        ([{**GOOD, "gold": ""}], "line 1: expected a continuation"),
        ([GOOD, GOOD], "line 2: expected distinct ids, found '0' again"),
        ([{**GOOD, "choices": ["g", " h"]}], "line 1: expected gold among the choices"),
        ([{**GOOD, "choices": " g"}], "line 1: expected a list of non-empty strings"),
        ([{**GOOD, "choices": [" g", " h"], "gold_index": 1}], "line 1: expected gold_index to point at gold"),
    ],
)
def test_a_bad_item_is_named_with_its_line(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    path = write_rows(tmp_path / "mine.jsonl", rows)
    with pytest.raises(DatasetError, match=message):
        write_benchmark("mine", BenchmarkConfig(capability="x", path=str(path)), tmp_path / "out")
    assert not (tmp_path / "out" / "mine.json").exists()


def test_a_benchmark_is_either_known_or_a_file(tmp_path: Path) -> None:
    for config in (BenchmarkConfig(capability="x"), BenchmarkConfig(capability="x", registry="piqa", path="p.jsonl")):
        with pytest.raises(ConfigError, match=r"suite\.benchmarks\.b: expected exactly one of registry and path"):
            write_benchmark("b", config, tmp_path)
    with pytest.raises(DatasetError, match="found 'mmlu', expected one of: arc_easy"):
        write_benchmark("b", BenchmarkConfig(capability="x", registry="mmlu"), tmp_path)
    with pytest.raises(DatasetError, match=r"gone\.jsonl: expected a file"):
        write_benchmark("b", BenchmarkConfig(capability="x", path="gone.jsonl"), tmp_path)


def test_written_lines_are_plain_json(written: dict[str, Any]) -> None:
    record, items = written["humaneval"]
    lines = Path(record.path).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == items
