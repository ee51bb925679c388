"""Scores of mixtures from elsewhere, joined by name: no model is needed, and none is touched.

A mixture counts where it is whole: with shares, and with a score of every benchmark. What is left out is named with its
reason; nothing is filled in.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nemo_demix.artifacts import canonical_json
from nemo_demix.config import ImportedConfig
from nemo_demix.errors import ConfigError, ScoreError
from nemo_demix.scoring.imported_mixtures import ImportedMixtures, read_mixtures, read_own_mixtures
from nemo_demix.scoring.score_files import ScoreTable, read_scores

_STANDARD_ERROR = re.compile(r"[_ .-](stderr|std_err|stderror|std_error|standard_error)(?=$|[,/])", re.IGNORECASE)


@dataclass(frozen=True)
class ImportedRow:
    """A mixture and what it scored."""

    name: str
    weights: dict[str, float]  # by dataset; they sum to 1
    scores: dict[str, float]  # by benchmark


@dataclass(frozen=True)
class ImportedScores:
    """What was read.

    Attributes:
        datasets: What is mixed.
        rows: The whole ones, no two of one mixture.
        higher_is_better: By benchmark.
        excluded: Why each of the other mixtures does not count, by its name.
        notes: What else was done to the files' numbers, or is odd about them.
    """

    datasets: tuple[str, ...]
    rows: list[ImportedRow]
    higher_is_better: dict[str, bool]
    excluded: dict[str, str]
    notes: list[str]

    @property
    def benchmarks(self) -> list[str]:
        """Names of the scores, in the files' order."""
        return list(self.higher_is_better)


def read_imported(settings: ImportedConfig, datasets: Sequence[str]) -> ImportedScores:
    """Read `search.imported.scores`, and `search.imported.mixtures` where the scores do not hold the mixtures.

    A score that is absent, NaN or infinite excludes its mixture. Repeated measurements of a mixture are averaged.

    Args:
        datasets: The recipe's. The files' are either all among these, or none is.

    Raises:
        ConfigError: if it is not known whether higher is better for a benchmark, or a setting names no benchmark.
        ScoreError: if a file cannot be used, or no mixture is whole.
        MixtureError: if a mixture is not on the simplex, or names an unknown dataset.
    """
    assert settings.scores is not None
    path = Path(settings.scores)
    if settings.mixtures is not None:
        table = read_scores(path, settings.index)
        mixtures = read_mixtures(Path(settings.mixtures), settings.index, datasets)
    else:
        if not path.exists():
            raise ScoreError(f"search.imported.scores: {path}: no such file or folder; correct the path")
        mixtures = read_own_mixtures(path, settings.index, datasets)
        table = read_scores(path, settings.index, mixtures.datasets)
    benchmarks = list(dict.fromkeys(name for scores in table.scores.values() for name in scores))
    if not benchmarks:
        raise ScoreError(f"{table.source}: expected a column of scores beside the mixtures, found none; add one")
    errors = [name for name in benchmarks if (base := _measured_by(name)) is not None and base in benchmarks]
    benchmarks = [name for name in benchmarks if name not in errors]
    directions = _directions(settings, table, benchmarks)
    excluded = _excluded(table, mixtures, benchmarks)
    rows = [
        ImportedRow(name, mixtures.weights[name], {key: float(scores[key]) for key in benchmarks})  # type: ignore[arg-type]
        for name, scores in table.scores.items()
        if name not in excluded
    ]
    if not rows:
        raise ScoreError(f"{table.source}: no mixture can be used: {_summary(excluded)}")
    notes = list(table.notes)
    if errors:
        notes.append(f"{table.source}: taken for standard errors, and not for scores: {', '.join(errors)}")
    if mixtures.num_rounded:
        notes.append(
            f"{mixtures.source}: the shares of {mixtures.num_rounded} of {len(mixtures.weights)} mixtures do not sum "
            "to 1, as rounded ones do: divided by their sum"
        )
    rows, repeated = _distinct(rows)
    if repeated:
        notes.append(f"{mixtures.source}: {repeated} mixtures were scored more than once: averaged")
    notes += [
        f"{table.source}: {name} is {rows[0].scores[name]:g} for every mixture: it tells them not apart, and its "
        "correlation is undefined"
        for name in benchmarks
        if len({row.scores[name] for row in rows}) == 1
    ]
    if excluded:
        notes.append(f"{len(excluded)} mixtures do not count: {_summary(excluded)}")
    return ImportedScores(mixtures.datasets, rows, directions, excluded, notes)


def _measured_by(name: str) -> str | None:
    """The score that a column gives the standard error of, by its name; None where it is none."""
    base = _STANDARD_ERROR.sub("", name)
    return None if base == name else base


def _directions(settings: ImportedConfig, table: ScoreTable, benchmarks: Sequence[str]) -> dict[str, bool]:
    for key, given in (("higher_is_better", settings.higher_is_better), ("capabilities", settings.capabilities)):
        if unknown := [name for name in given if name not in benchmarks]:
            raise ConfigError(
                f"search.imported.{key}: {table.source} has no benchmark {', '.join(unknown)}; "
                f"expected some of {', '.join(benchmarks)}"
            )
    known = {**table.higher_is_better, **settings.higher_is_better}
    if unsaid := [name for name in benchmarks if name not in known]:
        raise ConfigError(
            f"{table.source}: it does not say whether higher is better for {', '.join(unsaid)}; "
            f"set search.imported.higher_is_better, e.g. {{{unsaid[0]}: true}}"
        )
    return {name: known[name] for name in benchmarks}


def _excluded(table: ScoreTable, mixtures: ImportedMixtures, benchmarks: Sequence[str]) -> dict[str, str]:
    """By mixture, why it does not count."""
    excluded = {}
    for name, scores in table.scores.items():
        absent = [benchmark for benchmark in benchmarks if scores.get(benchmark) is None]
        if name not in mixtures.weights:
            excluded[name] = f"scored, but not in {mixtures.source}"
        elif absent:
            excluded[name] = f"no score of {', '.join(absent)}"
    excluded |= {name: "not scored" for name in mixtures.weights if name not in table.scores}
    return excluded


def _summary(excluded: dict[str, str]) -> str:
    """The reasons with their counts and the first few mixtures of each."""
    parts = []
    for reason, count in Counter(excluded.values()).most_common():
        names = [name for name, why in excluded.items() if why == reason]
        parts.append(f"{count} {reason} ({', '.join(names[:5])}{', ...' if count > 5 else ''})")
    return "; ".join(parts)


def _distinct(rows: Sequence[ImportedRow]) -> tuple[list[ImportedRow], int]:
    """One row a mixture, under the name of its first measurement; and how many mixtures had several."""
    groups: dict[str, list[ImportedRow]] = {}
    for row in rows:
        groups.setdefault(canonical_json(row.weights), []).append(row)
    merged = [
        ImportedRow(
            group[0].name,
            group[0].weights,
            {name: float(np.mean([row.scores[name] for row in group])) for name in group[0].scores},
        )
        for group in groups.values()
    ]
    return merged, sum(len(group) > 1 for group in groups.values())
