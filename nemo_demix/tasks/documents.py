"""The documents of tasks as JSON lines: {task, split, doc}, and {task, split, features} before them where they came
from a dataset of the hub, whose types (names of labels, say) a task may look at.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nemo_demix.artifacts import json_value, write_text
from nemo_demix.errors import DatasetError

Splits = Mapping[str, Any]  # a `datasets.Dataset` by the name of its split


class SavedSplits(dict[str, Any]):
    """A task's splits; one that was not saved, since nothing is taken from it, is empty."""

    def __missing__(self, split: str) -> Any:
        """Give a split of no documents, of the same fields."""
        return next(iter(self.values())).select([])


def task_label(task: Any) -> str:
    """Return the name that a task's documents are kept under, even while it is being built."""
    config = getattr(task, "_config", None)
    return getattr(config, "task", None) or type(task).__name__


def documents_text(documents: Mapping[tuple[str, str], tuple[dict[str, Any] | None, Iterable[Any]]]) -> str:
    """Return all lines of a file of documents.

    Args:
        documents: The features of a dataset of the hub (else None) and the documents, by task and split.
    Raises:
        DatasetError: if a document holds what is no JSON: pictures, sound.
    """
    lines = []
    for (task, split), (features, rows) in documents.items():
        if features is not None:
            lines.append({"task": task, "split": split, "features": features})
        lines += [{"task": task, "split": split, "doc": row} for row in rows]
    try:
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    except TypeError as error:
        names = sorted({task for task, _ in documents})
        raise DatasetError(
            f"task {', '.join(names)}: expected documents of text and numbers, found: {error}; take it out of the suite"
        ) from None


def write_documents(
    path: Path, documents: Mapping[tuple[str, str], tuple[dict[str, Any] | None, Iterable[Any]]]
) -> None:
    """Write what `read_documents` reads, whole or not at all."""
    write_text(path, documents_text(documents))


def read_documents(path: Path) -> dict[str, SavedSplits]:
    """Read each task's splits into memory.

    Raises:
        DatasetError: if the file is missing or damaged.
    Memory: the documents, twice.
    """
    import datasets

    rows: dict[tuple[str, str], list[Any]] = {}
    features: dict[tuple[str, str], Any] = {}
    for line in _lines(path):
        place = (line["task"], line["split"])
        rows.setdefault(place, [])
        if "features" in line:
            features[place] = datasets.Features.from_dict(line["features"])
        else:
            rows[place].append(line["doc"])
    result: dict[str, SavedSplits] = {}
    for (task, split), docs in rows.items():
        splits = result.setdefault(task, SavedSplits())
        splits[split] = dataset_of(docs, f"{path}: {task}, {split}", features.get((task, split)))
    return result


def dataset_of(rows: list[dict[str, Any]], place: str, features: Any = None) -> Any:
    """Return documents as a `datasets.Dataset` in memory.

    Raises:
        DatasetError: if a field holds values of different types.
    """
    import datasets
    import pyarrow as pa

    try:
        return datasets.Dataset.from_list(rows, features=features)
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError) as error:
        raise DatasetError(
            f"{place}: expected one type of value in a field of all documents, found: {error}; correct the documents"
        ) from None


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with open(path, encoding="utf-8") as file:
            yield from map(json_value, file)
    except FileNotFoundError:
        raise DatasetError(f"{path}: the documents of a task are not there; run `nemo-demix prepare` again") from None
    except (ValueError, KeyError) as error:
        raise DatasetError(f"{path}: damaged ({error}); run `nemo-demix prepare force=true`") from None
