"""Mixtures from elsewhere: columns of a table, one a dataset, or DeMix's JSON {name: {dataset: weight}}."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nemo_demix.errors import MixtureError, ScoreError
from nemo_demix.mixture import SUM_TOLERANCE, check_names
from nemo_demix.scoring.imported.metrics import known_metric
from nemo_demix.scoring.imported.tables import (
    Table,
    check_name,
    finite,
    index_column,
    number,
    read_object,
    read_table,
    shown,
)

ROUNDING_TOLERANCE = 0.01  # of a row's sum: published tables round to three decimals, and 17 such shares miss 1 by .004
PREFIX = "train_"  # of RegMix's mixture columns


@dataclass(frozen=True)
class ImportedMixtures:
    """Mixtures by name.

    Attributes:
        source: The file.
        datasets: What is mixed, in the file's order.
        weights: Weights by mixture, by dataset; each mixture's sum to 1.
        num_rounded: How many did not sum to 1 within 1e-6, and were divided by their sum.
        index: The column that named them; None: none did.
    """

    source: str
    datasets: tuple[str, ...]
    weights: dict[str, dict[str, float]]
    num_rounded: int
    index: str | None = None


def read_mixtures(path: Path, index: str | None, known: Sequence[str], identities: Collection[str]) -> ImportedMixtures:
    """Return the mixtures of a file of their own.

    Args:
        index: `search.imported.index`: the column that names the rows of a table.
        known: The recipe's datasets. A file's names are either all among these, or none is.
        identities: Columns that may name the rows of the scores, where these are one table.

    Raises:
        DemixError: if the file cannot be read.
        ScoreError: if a table has no column that names its rows.
        MixtureError: if a name is unknown, or a row is not on the simplex within the rounding of its numbers.
    """
    if path.suffix == ".json":
        value = read_object(path)
        if not value or not all(isinstance(row, dict) for row in value.values()):
            raise MixtureError(f'{path}: expected {{"mix_0": {{"web": 0.5, ...}}, ...}}, found {str(value)[:80]}')
        datasets = list(dict.fromkeys(name for row in value.values() for name in row))
        for name in (*value, *datasets):
            check_name(name, str(path))
        return _checked(
            path,
            datasets,
            {
                name: {dataset: finite(share, path, name, dataset) for dataset, share in row.items()}
                for name, row in value.items()
            },
            known,
        )
    table = read_table(path)
    index = index_column(table, index, identities)
    if index is None:
        raise ScoreError(
            f"{path}: expected a column `name` or `index`, as the scores have, found {shown(table.columns)}; "
            "name it in search.imported.index"
        )
    return _from_table(table, table.data(but=(index,)), index, known)


def own_mixtures(table: Table, index: str | None, known: Sequence[str]) -> ImportedMixtures:
    """Return the mixtures that a table of scores has in columns of its own: those of the recipe's datasets, or
    `train_*`.

    A score may be called like a dataset, or `train_loss`: of both sets of columns it is the one whose first row sums
    to 1.

    Raises:
        ScoreError: if there are no such columns.
        MixtureError: as `read_mixtures`.
    """
    recipes = set(known)
    prefixed = [name for name in table.columns if name.startswith(PREFIX) and known_metric(name) is None]
    sets = [found for found in ([name for name in table.columns if name in recipes], prefixed) if found]
    if not sets:
        raise ScoreError(
            f"{table.source}: no column is a dataset of the recipe ({', '.join(known)}) or begins with {PREFIX!r}; "
            "rename the mixture columns, or set search.imported.mixtures"
        )
    datasets = next((found for found in sets if _sums_to_one(table, found)), sets[0])
    return _from_table(table, datasets, index_column(table, index), known)


def _sums_to_one(table: Table, datasets: Sequence[str]) -> bool:
    try:
        shares = [number(table.columns[name][0]) or 0.0 for name in datasets]
    except ScoreError:
        return False
    return abs(math.fsum(shares) - 1) <= ROUNDING_TOLERANCE


def _from_table(table: Table, datasets: Sequence[str], index: str | None, known: Sequence[str]) -> ImportedMixtures:
    names = table.row_names(index)
    value: dict[str, dict[str, float | None]] = {name: {} for name in names}
    for dataset in datasets:
        for name, text in zip(names, table.columns[dataset], strict=True):
            value[name][dataset] = number(text, table.source, name, dataset)
    return replace(_checked(table.source, datasets, value, known), index=index)


def _checked(
    path: Path, datasets: Sequence[str], value: Mapping[str, Mapping[str, float | None]], known: Collection[str]
) -> ImportedMixtures:
    """Put each row on the simplex: it is divided by its sum where that is 1 but for rounding."""
    if set(datasets) & set(known):
        check_names(datasets, known, f"{path}: mixtures")
    weights, num_rounded = {}, 0
    for name, row in value.items():
        for dataset, share in row.items():
            if share is None or share < 0:
                found = "none; write 0 where a dataset is not used" if share is None else f"{share:g}"
                raise MixtureError(f"{path}: {name}: {dataset}: expected a finite share >= 0, found {found}")
        total = math.fsum(share or 0.0 for share in row.values())
        if abs(total - 1) > ROUNDING_TOLERANCE:
            raise MixtureError(
                f"{path}: {name}: expected shares that sum to 1 within {ROUNDING_TOLERANCE}, found {total:.6g}; "
                "divide each by the sum, or remove columns that are no datasets"
            )
        num_rounded += abs(total - 1) > SUM_TOLERANCE
        weights[name] = {dataset: (row.get(dataset) or 0.0) / total for dataset in datasets}
    return ImportedMixtures(str(path), tuple(datasets), weights, num_rounded)
