"""Megatron's .bin/.idx files: written from shards, and checked where they are brought.

megatron-core is imported inside the functions: it takes seconds.
"""

import importlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nemo_demix.errors import DatasetError
from nemo_demix.uncompiled import uncompiled

_CHECKED_DOCUMENTS = 64
_MAGIC = b"MMIDIDX\0\0"  # how an index file begins


@dataclass(frozen=True)
class PrefixCounts:
    """What a prefix holds."""

    num_documents: int
    num_tokens: int


def _indexed_dataset() -> Any:
    """Import megatron-core's module of these files; what its other parts warn of then is not about them.

    Those parts have functions that `torch.compile` is asked for as they are imported; none is called here.
    """
    import torch

    compile_, torch.compile = torch.compile, uncompiled  # type: ignore[assignment]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("megatron.core.datasets.indexed_dataset")
    finally:
        torch.compile = compile_


def token_type(vocab_size: int) -> str:
    """Return the NumPy name of the type megatron-core stores token ids of that vocabulary in."""
    DType = _indexed_dataset().DType
    return np.dtype(DType.optimal_dtype(vocab_size)).name


def write_prefix(shards: Sequence[Path], stored_as: str, temporary: Path, prefix: Path) -> PrefixCounts:
    """Write `<prefix>.bin/.idx` from shards, in their order, whole or not at all.

    Args:
        shards: Path stems, each with `.bin` (tokens) and `.npy` (int64 tokens in each document).
        stored_as: NumPy name of the type of a token, see `token_type`.
        temporary: Path stem on the same file system to write under first.
    """
    IndexedDatasetBuilder = _indexed_dataset().IndexedDatasetBuilder
    builder = IndexedDatasetBuilder(f"{temporary}.bin", dtype=np.dtype(stored_as).type)
    num_documents = num_tokens = 0
    for shard in shards:
        data_path, lengths_path = Path(f"{shard}.bin"), Path(f"{shard}.npy")
        lengths = np.load(lengths_path)
        with open(data_path, "rb") as tokens:  # as `add_document` would, but for all documents at once
            shutil.copyfileobj(tokens, builder.data_file, 1 << 20)
        builder.document_indices.extend(range(num_documents + 1, num_documents + len(lengths) + 1))
        builder.sequence_lengths.extend(lengths.tolist())
        num_documents += len(lengths)
        num_tokens += int(lengths.sum())
    builder.finalize(f"{temporary}.idx")
    prefix.parent.mkdir(parents=True, exist_ok=True)
    _publish(temporary, prefix)
    return PrefixCounts(num_documents, num_tokens)


def write_part(prefix: str, num_tokens: int, seed: int, part: Path) -> PrefixCounts:
    """Write `<part>.bin/.idx` from documents of a prefix, drawn at random, whole or not at all.

    Documents are taken until they have `num_tokens`, the last one in full, and keep their order.

    Args:
        prefix: Path without .bin/.idx.
        seed: Seed of the draw: the same part for the same arguments.
        part: Path stem of what is written. Several processes may write it at once.
    Memory: the lengths and the order of the prefix's documents, 16 bytes each.
    """
    module = _indexed_dataset()
    data = module.IndexedDataset(prefix)
    ends = np.concatenate([[0], np.cumsum(data.index.sequence_lengths, dtype=np.int64)])[data.document_indices]
    lengths = np.diff(ends)
    order = np.random.default_rng(seed).permutation(np.flatnonzero(lengths))
    drawn = np.sort(order[: int(np.searchsorted(np.cumsum(lengths[order]), num_tokens)) + 1])
    part.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=part.parent, prefix=f".{part.name}.") as folder:
        temporary = Path(folder) / "part"
        builder = module.IndexedDatasetBuilder(f"{temporary}.bin", dtype=data.index.dtype)
        for number in drawn:
            first, last = data.document_indices[number], data.document_indices[number + 1]
            builder.add_document(
                np.concatenate([data[place] for place in range(first, last)]),
                data.index.sequence_lengths[first:last].tolist(),
            )
        builder.finalize(f"{temporary}.idx")
        _publish(temporary, part)
    return PrefixCounts(len(drawn), int(lengths[drawn].sum()))


def _publish(temporary: Path, prefix: Path) -> None:
    """Move both files to where they belong, on disk; the index last, since a prefix without it is none."""
    for suffix in (".bin", ".idx"):
        descriptor = os.open(f"{temporary}{suffix}", os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        os.replace(f"{temporary}{suffix}", f"{prefix}{suffix}")


def check_prefix(prefix: str, key: str) -> None:
    """Refuse a prefix without both of its files, or whose index begins as no index does.

    Raises:
        DatasetError: naming the key and the file.
    """
    for suffix in (".bin", ".idx"):
        if not os.path.isfile(prefix + suffix):
            raise DatasetError(f"{key}: {prefix}{suffix}: expected a file, found none; correct the prefix")
    with open(f"{prefix}.idx", "rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise DatasetError(f"{key}: {prefix}.idx: expected Megatron's index, found another file; make it again")


def read_prefix(prefix: str, vocab_size: int, key: str) -> PrefixCounts:
    """Count a brought prefix, and check the token ids of 64 documents spread over it.

    Args:
        prefix: Path without .bin/.idx.
        key: The configuration key it came from, for the message.
    Raises:
        DatasetError: if a file is missing, the index is damaged or does not fit the data, or an id is too large.
    """
    IndexedDataset = _indexed_dataset().IndexedDataset
    check_prefix(prefix, key)
    try:
        data: Any = IndexedDataset(prefix)
        num_tokens = int(data.index.sequence_lengths.sum(dtype=np.int64))
        stored = num_tokens * data.index.dtype_size
    except Exception as error:  # a damaged index fails in many ways, none of them narrow
        raise DatasetError(f"{key}: {prefix}.idx: expected Megatron's index, found: {error!r}; make it again") from None
    size = os.path.getsize(prefix + ".bin")
    if size != stored:
        raise DatasetError(
            f"{key}: {prefix}.bin: expected {stored} bytes as in the index, found {size}; copy both files again"
        )
    for number in np.unique(np.linspace(0, len(data) - 1, min(len(data), _CHECKED_DOCUMENTS)).astype(np.int64)):
        try:
            sequence = data[int(number)]
        except Exception as error:  # places of documents outside of the data
            raise DatasetError(
                f"{key}: {prefix}.idx: its document {number} cannot be read ({error}); copy both files again"
            ) from None
        if len(sequence) and int(sequence.max()) >= vocab_size:
            raise DatasetError(
                f"{key}: {prefix}.bin: expected token ids below the tokenizer's {vocab_size}, found "
                f"{int(sequence.max())} in document {number}; name the tokenizer it was made with"
            )
    return PrefixCounts(len(data.document_indices) - 1, num_tokens)
