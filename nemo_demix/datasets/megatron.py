"""Megatron's .bin/.idx files: written from shards, and checked where they are brought.

megatron-core is imported inside the functions: it takes seconds.
"""

import importlib
import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nemo_demix.errors import DatasetError

_CHECKED_DOCUMENTS = 64
_MAGIC = b"MMIDIDX\0\0"  # how an index file begins


@dataclass(frozen=True)
class PrefixCounts:
    """What a prefix holds."""

    num_documents: int
    num_tokens: int


def _indexed_dataset() -> Any:
    """megatron-core's module of these files; what its other parts warn of at their import is not about them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("megatron.core.datasets.indexed_dataset")


def token_type(vocab_size: int) -> str:
    """NumPy name of the type megatron-core stores token ids of that vocabulary in."""
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
    for suffix in (".bin", ".idx"):
        descriptor = os.open(f"{temporary}{suffix}", os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        os.replace(f"{temporary}{suffix}", f"{prefix}{suffix}")
    return PrefixCounts(num_documents, num_tokens)


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
