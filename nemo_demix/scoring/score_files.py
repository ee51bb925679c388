"""Files of scores from elsewhere → tables: plain CSV, OpenCompass's summary CSV, lm-evaluation-harness's results JSON.

Everything is found by name, never by position. A score that is absent stays absent: `None`, never a number.
"""

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_demix.errors import ScoreError
from nemo_demix.scoring.csv_tables import index_column, number, read_csv, row_names

OPENCOMPASS_COLUMNS = ["dataset", "version", "metric", "mode"]  # of its summary; then one a model
HARNESS_METRICS = ("acc_norm", "acc", "exact_match", "pass@1", "f1", "bits_per_byte", "word_perplexity")
_LOWER = {"loss", "ppl", "perplexity", "bpb", "bits", "nll"}  # words in the name of a metric or a column
_HIGHER = {"acc", "accuracy", "em", "exact", "pass", "f1", "bleu", "rouge"}
_OPENCOMPASS_HIGHER = ("score", "naive_average", "weighted_average", "weighted_sum")


@dataclass
class ScoreTable:
    """The scores of one file.

    Attributes:
        source: The file.
        scores: By mixture, by benchmark; None where the file has no number.
        higher_is_better: By benchmark, where the file or a name in it says so.
        notes: What was left out, and why.
    """

    source: str
    scores: dict[str, dict[str, float | None]] = field(default_factory=dict)
    higher_is_better: dict[str, bool] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_scores(path: Path, index: str | None, not_scores: Collection[str] = ()) -> ScoreTable:
    """The scores of a file, or of all files of a folder as one table.

    In a folder, a mixture's results JSON is named by its path: `mix_1.json`, or any file in a folder `mix_1/`.

    Args:
        index: `search.imported.index`: the column of a plain CSV that names its mixtures.
        not_scores: Columns of a plain CSV that are not scores.

    Raises:
        ScoreError: if a file is absent or of none of these shapes, or a mixture has two scores of one benchmark.
    """
    if not path.exists():
        raise ScoreError(f"search.imported.scores: {path}: no such file or folder; correct the path")
    if not path.is_dir():
        return _read_file(path, path.stem, index, not_scores)
    files = sorted(file for file in path.rglob("*") if file.suffix in (".csv", ".json"))
    if not files:
        raise ScoreError(f"search.imported.scores: {path}: expected .csv or .json files of scores, found none")
    parts = [file.relative_to(path).parts for file in files]
    names = [part[0] if len(part) > 1 else file.stem for file, part in zip(files, parts, strict=True)]
    return _merged(path, [_read_file(file, name, index, not_scores) for file, name in zip(files, names, strict=True)])


def direction(name: str) -> bool | None:
    """Whether higher is better, by the words in a name; None where they do not say, or say both."""
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    lower, higher = bool(words & _LOWER), bool(words & _HIGHER)
    return None if lower == higher else higher


def _read_file(path: Path, name: str, index: str | None, not_scores: Collection[str]) -> ScoreTable:
    if path.suffix == ".json":
        return _harness(path, name)
    if path.suffix != ".csv":
        raise ScoreError(f"search.imported.scores: {path}: expected a .csv or .json file, or a folder of such")
    columns, rows = read_csv(path)
    if columns[: len(OPENCOMPASS_COLUMNS)] == OPENCOMPASS_COLUMNS:
        return _opencompass(path, columns[len(OPENCOMPASS_COLUMNS) :], rows)
    return _plain(path, columns, rows, index, not_scores)


def _plain(
    path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]], index: str | None, other: Collection[str]
) -> ScoreTable:
    """One row a mixture, one column a benchmark."""
    index = index_column(path, columns, index, other)
    benchmarks = [column for column in columns if column != index and column not in other]
    scores = {
        name: {column: number(path, name, column, row[column]) for column in benchmarks}
        for name, row in zip(row_names(path, rows, index), rows, strict=True)
    }
    return ScoreTable(str(path), scores, _known({column: direction(column) for column in benchmarks}))


def _opencompass(path: Path, models: Sequence[str], rows: Sequence[Mapping[str, str]]) -> ScoreTable:
    """One row a dataset and metric, one column a mixture; `-` where there is no score, as in lines between blocks."""
    if not models:
        raise ScoreError(f"{path}: expected a column a mixture after {', '.join(OPENCOMPASS_COLUMNS)}, found none")
    table = ScoreTable(str(path), {model: {} for model in models})
    scored = [row for row in rows if any(row[model] not in ("-", "") for model in models)]
    without = [row["dataset"] for row in rows if row not in scored and row["metric"] != "-"]
    if without:
        table.notes.append(f"{path}: no mixture has a score of {', '.join(without)}: left out")
    datasets = [row["dataset"] for row in scored]
    directions: dict[str, bool | None] = {}
    for row in scored:
        dataset, metric = row["dataset"], row["metric"]
        name = dataset if datasets.count(dataset) == 1 else f"{dataset}@{metric}"
        if name in directions:
            raise ScoreError(f"{path}: {dataset} has two rows with metric {metric}; keep one")
        directions[name] = True if metric in _OPENCOMPASS_HIGHER else direction(metric)
        for model in models:
            table.scores[model][name] = number(path, model, name, "" if row[model] == "-" else row[model])
    table.higher_is_better = _known(directions)
    return table


def _harness(path: Path, name: str) -> ScoreTable:
    """One mixture's results: of each task the first of HARNESS_METRICS that it has, or its only metric.

    A task of a group that has a score of its own is left out: it would count twice.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ScoreError(f"{path}: expected JSON, found: {error}") from None
    if not isinstance(value, dict) or not isinstance(value.get("results"), dict):
        raise ScoreError(
            f'{path}: expected results of lm-evaluation-harness, {{"results": {{...}}, ...}}; remove the file'
        )
    found = {task: _metrics(path, task, entry) for task, entry in value["results"].items()}
    found = {task: metrics for task, metrics in found.items() if metrics}  # a group need not have a score
    if not found:
        raise ScoreError(
            f'{path}: no task has a score; expected {{"results": {{task: {{"acc,none": ...}}}}}}; remove the file'
        )
    groups: dict[str, list[str]] = value.get("group_subtasks") or {}
    parts = {part for group, tasks in groups.items() if group in found for part in tasks}
    table = ScoreTable(str(path), {name: {}})
    directions: dict[str, bool | None] = {}
    for task, metrics in found.items():
        if task in parts:
            continue
        metric = _main_metric(path, task, metrics)
        table.scores[name][task] = metrics[metric]
        stated = (value.get("higher_is_better") or {}).get(task, {}).get(metric)
        directions[task] = stated if isinstance(stated, bool) else direction(metric)
    table.higher_is_better = _known(directions)
    return table


def _metrics(path: Path, task: str, entry: Mapping[str, Any]) -> dict[str, float | None]:
    """A task's scores by metric; of a metric under several filters the unfiltered one, or the first."""
    metrics: dict[str, float | None] = {}
    unfiltered = {key: value for key, value in entry.items() if key.endswith(",none")}
    for key, value in {**unfiltered, **entry}.items():
        metric, separator, _ = key.partition(",")
        if not separator or metric.endswith("_stderr") or metric in metrics:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            if value is not None and value != "N/A":
                raise ScoreError(f"{path}: results.{task}.{key}: expected a number, found {value!r}; correct the file")
            value = math.nan
        metrics[metric] = float(value) if math.isfinite(value) else None
    return metrics


def _main_metric(path: Path, task: str, metrics: Collection[str]) -> str:
    main = next((metric for metric in HARNESS_METRICS if metric in metrics), None)
    if main is None and len(metrics) > 1:
        raise ScoreError(
            f"{path}: results.{task}: found the metrics {', '.join(metrics)}, and expected only one of them or one of "
            f"{', '.join(HARNESS_METRICS)}; keep one"
        )
    return main or next(iter(metrics))


def _known(directions: Mapping[str, bool | None]) -> dict[str, bool]:
    return {name: higher for name, higher in directions.items() if higher is not None}


def _merged(folder: Path, tables: Iterable[ScoreTable]) -> ScoreTable:
    """Tables as one; a mixture may have its benchmarks in several files."""
    result = ScoreTable(str(folder))
    for table in tables:
        for name, scores in table.scores.items():
            known = result.scores.setdefault(name, {})
            if twice := [benchmark for benchmark in scores if benchmark in known]:
                raise ScoreError(
                    f"{table.source}: another file of {folder} has a score of {', '.join(twice[:5])} for {name} too; "
                    "keep one"
                )
            known.update(scores)
        for benchmark, higher in table.higher_is_better.items():
            if result.higher_is_better.setdefault(benchmark, higher) != higher:
                raise ScoreError(f"{table.source}: {benchmark} has another direction than in other files of {folder}")
        result.notes += table.notes
    return result
