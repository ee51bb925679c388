"""Mixtures and scores, joined by name.

A mixture counts where it is whole: with shares, and with a value of every score. What is left out is named with its
reason; nothing is filled in.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import median
from typing import TypeVar

from nemo_demix.artifacts import canonical_json
from nemo_demix.config import ImportedConfig
from nemo_demix.errors import ConfigError, ScoreError
from nemo_demix.scoring.imported.dialects import ScoreTable, Value, is_opencompass, read_scores, scores_table, wide
from nemo_demix.scoring.imported.metrics import PERCENT, SHARE, Metric
from nemo_demix.scoring.imported.mixtures import ImportedMixtures, own_mixtures, read_mixtures
from nemo_demix.scoring.imported.tables import Table, shown

Setting = TypeVar("Setting")
TINY = 1e-50  # a standard error below it is none: its inverse square would overflow


@dataclass(frozen=True)
class ImportedRow:
    """A mixture and what it scored."""

    name: str
    weights: dict[str, float]  # by dataset; they sum to 1
    scores: dict[str, Value]  # by score


@dataclass(frozen=True)
class ImportedScores:
    """What was read.

    Attributes:
        sources: Each file or folder, with what it was read as.
        datasets: What is mixed.
        rows: The whole ones, no two of one mixture.
        metrics: What each score is, in the files' order; the direction of each is known.
        excluded: Why each of the other mixtures does not count, by its name.
        notes: What else was done to the files' numbers, or is odd about them.
    """

    sources: dict[str, str]
    datasets: tuple[str, ...]
    rows: list[ImportedRow]
    metrics: dict[str, Metric]
    excluded: dict[str, str]
    notes: list[str]

    @property
    def benchmarks(self) -> list[str]:
        """Names of the scores, in the files' order."""
        return list(self.metrics)

    @property
    def higher_is_better(self) -> dict[str, bool]:
        """Whether higher is better, by score."""
        return {name: bool(metric.higher_is_better) for name, metric in self.metrics.items()}

    def column(self, name: str) -> list[float]:
        """Return one score of all rows."""
        return [row.scores[name].score for row in self.rows]

    def stderr(self, name: str) -> float | None:
        """Return the median of a score's standard errors; None: none is known."""
        errors = [error for row in self.rows if (error := row.scores[name].stderr) is not None]
        return median(errors) if errors else None


def read_imported(settings: ImportedConfig, datasets: Sequence[str], given: Table | None = None) -> ImportedScores:
    """Read `search.imported.scores`, and `search.imported.mixtures` where the scores do not hold the mixtures.

    A score that is absent, NaN or infinite excludes its mixture. Repeated measurements of a mixture are averaged, by
    their standard errors where each has one.

    Args:
        datasets: The recipe's. The files' are either all among these, or none is.
        given: The table of scores where a program has it; `search.imported.scores` is not looked at then.

    Raises:
        ConfigError: if it is not known which way a score is better, or a setting names no score.
        ScoreError: if a file cannot be used, or no mixture is whole.
        MixtureError: if a mixture is not on the simplex, or names an unknown dataset.
    """
    assert given is not None or settings.scores is not None
    path = given.source if given is not None else Path(str(settings.scores))
    table = given or scores_table(path)
    if settings.mixtures is not None:
        own = [] if table is None else table.identities
        mixtures = read_mixtures(Path(settings.mixtures), settings.index, datasets, own)
        scores = read_scores(path, table, settings.index, mixtures)
    elif table is None or is_opencompass(table):
        raise ScoreError(f"search.imported.scores: {path}: says nothing of the mixtures; set search.imported.mixtures")
    else:
        mixtures = own_mixtures(table, settings.index, datasets)
        scores = ScoreTable(str(path), "")
        scores.shape = wide(scores, table, mixtures.index, mixtures.datasets) + " with its mixture"
    return _joined(settings, scores, mixtures)


def _joined(settings: ImportedConfig, table: ScoreTable, mixtures: ImportedMixtures) -> ImportedScores:
    benchmarks = list(dict.fromkeys(name for cells in table.values.values() for name in cells))
    if not benchmarks:
        raise ScoreError(f"{table.source}: expected a column of scores beside the mixtures, found none; add one")
    directions = _given("higher_is_better", settings.higher_is_better, benchmarks, table.source)
    _given("capabilities", settings.capabilities, benchmarks, table.source)
    metrics = _metrics(table, benchmarks, directions)
    excluded = _excluded(table, mixtures, benchmarks)
    rows = [
        ImportedRow(name, mixtures.weights[name], {key: cell for key in benchmarks if (cell := cells[key]) is not None})
        for name, cells in table.values.items()
        if name not in excluded
    ]
    if not rows:
        raise ScoreError(f"{table.source}: no mixture can be used: {_summary(excluded)}")
    notes = list(table.notes)
    if mixtures.num_rounded:
        notes.append(
            f"{mixtures.source}: the shares of {mixtures.num_rounded} of {len(mixtures.weights)} mixtures do not sum "
            "to 1, as rounded ones do: divided by their sum"
        )
    rows, repeated = _distinct(rows)
    if repeated:
        notes.append(f"{mixtures.source}: {repeated} mixtures were scored more than once: averaged")
    if excluded:
        notes.append(f"{len(excluded)} mixtures do not count: {_summary(excluded)}")
    sources = {table.source: table.shape} | ({} if mixtures.source == table.source else {mixtures.source: "mixtures"})
    found = ImportedScores(sources, mixtures.datasets, rows, metrics, excluded, notes)
    for name, metric in metrics.items():  # a share is below 1; what is above is a percentage
        if metric.unit == SHARE and max(found.column(name)) > 1:
            metrics[name] = replace(metric, unit=PERCENT)
    notes += _oddities(table.source, found)
    return found


def by_pattern(given: Mapping[str, Setting], names: Iterable[str]) -> dict[str, Setting]:
    """Return what a setting gives each name: what it has for that name, else for the last pattern (`*_bpb`)
    that fits.
    """
    found = {}
    for name in names:
        fitting = [one for one in given if fnmatchcase(name, one)]
        if name in given or fitting:
            found[name] = given[name] if name in given else given[fitting[-1]]
    return found


def _given(key: str, given: Mapping[str, Setting], benchmarks: Sequence[str], source: str) -> dict[str, Setting]:
    """Look up what is given for each score, `by_pattern`; a name or pattern that fits no score is refused."""
    names = set(benchmarks)
    if unknown := [one for one in given if not (one in names or any(fnmatchcase(name, one) for name in names))]:
        raise ConfigError(
            f"search.imported.{key}: {source} has no score {shown(unknown)}; expected some of {shown(benchmarks)}, or "
            "patterns of such, as '*_loss'"
        )
    return by_pattern(given, benchmarks)


def _metrics(table: ScoreTable, benchmarks: Sequence[str], given: Mapping[str, bool]) -> dict[str, Metric]:
    """Return what each score is: which way it points is said by the user, the file, or a metric that we know."""
    found = {name: table.metrics.get(name, Metric(None, None, "")) for name in benchmarks}
    found |= {
        name: replace(found[name], higher_is_better=higher, known_by="search.imported.higher_is_better")
        for name, higher in given.items()
    }
    if unsaid := [name for name, metric in found.items() if metric.higher_is_better is None]:
        raise ConfigError(
            f"{table.source}: it does not say whether higher is better for {shown(unsaid)}: their names end in no "
            f"metric that is known; set search.imported.higher_is_better, e.g. {{{unsaid[0]}: false}}, or "
            "{'*': false} for all"
        )
    return found


def _excluded(table: ScoreTable, mixtures: ImportedMixtures, benchmarks: Sequence[str]) -> dict[str, str]:
    """Say why each mixture that does not count does not, by its name."""
    excluded = {}
    for name, cells in table.values.items():
        absent = [benchmark for benchmark in benchmarks if cells.get(benchmark) is None]
        if name not in mixtures.weights:
            excluded[name] = f"scored, but not in {mixtures.source}"
        elif absent:
            more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
            excluded[name] = f"no score of {', '.join(absent[:5])}{more}"
    return excluded | {name: "not scored" for name in mixtures.weights if name not in table.values}


def _summary(excluded: Mapping[str, str]) -> str:
    """Return the reasons with their counts and the first few mixtures of each."""
    parts = []
    for reason, count in Counter(excluded.values()).most_common(5):
        names = [name for name, why in excluded.items() if why == reason][:5]
        parts.append(f"{count} {reason} ({', '.join(names)}{', ...' if count > 5 else ''})")
    return "; ".join(parts)


def _distinct(rows: Sequence[ImportedRow]) -> tuple[list[ImportedRow], int]:
    """Return one row a mixture, under the name of its first measurement; and how many mixtures had several."""
    groups: dict[str, list[ImportedRow]] = {}
    for row in rows:
        groups.setdefault(canonical_json(row.weights), []).append(row)
    merged = [
        replace(group[0], scores={name: _averaged([row.scores[name] for row in group]) for name in group[0].scores})
        for group in groups.values()
    ]
    return merged, sum(len(group) > 1 for group in groups.values())


def _averaged(values: Sequence[Value]) -> Value:
    """Return the mean of measurements: by the inverse of their variances where each has a standard error,
    else plain.
    """
    if len(values) == 1:
        return values[0]
    known = [value.stderr for value in values if value.stderr is not None and value.stderr > TINY]
    weights = [1 / error**2 for error in known] if len(known) == len(values) else [1.0] * len(values)
    total = math.fsum(weights)
    mean = math.fsum(weight * value.score for weight, value in zip(weights, values, strict=True)) / total
    return Value(mean, 1 / math.sqrt(total) if len(known) == len(values) else None)


def _oddities(source: str, found: ImportedScores) -> list[str]:
    """Return scores that say little about the mixtures."""
    notes = []
    for name in found.benchmarks:
        values, stderr = found.column(name), found.stderr(name)
        mean = math.fsum(values) / len(values)
        spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
        if len(values) > 1 and min(values) == max(values):
            notes.append(
                f"{source}: {name} is {values[0]:g} for every mixture: it tells them not apart, and its correlation is "
                "undefined"
            )
        elif stderr is not None and len(values) > 1 and stderr >= spread:
            notes.append(
                f"{source}: {name} has a standard error of {stderr:.3g} (median), and its values spread by only "
                f"{spread:.3g} over the mixtures: mostly noise"
            )
    return notes
