"""The two passes over a dataset's text, each a task that one worker does alone on one unit.

`scan_unit` reads documents and keeps a digest of each; from all digests of a dataset `select` decides which documents
are dropped, trained on or held out; `write_shard` reads the unit again and tokenizes what was selected. What a task
writes depends on its unit alone, so results are the same for any number of workers.

Memory: 24 bytes a document of one dataset, and one batch of text.
"""

import hashlib
import heapq
import json
import os
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_demix.artifacts import sync
from nemo_demix.datasets.overlap import OverlapCounter
from nemo_demix.datasets.readers import json_lines
from nemo_demix.datasets.sources import Unit
from nemo_demix.errors import DatasetError
from nemo_demix.tokenizer import Tokenizer, load_tokenizer

DROP, TRAIN, HELDOUT = 0, 1, 2
SPLITS = {"train": TRAIN, "heldout": HELDOUT}
DOCUMENT = np.dtype([("order", "<u8"), ("split", "<u8"), ("size", "<i8")])  # two halves of a digest; UTF-8 bytes
_BATCH_CHARS = 1 << 20


@dataclass(frozen=True)
class ScanTask:
    """Read one unit.

    Attributes:
        stem: Path stem of what the task writes: `.scan.npy`, and `.jsonl` for a registry corpus.
        sample_bytes: Text to hand back for a tokenizer, UTF-8 bytes; 0: none.
        heldout_share: Share of documents held out, which a sample leaves out.
    """

    unit: Unit
    stem: Path
    sample_bytes: int
    heldout_share: float


@dataclass(frozen=True)
class ScanResult:
    """What `scan_unit` found: documents, blank ones passed over, and the sample as (order, text), ascending."""

    num_documents: int
    num_blank: int
    sample: list[tuple[int, str]]


@dataclass(frozen=True)
class ShardTask:
    """Tokenize the selected documents of one unit.

    Attributes:
        stem: The stem of the unit's scan.
        shard: Path stem of what the task writes: `.<split>.bin` (tokens) and `.<split>.npy` (lengths), then `.npz`, the
            result: where that is, the unit is done.
        choice_path: .npy of DROP, TRAIN or HELDOUT for each document.
        tokenizer: The tokenizer's info.
        token_type: NumPy name of the type of a token on disk.
        overlap_folder: Where the benchmarks' n-grams are.
        overlap_ngram: Words in an n-gram.
    """

    unit: Unit
    stem: Path
    shard: Path
    choice_path: Path
    tokenizer: dict[str, Any]
    token_type: str
    overlap_folder: Path
    overlap_ngram: int


@dataclass(frozen=True)
class ShardResult:
    """The n-grams of the overlap index met by the unit's training text, and its documents that met each benchmark.

    Attributes:
        found: Made by an earlier run that was cut off.
    """

    hit_grams: NDArray[np.int64]
    documents_B: NDArray[np.int64]
    found: bool = False


class LowestDocuments:
    """A text sample that does not depend on the order of reading: the documents of lowest digest, distinct.

    Memory: `max_bytes`, and one document.
    """

    def __init__(self, max_bytes: int) -> None:
        """Keep as many documents as it takes to reach `max_bytes` of UTF-8."""
        self.max_bytes = max_bytes
        self._heap: list[tuple[int, int, str]] = []  # (-order, bytes, text): the highest digest first
        self._orders: set[int] = set()
        self._bytes = 0

    def add(self, order: int, text: str) -> None:
        """Offer a document."""
        if self.max_bytes <= 0 or order in self._orders:
            return
        if self._bytes >= self.max_bytes and order > -self._heap[0][0]:
            return
        text = text[: self.max_bytes]
        size = len(text.encode())
        heapq.heappush(self._heap, (-order, size, text))
        self._orders.add(order)
        self._bytes += size
        while self._bytes - self._heap[0][1] >= self.max_bytes:
            dropped, size, _ = heapq.heappop(self._heap)
            self._orders.remove(-dropped)
            self._bytes -= size

    def texts(self) -> list[tuple[int, str]]:
        """Return the sample as (order, text), ascending."""
        return sorted((-negative, text) for negative, _, text in self._heap)


def heldout_below(share: float) -> int:
    """Return the `split` half-digest below which a document is held out."""
    return int(share * 2.0**64)


def scan_unit(task: ScanTask) -> ScanResult:
    """Digest every document of a unit.

    Raises:
        DatasetError: if a document cannot be read.
    """
    digests, sizes = bytearray(), array("q")
    sample = LowestDocuments(task.sample_bytes)
    limit = heldout_below(task.heldout_share)
    num_blank = 0
    keep = task.unit.kind == "registry"  # parsing it again would take longer than reading the text back
    with open(f"{task.stem}.jsonl", "w", encoding="utf-8") if keep else nullcontext() as spool:
        for text in task.unit.documents():
            if not text.strip():
                num_blank += 1
                continue
            raw = text.encode()
            digest = hashlib.blake2b(raw, digest_size=16).digest()
            digests += digest
            sizes.append(len(raw))
            if int.from_bytes(digest[8:], "little") >= limit:
                sample.add(int.from_bytes(digest[:8], "little"), text)
            if spool is not None:
                spool.write(json.dumps({"text": text}) + "\n")
    documents = np.empty(len(sizes), DOCUMENT)
    documents["order"], documents["split"] = np.frombuffer(digests, "<u8").reshape(-1, 2).T
    documents["size"] = sizes
    np.save(f"{task.stem}.scan.npy", documents)
    return ScanResult(len(documents), num_blank, sample.texts())


def select(documents: NDArray[Any], max_bytes: int | None, heldout_share: float) -> tuple[NDArray[np.int8], int]:
    """Decide about each document of a dataset.

    Of equal documents the first is kept. A cap keeps the documents of lowest digest, until it is reached. A document is
    held out by its own digest, so it is held out of every dataset that holds it; one is held out at least.

    Args:
        documents: Rows of DOCUMENT in reading order.
        max_bytes: UTF-8 bytes after which to stop; None: keep all.
        heldout_share: Share of documents to hold out.
    Returns:
        DROP, TRAIN or HELDOUT for each document, int8, shape (documents,), and the number of duplicates dropped.
    """
    by_digest = np.lexsort((documents["split"], documents["order"]))  # stable: of equals, the first read comes first
    ordered = documents[by_digest]
    first = np.ones(len(ordered), np.bool_)
    first[1:] = (ordered["order"][1:] != ordered["order"][:-1]) | (ordered["split"][1:] != ordered["split"][:-1])
    kept = by_digest[first]
    if max_bytes is not None:
        sizes = documents["size"][kept]
        kept = kept[np.cumsum(sizes) - sizes < max_bytes]
    choice = np.full(len(documents), DROP, np.int8)
    choice[kept] = TRAIN
    if len(kept):
        splits = documents["split"][kept]
        heldout = kept[splits < np.uint64(heldout_below(heldout_share))]
        choice[heldout if len(heldout) else kept[np.argmin(splits)]] = HELDOUT
    return choice, int(len(documents) - first.sum())


def write_shard(task: ShardTask) -> ShardResult:
    """Tokenize the selected documents of a unit, each ended by eos, and count their overlap with the benchmarks.

    What an earlier run of the same task finished is found done.

    Raises:
        DatasetError: if the unit no longer holds what the scan read.
    """
    done = Path(f"{task.shard}.npz")
    if done.exists():
        with np.load(done) as result:
            return ShardResult(result["hit_grams"], result["documents_B"], found=True)
    tokenizer = _tokenizer(json.dumps(task.tokenizer))
    overlap = OverlapCounter(task.overlap_folder, task.overlap_ngram)
    lengths = {split: array("q") for split in SPLITS.values()}
    with ExitStack() as stack:
        files = {
            number: stack.enter_context(open(f"{task.shard}.{split}.bin", "wb")) for split, number in SPLITS.items()
        }
        for batch in _batches(_chosen(task)):
            overlap.add([text for split, text in batch if split == TRAIN])
            for (split, _), ids in zip(batch, tokenizer.encode_batch([text for _, text in batch]), strict=True):
                ids.append(tokenizer.eos_id)
                files[split].write(np.array(ids, task.token_type).tobytes())
                lengths[split].append(len(ids))
    for name, number in SPLITS.items():
        np.save(f"{task.shard}.{name}.npy", np.frombuffer(lengths[number], np.int64))
    for name, ending in product(SPLITS, ("bin", "npy")):
        sync(Path(f"{task.shard}.{name}.{ending}"))
    result = ShardResult(overlap.hit_grams, overlap.documents_B)
    with open(f"{done}.tmp", "wb") as file:
        np.savez(file, hit_grams=result.hit_grams, documents_B=result.documents_B)
    os.replace(f"{done}.tmp", done)
    return result


@lru_cache(maxsize=1)
def _tokenizer(info: str) -> Tokenizer:
    """Load the tokenizer of a worker, which reads its files once for all its tasks."""
    return load_tokenizer(json.loads(info))


def _chosen(task: ShardTask) -> Iterator[tuple[int, str]]:
    """Yield the selected documents with their split."""
    if task.unit.kind == "registry":
        texts: Iterator[str] = (row["text"] for _, row in json_lines(f"{task.stem}.jsonl"))
    else:
        texts = (text for text in task.unit.documents() if text.strip())
    choice = np.load(task.choice_path)
    number = 0
    for number, text in enumerate(texts, start=1):
        if number <= len(choice) and choice[number - 1] != DROP:
            yield int(choice[number - 1]), text
    if number != len(choice):
        raise DatasetError(
            f"{task.unit.names[0]}: expected {len(choice)} documents as when it was first read, found {number}; "
            f"leave the sources alone while prepare runs, and run it again"
        )


def _batches(documents: Iterator[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    batch: list[tuple[int, str]] = []
    size = 0
    for split, text in documents:
        batch.append((split, text))
        size += len(text)
        if size >= _BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
