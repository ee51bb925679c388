"""A task's documents from the user's files: `suite.tasks.<key>.data`.

A .jsonl[.gz] file is the split that is scored. A folder holds a file or a folder for each split, as the hub and
`datasets` lay them out: `test.jsonl`, `test-00000-of-00001.parquet`, `test/data-00000-of-00001.arrow`; for a group,
such files in a folder of each task's name or of its dataset's (`anatomy/`).
"""

import re
from pathlib import Path
from typing import Any

from nemo_demix.datasets.readers import json_lines
from nemo_demix.errors import ConfigError, DatasetError
from nemo_demix.tasks.documents import SavedSplits, dataset_of

_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet", ".arrow")


def data_files(place: str, data: str) -> list[Path]:
    """Return all files that documents may be read from, sorted.

    Raises:
        DatasetError: if there are none.
    """
    path = Path(data).absolute()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.name.endswith(_SUFFIXES))
    if not files or not files[0].name.endswith(_SUFFIXES):
        raise DatasetError(
            f"{place}.data: {path}: expected a file or files ending in {', '.join(_SUFFIXES)}, found none"
        )
    return files


def local_splits(place: str, data: str, label: str, definition: Any) -> SavedSplits:
    """Return the splits of one task that its definition names and that are there.

    Args:
        place: The task's key in the configuration, for messages.
        data: A file or a folder.
        label: The task's name.
        definition: The harness's configuration of the task.
    Raises:
        ConfigError: if the task is a class of its own, whose splits are not known.
        DatasetError: if the split that is scored is not there, or a file is damaged.
    """
    import datasets

    scored = definition.test_split or definition.validation_split
    if scored is None:
        raise ConfigError(f"{place}.data: {label} finds its documents by itself (it is a Python class); remove `data`")
    path = Path(data).absolute()
    if path.is_file():
        return SavedSplits({scored: _read(path)})
    folder = next((path / name for name in (label, definition.dataset_name) if name and (path / name).is_dir()), path)
    names = (scored, definition.training_split, definition.validation_split, definition.fewshot_split)
    splits = SavedSplits()
    for split in dict.fromkeys(name for name in names if name is not None):
        files = [one for one in data_files(place, str(folder)) if _belongs(one.relative_to(folder), split)]
        if files:
            splits[split] = datasets.concatenate_datasets([_read(one) for one in files])
        elif split == scored:
            shown = [str(one.relative_to(folder)) for one in data_files(place, str(folder))[:8]]
            raise DatasetError(
                f"{place}.data: {folder}: expected files of the split {split!r} of {label} ({split}.jsonl, "
                f"{split}-*.parquet, {split}/*.arrow), found {', '.join(shown)}; rename them or give the one file"
            )
    return splits


def _belongs(path: Path, split: str) -> bool:
    """Return whether a file is of a split, by its own name or its folder's."""
    return bool(re.match(rf"{re.escape(split)}([-_.]|$)", path.name)) or split in path.parts[:-1]


def _read(path: Path) -> Any:
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.name.endswith((".jsonl", ".jsonl.gz")):
        rows = [row for _, row in json_lines(str(path))]
        if not rows:
            raise DatasetError(f"{path}: expected documents, found none; fill it or take the task out of the suite")
        return dataset_of(rows, str(path))
    try:
        if path.suffix == ".arrow":
            return datasets.Dataset.from_file(str(path), in_memory=True)
        return datasets.Dataset(pq.read_table(path))
    except (OSError, pa.ArrowInvalid) as error:
        raise DatasetError(f"{path}: expected a {path.suffix} file, found: {error}; write it again") from None
