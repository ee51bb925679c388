"""Parts of Megatron's files: documents drawn from a prefix."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

from nemo_demix.datasets.megatron import PrefixCounts, write_part

# The second document has two sequences, the third has none, the fourth one without tokens.
DOCUMENTS = [[[1, 2, 3]], [[4, 5], [6]], [], [[]], [[7]], [[8, 9, 10, 11]]]
FULL = [[[1, 2, 3]], [[4, 5], [6]], [[7]], [[8, 9, 10, 11]]]


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    stem = str(tmp_path / "whole")
    builder = IndexedDatasetBuilder(f"{stem}.bin", dtype=np.uint16)
    for document in DOCUMENTS:
        tokens = np.array([token for sequence in document for token in sequence])
        builder.add_document(tokens, [len(sequence) for sequence in document])
    builder.finalize(f"{stem}.idx")
    return stem


def documents(prefix: Path) -> list[list[list[int]]]:
    data = IndexedDataset(str(prefix))
    ends = data.document_indices.tolist()
    return [[data[place].tolist() for place in range(*ends_of)] for ends_of in pairwise(ends)]


@pytest.mark.parametrize("num_tokens", range(1, 12))
def test_a_part_has_whole_documents_in_their_order_and_no_more_than_it_takes(
    prefix: str, tmp_path: Path, num_tokens: int
) -> None:
    drawn = set()
    for seed in range(8):
        part = tmp_path / f"parts/{seed}"
        counts = write_part(prefix, num_tokens, seed, part)
        found = documents(part)
        assert found == [document for document in FULL if document in found]
        sizes = [sum(map(len, document)) for document in found]
        assert counts == PrefixCounts(len(found), sum(sizes))
        assert num_tokens <= sum(sizes) < num_tokens + max(sizes)
        drawn.add(str(found))
    assert len(drawn) > 1 or num_tokens > 10
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == sorted(
        f"{seed}{suffix}" for seed in range(8) for suffix in (".bin", ".idx")
    )


def test_the_same_seed_draws_the_same_part_over_what_is_there(prefix: str, tmp_path: Path) -> None:
    (tmp_path / "part.bin").write_bytes(b"left over by a process that was killed")
    for _ in range(2):
        write_part(prefix, 4, 3, tmp_path / "part")
    write_part(prefix, 4, 3, tmp_path / "again")
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"part{suffix}").read_bytes() == (tmp_path / f"again{suffix}").read_bytes()


def test_more_tokens_than_there_are_is_all_of_it(prefix: str, tmp_path: Path) -> None:
    assert write_part(prefix, 1000, 0, tmp_path / "part") == PrefixCounts(4, 11)
    assert documents(tmp_path / "part") == FULL
