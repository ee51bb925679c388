"""Files of scores from elsewhere → one table of values by mixture and score, whatever their shape.

A dialect is how a file says which mixture, which score, which metric: `wide` (a row a mixture, a column a score),
`opencompass` (a row a benchmark, a column a mixture), `harness` (one mixture's results of lm-evaluation-harness).
Everything is found by name, never by position. A score that is absent stays absent, never a number.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_demix.errors import ScoreError
from nemo_demix.scoring.imported.metrics import PERCENT, SHARE, Metric, known_metric, spreads
from nemo_demix.scoring.imported.mixtures import ImportedMixtures
from nemo_demix.scoring.imported.tables import (
    SUFFIXES,
    Table,
    check_name,
    finite,
    index_column,
    number,
    read_object,
    read_table,
    shown,
)

OPENCOMPASS_COLUMNS = ("dataset", "version", "metric", "mode")  # of its summary; then one a model
HARNESS_METRICS = ("acc_norm", "acc", "exact_match", "pass@1", "f1", "bits_per_byte", "word_perplexity")
_OPENCOMPASS_HIGHER = ("score", "naive_average", "weighted_average", "weighted_sum")


@dataclass(frozen=True)
class Value:
    """A score, and its standard error where the file has one."""

    score: float
    stderr: float | None = None


@dataclass
class ScoreTable:
    """The scores of a file, or of all files of a folder.

    Attributes:
        source: The file or folder.
        shape: What it was read as, for people.
        values: Values by mixture, by score; None where the file has no number.
        metrics: What each score is, where the file or its name says so.
        notes: What was left out, and why.
        reading: The file that is being read.
    """

    source: str
    shape: str
    values: dict[str, dict[str, Value | None]] = field(default_factory=dict)
    metrics: dict[str, Metric] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    reading: Path = Path()

    def add(self, mixture: str, score: str, value: Value | None, metric: Metric | None) -> None:
        """Add one cell.

        Raises:
            ScoreError: if the mixture has that score already, or another file of it points the other way.
        """
        cells = self.values.setdefault(mixture, {})
        if score in cells:
            raise ScoreError(f"{self.reading}: found another score of {score} for {mixture}; keep one")
        cells[score] = value
        if metric is not None and (known := self.metrics.setdefault(score, metric)) != metric:
            raise ScoreError(
                f"{self.reading}: {score} is {metric.known_by} here, and {known.known_by} for other mixtures; keep one"
            )


def scores_table(path: Path) -> Table | None:
    """Return the table of a source that is one file with rows and columns, `wide` or `opencompass`; None for any other.

    Raises:
        ScoreError: if the source is absent, or of no shape that is known.
    """
    if not path.exists():
        raise ScoreError(f"search.imported.scores: {path}: no such file or folder; correct the path")
    if path.is_dir() or path.suffix == ".json":
        return None
    if path.suffix not in SUFFIXES:
        raise ScoreError(
            f"search.imported.scores: {path}: expected a name ending in .json, {', '.join(SUFFIXES)}, or a folder"
        )
    return read_table(path)


def read_scores(path: Path, table: Table | None, index: str | None, mixtures: ImportedMixtures) -> ScoreTable:
    """Return the scores of a file, or of all files of a folder as one table.

    Args:
        table: The table that `scores_table` gave.
        index: The key `search.imported.index`.
        mixtures: What they are scores of: a wide table is joined by the column that names these, where it has it.

    Raises:
        ScoreError: if a file is of no shape that is known, or a mixture has two scores of one name.
    """
    found = ScoreTable(str(path), "")
    shapes: Counter[str] = Counter()
    if not path.is_dir():
        shapes[_read(found, path, table, path.stem, index, mixtures)] += 1
    else:
        files = sorted(file for file in path.rglob("*") if file.suffix in (".json", *SUFFIXES))
        if not files:
            raise ScoreError(f"search.imported.scores: {path}: expected .csv or .json files of scores, found none")
        for file in files:
            parts = file.relative_to(path).parts
            name = parts[0] if len(parts) > 1 else file.stem
            own = None if file.suffix == ".json" else read_table(file)
            shapes[_read(found, file, own, name, index, mixtures)] += 1
    found.shape = ", ".join(f"{count} x {shape}" if path.is_dir() else shape for shape, count in shapes.items())
    return found


def wide(found: ScoreTable, table: Table, index: str | None, taken: Collection[str]) -> str:
    """Read one row a mixture, one column a score; columns of standard errors belong to the scores beside them.

    Args:
        taken: Columns that are datasets.
    """
    names = table.row_names(index)
    columns = table.data(but={*taken, index or ""})
    errors, others = spreads(columns)
    if others:
        found.notes.append(f"{table.source}: taken for spreads, and not for scores: {shown(others)}")
    for column in columns:
        if column in others:
            continue
        texts, metric = table.columns[column], known_metric(column)
        error_column = errors.get(column)
        spread = [""] * table.num_rows if error_column is None else table.columns[error_column]
        for name, text, error in zip(names, texts, spread, strict=True):
            score = number(text, table.source, name, column)
            found.add(name, column, _value(score, number(error, table.source, name, error_column)), metric)
    return "a row a mixture"


def _read(
    found: ScoreTable, path: Path, table: Table | None, name: str, index: str | None, mixtures: ImportedMixtures
) -> str:
    """Add a file to a table of scores; returns its dialect, for people."""
    found.reading = path
    if table is None:
        return _harness(found, path, _named(name, name, mixtures.weights))
    if is_opencompass(table):
        return _opencompass(found, table, name, mixtures.weights)
    return wide(found, table, index_column(table, index, [mixtures.index]), ())


def is_opencompass(table: Table) -> bool:
    """Return whether a table is a summary of OpenCompass."""
    return tuple(table.columns)[: len(OPENCOMPASS_COLUMNS)] == OPENCOMPASS_COLUMNS


def _named(own: str, by_path: str, mixtures: Mapping[str, Any]) -> str:
    """Return what the mixtures call a model: as it calls itself, else as its folder, else by the end of a path.

    DeMix's folders hold summaries of a model that is called the same in each; lm-evaluation-harness writes the path
    `/ckpt/mix_1` as `__ckpt__mix_1`.
    """
    for name in (own, by_path, own.rpartition("__")[2], by_path.rpartition("__")[2]):
        if name in mixtures:
            return name
    return by_path


def _value(score: float | None, stderr: float | None) -> Value | None:
    """Return a cell's value; a negative standard error is none: some tools write -1 where there is none."""
    return None if score is None else Value(score, None if stderr is None or stderr < 0 else stderr)


def _opencompass(found: ScoreTable, table: Table, folder: str, mixtures: Mapping[str, Any]) -> str:
    """Read one row a dataset and metric, one column a mixture; `-` where there is no score, as between blocks."""
    models = list(table.columns)[len(OPENCOMPASS_COLUMNS) :]
    if not models:
        raise ScoreError(
            f"{table.source}: expected a column a mixture after {', '.join(OPENCOMPASS_COLUMNS)}, found none"
        )
    datasets, metrics = table.columns["dataset"], table.columns["metric"]
    cells = {model: table.columns[model] for model in models}
    scored = [any(cells[model][row] not in ("-", "") for model in models) for row in range(table.num_rows)]
    if without := [datasets[row] for row, has in enumerate(scored) if not has and metrics[row] != "-"]:
        found.notes.append(f"{table.source}: no mixture has a score of {shown(without)}: left out")
    rows = [row for row, has in enumerate(scored) if has]
    count = Counter(datasets[row] for row in rows)
    for row in rows:
        dataset, metric = datasets[row], metrics[row]
        name = check_name(dataset if count[dataset] == 1 else f"{dataset}@{metric}", f"{table.source}: dataset")
        known = Metric(True, PERCENT, f"OpenCompass's {metric}")
        if metric not in _OPENCOMPASS_HIGHER:
            known = known_metric(metric) or Metric(None, None, "")
            known = Metric(known.higher_is_better, PERCENT if known.unit == SHARE else known.unit, known.known_by)
        for model in models:
            text = cells[model][row]
            value = _value(number("" if text == "-" else text, table.source, model, name), None)
            found.add(model if len(models) > 1 else _named(model, folder, mixtures), name, value, known)
    return "OpenCompass summary"


def _harness(found: ScoreTable, path: Path, mixture: str) -> str:
    """Return one mixture's results: of each task the first of HARNESS_METRICS that it has, or its only metric.

    A task of a group that has a score of its own is left out: it would count twice. Metrics are called `acc,none` since
    release 0.4, and `acc` before.
    """
    value = read_object(path)
    results, groups, stated = (value.get(key) or {} for key in ("results", "group_subtasks", "higher_is_better"))
    if not results or not all(isinstance(one, dict) for one in (results, groups, stated, *results.values())):
        raise ScoreError(
            f'{path}: expected results of lm-evaluation-harness, {{"results": {{...}}, ...}}; remove the file'
        )
    is_old = not any("," in key for entry in results.values() for key in entry)
    scored = {task: _metrics(path, task, entry, is_old) for task, entry in results.items()}
    scored = {task: metrics for task, metrics in scored.items() if metrics}  # a group need not have a score
    if not scored:
        raise ScoreError(
            f'{path}: no task has a score; expected {{"results": {{task: {{"acc,none": ...}}}}}}; remove the file'
        )
    parts = {part for group, tasks in groups.items() if group in scored and isinstance(tasks, list) for part in tasks}
    for task, metrics in scored.items():
        if task in parts:
            continue
        check_name(task, f"{path}: task")
        name = _main_metric(path, task, metrics)
        known, said = known_metric(name), stated.get(task)
        said = said.get(name) if isinstance(said, dict) else None
        if isinstance(said, bool):
            known = Metric(said, known.unit if known is not None else None, f"the file, for {name}")
        found.add(mixture, task, metrics[name], known)
    return f"lm-evaluation-harness results{' (before 0.4)' if is_old else ''}"


def _metrics(path: Path, task: str, entry: Mapping[str, Any], is_old: bool) -> dict[str, Value | None]:
    """Return a task's scores by metric; of a metric under several filters the unfiltered one, or the first."""
    found: dict[str, Value | None] = {}
    unfiltered = [key for key in entry if key.endswith(",none")]
    for key in (*unfiltered, *entry):
        metric, separator, filter_ = key.partition(",")
        is_score = isinstance(entry[key], (int, float)) if is_old else bool(separator)
        if not is_score or metric.endswith("_stderr") or metric in found:
            continue
        place = (path, f"results.{task}.{key}")
        error = entry.get(f"{metric}_stderr{separator}{filter_}")
        stderr = finite(error, *place) if isinstance(error, (int, float)) else None
        score = None if entry[key] is None or entry[key] == "N/A" else finite(entry[key], *place)
        found[metric] = _value(score, stderr)
    return found


def _main_metric(path: Path, task: str, metrics: Collection[str]) -> str:
    main = next((metric for metric in HARNESS_METRICS if metric in metrics), None)
    if main is None and len(metrics) > 1:
        raise ScoreError(
            f"{path}: results.{task}: found the metrics {shown(metrics)}, and expected only one of them or one of "
            f"{', '.join(HARNESS_METRICS)}; keep one"
        )
    return main or next(iter(metrics))
