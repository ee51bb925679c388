"""Mixtures from elsewhere: a CSV with a column a dataset, or DeMix's JSON {name: {dataset: weight}}."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_demix.artifacts import read_json
from nemo_demix.errors import MixtureError, ScoreError
from nemo_demix.mixture import SUM_TOLERANCE, check_names
from nemo_demix.scoring.csv_tables import index_column, number, read_csv, row_names

ROUNDING_TOLERANCE = 0.01  # of a row's sum: published tables round to three decimals, and 17 such shares miss 1 by .004
PREFIX = "train_"  # of RegMix's mixture columns


@dataclass(frozen=True)
class ImportedMixtures:
    """Mixtures by name.

    Attributes:
        source: The file.
        datasets: What is mixed, in the file's order.
        weights: By mixture, by dataset; each sums to 1.
        num_rounded: How many did not sum to 1 within 1e-6, and were divided by their sum.
    """

    source: str
    datasets: tuple[str, ...]
    weights: dict[str, dict[str, float]]
    num_rounded: int


def read_mixtures(path: Path, index: str | None, known: Sequence[str]) -> ImportedMixtures:
    """The mixtures of a file of their own.

    Args:
        index: `search.imported.index`: the CSV's column that names its rows.
        known: The recipe's datasets. A file's names are either all among these, or none is.

    Raises:
        DemixError: if the file is absent or cannot be read.
        ScoreError: if a CSV has no column that names its rows.
        MixtureError: if a name is unknown, or a row is not on the simplex within the rounding of its numbers.
    """
    if path.suffix == ".json":
        value = read_json(path, is_ours=False)
        if not isinstance(value, dict) or not value or not all(isinstance(row, dict) for row in value.values()):
            raise MixtureError(f'{path}: expected {{"mix_0": {{"web": 0.5, ...}}, ...}}, found {str(value)[:80]}')
        return _checked(path, list(dict.fromkeys(name for row in value.values() for name in row)), value, known)
    columns, rows = read_csv(path)
    index = index_column(path, columns, index)
    if index is None:
        raise ScoreError(
            f"{path}: expected a column `name` or `index`, as the scores have, found {columns}; "
            "name it in search.imported.index"
        )
    return _from_rows(path, [name for name in columns if name != index], rows, row_names(path, rows, index), known)


def read_own_mixtures(path: Path, index: str | None, known: Sequence[str]) -> ImportedMixtures:
    """The mixtures that a CSV of scores has in columns of its own: those of the recipe's datasets, or `train_*`.

    Raises:
        ScoreError: if there are no such columns.
        MixtureError: as `read_mixtures`.
    """
    if path.is_dir() or path.suffix != ".csv":
        raise ScoreError(f"search.imported.scores: {path}: says nothing of the mixtures; set search.imported.mixtures")
    columns, rows = read_csv(path)
    datasets = [name for name in columns if name in known] or [name for name in columns if name.startswith(PREFIX)]
    if not datasets:
        raise ScoreError(
            f"{path}: no column is a dataset of the recipe ({', '.join(known)}) or begins with {PREFIX!r}; rename the "
            "mixture columns, or set search.imported.mixtures"
        )
    names = row_names(path, rows, index_column(path, columns, index, datasets))
    return _from_rows(path, datasets, rows, names, known)


def _from_rows(
    path: Path, datasets: list[str], rows: Sequence[Mapping[str, str]], names: list[str], known: Sequence[str]
) -> ImportedMixtures:
    value = {}
    for name, row in zip(names, rows, strict=True):
        value[name] = {dataset: number(path, name, dataset, row[dataset]) for dataset in datasets}
    return _checked(path, datasets, value, known)


def _checked(
    path: Path, datasets: list[str], value: Mapping[str, Mapping[str, object]], known: Sequence[str]
) -> ImportedMixtures:
    """Each row on the simplex: divided by its sum where that is 1 but for rounding."""
    if any(name in known for name in datasets):
        check_names(datasets, known, f"{path}: mixtures")
    weights, num_rounded = {}, 0
    for name, row in value.items():
        for dataset, weight in row.items():
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
                raise MixtureError(f"{path}: {name}: {dataset}: expected a finite share >= 0, found {weight}")
        total = math.fsum(row.values())  # type: ignore[arg-type]
        if abs(total - 1) > ROUNDING_TOLERANCE:
            raise MixtureError(
                f"{path}: {name}: expected shares that sum to 1 within {ROUNDING_TOLERANCE}, found {total:.6g}; "
                "divide each by the sum, or remove columns that are no datasets"
            )
        num_rounded += abs(total - 1) > SUM_TOLERANCE
        weights[name] = {dataset: float(row.get(dataset, 0.0)) / total for dataset in datasets}  # type: ignore[arg-type]
    return ImportedMixtures(str(path), tuple(datasets), weights, num_rounded)
