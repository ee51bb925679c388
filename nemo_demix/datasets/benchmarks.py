"""Benchmarks as JSON lines of {id, context, gold, choices, gold_index}: package-shipped ones by name, or a user's own.

`gold` is the reference continuation, to be scored right after `context`: it begins with the space (or not) that
belongs there. `choices` are all continuations of a multiple-choice item, empty where only the gold one is scored.
Contexts are 0-shot, in the formats of OLMES and lm-evaluation-harness.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from nemo_demix.artifacts import BenchmarkRecord, fingerprint, is_done, load_record, write_json, write_text
from nemo_demix.config import BenchmarkConfig
from nemo_demix.datasets.files import absolute
from nemo_demix.datasets.inputs import Inputs, identity_of
from nemo_demix.datasets.olmo import NINE
from nemo_demix.datasets.packages import installed_version
from nemo_demix.datasets.readers import checked_string, json_lines
from nemo_demix.datasets.registered import RegistryBenchmark, item
from nemo_demix.errors import ConfigError, DatasetError, DemixError, found_by, near

BENCHMARK_USES = ("search", "fit", "report")  # in the objective; predicted, not in it; judges the choice
_REVISION = 1  # raised whenever an item is written otherwise from the same files

# By `registry`; docs/extending.md says how to add one.
BENCHMARKS: dict[str, RegistryBenchmark] = {
    **NINE,
}
OWN_TASKS = {f"demix_{name}": one for name, one in BENCHMARKS.items() if one.documents is not None}


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
        items = entry.all_items(f"benchmark {name}")
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
    """Yield the items of a written benchmark.

    Raises:
        DatasetError: if the file is missing or damaged.
    """
    for _, one in json_lines(str(path)):
        yield one


def benchmark_identity(name: str, config: BenchmarkConfig, inputs: Inputs | None = None) -> dict[str, Any]:
    """Return what a benchmark's items depend on, for fingerprints.

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
    return {
        "registry": config.registry,
        "revision": _REVISION,
        "version": installed_version(BENCHMARKS[config.registry].package),
    }


def first_item_errors(name: str, config: BenchmarkConfig) -> Iterator[DemixError]:
    """Yield what is wrong with where a benchmark's items come from, and with the first of a user's own."""
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
        id_, context, gold = (checked_string(row, field, place) for field in ("id", "context", "gold"))
        one = item(id_, context, gold)
        if not one["gold"]:
            raise DatasetError(
                f"{place}: expected a continuation in field 'gold', found an empty one; correct the item"
            )
        if one["id"] in ids:
            raise DatasetError(f"{place}: expected distinct ids, found {one['id']!r} again; correct the item")
        ids.add(one["id"])
        choices = row.get("choices") or []
        if not isinstance(choices, list) or not all(isinstance(choice, str) and choice for choice in choices):
            raise DatasetError(f"{place}: expected a list of non-empty strings in field 'choices'; correct the item")
        if choices:
            if one["gold"] not in choices:
                raise DatasetError(
                    f"{place}: expected gold among the choices, letter for letter with its leading space, found "
                    f"{one['gold']!r} and {choices}; correct the item"
                )
            one.update(choices=choices, gold_index=row.get("gold_index", choices.index(one["gold"])))
            if not _is_index(one["gold_index"], choices) or choices[one["gold_index"]] != one["gold"]:
                raise DatasetError(
                    f"{place}: expected gold_index to point at gold {one['gold']!r}, found {one['gold_index']!r}; "
                    f"correct it or leave it out"
                )
        yield one
    if not ids:
        raise DatasetError(f"{path}: expected at least one item, found none; fill it or take it out of the suite")


def _is_index(value: Any, choices: list[str]) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(choices)


def scored_text(items: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield the context and gold of each item as one text, for the overlap with training data."""
    for one in items:
        yield one["context"] + one["gold"]
