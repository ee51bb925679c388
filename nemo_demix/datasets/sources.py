"""Cuts the configuration's sources into units of reading: what one worker reads in one go, in a fixed order."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nemo_demix.config import DatasetConfig, SourceConfig
from nemo_demix.datasets.files import absolute, files_at, is_address, size_of
from nemo_demix.datasets.inputs import Inputs, identity_of
from nemo_demix.datasets.megatron import check_prefix
from nemo_demix.datasets.readers import (
    ROWS,
    Part,
    check_first_record,
    file_format,
    is_one_document,
    parquet_file,
    read_file,
    read_text,
)
from nemo_demix.datasets.registry import corpus, corpus_identity
from nemo_demix.errors import ConfigError, DatasetError, DemixError, found_by, refuse

KINDS = ("registry", "path", "code", "megatron")
_SMALL_FILES_PER_UNIT = 256  # .txt and code files hold one document each
_PATTERN = set("*?[")
_NOTHING = "expected a file, found none; correct the path"
_PART_BYTES = 1 << 24  # of a large file, that one worker reads in one go


@dataclass(frozen=True)
class Unit:
    """Documents that one worker reads in one go: a corpus, (a part of) a file of rows, or some files of one document.

    Attributes:
        source: Position of the source in its dataset.
        kind: registry | path | code.
        names: The corpus's name, or absolute file paths or addresses.
        text_field: The field of .jsonl and .parquet rows.
        part: Range of bytes of the one file; None: all of it.
    """

    source: int
    kind: str
    names: tuple[str, ...]
    text_field: str = "text"
    part: Part | None = None

    def documents(self) -> Iterator[str]:
        """Yield the unit's documents in a fixed order; blank ones are included.

        Raises:
            DatasetError: if a file cannot be used.
        """
        for name in self.names:
            if self.kind == "registry":
                yield from corpus(name).read()
            elif self.kind == "code":
                yield read_text(name, unpacked=False)
            else:
                yield from read_file(name, self.text_field, self.part)

    @property
    def num_files(self) -> int:
        """Files that it begins; a part that is not the first begins none."""
        if self.kind == "registry" or (self.part is not None and self.part[0] > 0):
            return 0
        return len(self.names)


def source_kind(source: SourceConfig, key: str) -> str:
    """Return which of `KINDS` a source is.

    Args:
        key: The source's configuration key, for the message.
    Raises:
        ConfigError: unless exactly one is set, or if `heldout` is set without `megatron`.
    """
    given = [kind for kind in KINDS if getattr(source, kind) is not None]
    if len(given) != 1:
        raise ConfigError(f"{key}: expected exactly one of {', '.join(KINDS)}, found {given or 'none'}; set one")
    if source.heldout is not None and given != ["megatron"]:
        raise ConfigError(
            f"{key}.heldout: it goes with megatron=, found {given[0]}=; remove it: text is split by heldout_share"
        )
    return given[0]


def is_megatron(dataset: DatasetConfig, key: str) -> bool:
    """Return whether a dataset is an existing .bin/.idx prefix, used in place.

    Raises:
        ConfigError: if it has no source, mixes a prefix with other sources, or caps a prefix.
    """
    refuse(dataset_errors(dataset, key))
    return dataset.sources[0].megatron is not None


def dataset_errors(dataset: DatasetConfig, key: str) -> Iterator[DemixError]:
    """Yield what is wrong with a dataset by its configuration alone."""
    if not dataset.sources:
        yield ConfigError(f"{key}.sources: expected at least one source, found none; add one")
    for number, source in enumerate(dataset.sources):
        yield from found_by(partial(source_kind, source, f"{key}.sources[{number}]"))
    if dataset.max_bytes is not None and dataset.max_bytes < 1:
        yield ConfigError(f"{key}.max_bytes: expected at least 1, found {dataset.max_bytes}")
    if not any(source.megatron is not None for source in dataset.sources):
        return
    if len(dataset.sources) > 1:
        yield ConfigError(
            f"{key}.sources: a megatron prefix is used in place and must be the only source; split it off"
        )
    if dataset.max_bytes is not None:
        yield ConfigError(f"{key}.max_bytes: a megatron prefix is used whole, found {dataset.max_bytes}; remove it")


def source_errors(source: SourceConfig, key: str) -> Iterator[DemixError]:
    """Yield what is wrong with what a source names: files that are not there, and the first record of those
    that are.
    """
    try:
        kind = source_kind(source, key)
        if kind == "registry":
            corpus_identity(str(source.registry))
            return
        if kind == "megatron":
            for field in ("megatron", "heldout"):
                if getattr(source, field) is not None:
                    yield from found_by(partial(check_prefix, getattr(source, field), f"{key}.{field}"))
            return
        paths = source_files(source, key)
    except DemixError as error:
        yield error if str(error).startswith(key) else type(error)(f"{key}.{error}")
        return
    for path in (paths[0], paths[-1])[: len(paths)]:
        for found in found_by(partial(check_first_record, path, source.text_field, kind == "code")):
            yield type(found)(f"{key}.{kind}: {found}")


def dataset_units(dataset: DatasetConfig, key: str) -> list[Unit]:
    """Return the units of a text dataset, in the order in which its documents are written.

    Raises:
        ConfigError, DatasetError: if a source is not valid or names no files.
    """
    units: list[Unit] = []
    for i, source in enumerate(dataset.sources):
        place = f"{key}.sources[{i}]"
        kind = source_kind(source, place)
        if kind == "registry":
            assert source.registry is not None
            corpus(source.registry)
            units.append(Unit(i, kind, (source.registry,)))
            continue
        paths = source_files(source, place)
        large = [] if kind == "code" else [path for path in paths if not is_one_document(path)]
        small = [path for path in paths if kind == "code" or is_one_document(path)]
        for start in range(0, len(small), _SMALL_FILES_PER_UNIT):
            units.append(Unit(i, kind, tuple(small[start : start + _SMALL_FILES_PER_UNIT])))
        units.extend(Unit(i, kind, (path,), source.text_field, part) for path in large for part in _parts(path))
    return units


def _parts(place: str) -> list[Part | None]:
    """Return how a file is shared between workers: by ranges of bytes, or of row groups; what is packed is read in one
    go.
    """
    kind = file_format(place)
    if kind == ".parquet":
        with parquet_file(place) as file:
            sizes = [file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups)]
        parts, start, size = [], 0, 0
        for group, own in enumerate(sizes, start=1):
            size += own
            if size >= _PART_BYTES or group == len(sizes):
                parts.append((start, group))
                start, size = group, 0
        return parts if len(parts) > 1 else [None]  # type: ignore[return-value]
    size = size_of(place) if kind in ROWS else 0
    if size <= _PART_BYTES:
        return [None]
    return [(start, min(start + _PART_BYTES, size)) for start in range(0, size, _PART_BYTES)]


def source_files(source: SourceConfig, key: str) -> list[str]:
    """Return the absolute files, or addresses, of a `path` or `code` source, sorted.

    Raises:
        DatasetError: if there are none, or a format is unknown.
    """
    if source.code is not None:
        folder = Path(source.code).absolute()
        if not folder.is_dir():
            raise DatasetError(f"{key}.code: {folder}: expected a folder, found none; correct the path")
        suffixes = tuple(source.code_suffixes)
        found = sorted(path for path in folder.rglob("*") if path.name.endswith(suffixes) and path.is_file())
        if not found:
            raise DatasetError(f"{key}.code: {folder}: no file ends in {list(suffixes)}; correct code_suffixes")
        return [str(path) for path in found]
    assert source.path is not None
    place = absolute(source.path)
    if not is_address(place) and Path(place).is_dir():
        raise DatasetError(
            f"{key}.path: {place}: expected a file, found a folder; name its files with a glob: {place}/*"
        )
    paths = files_at(place)
    if not paths:
        found_none = "no file matches; correct the pattern" if _PATTERN & set(place) else _NOTHING
        raise DatasetError(f"{key}.path: {place}: {found_none}")
    for path in paths:
        file_format(path)
    return paths


def dataset_identity(dataset: DatasetConfig, key: str, inputs: Inputs | None = None) -> list[dict[str, Any]]:
    """Return what a dataset's documents depend on, for fingerprints: package versions, or files, by source.

    Args:
        inputs: What the run knows of its files, so that one that was only touched is the same; None: nothing.

    Raises:
        ConfigError, DatasetError: if a source is not valid.
    """
    return [_source_identity(source, f"{key}.sources[{i}]", inputs) for i, source in enumerate(dataset.sources)]


def _source_identity(source: SourceConfig, key: str, inputs: Inputs | None) -> dict[str, Any]:
    kind = source_kind(source, key)
    if kind == "registry":
        assert source.registry is not None
        return corpus_identity(source.registry)
    files = [identity_of(place, inputs) for place in input_files(source, key)]
    return {"kind": kind, "field": source.text_field, "files": files}


def input_files(source: SourceConfig, key: str) -> list[str]:
    """Return the absolute files, or addresses, that a source's documents are in; none of a registry's.

    Raises:
        ConfigError, DatasetError: if the source is not valid.
    """
    kind = source_kind(source, key)
    if kind == "registry":
        return []
    if kind == "megatron":
        prefixes = [prefix for prefix in (source.megatron, source.heldout) if prefix is not None]
        return [absolute(prefix + suffix) for prefix in prefixes for suffix in (".bin", ".idx")]
    return source_files(source, key)
