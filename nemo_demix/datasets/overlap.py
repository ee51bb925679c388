"""N-gram overlap of training text with benchmarks: how many benchmark items, how many training documents.

Words are casefolded runs of letters and digits. An n-gram is a 64-bit polynomial hash of its words' hashes, the same
in every process. Legend: G distinct benchmark n-grams, B benchmarks, P (n-gram, item) pairs.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"[^\W_]+")
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplication mod 2^64 loses nothing
_MAX_CACHED_WORDS = 1_000_000


@dataclass
class NgramHasher:
    """Hashes of word n-grams.

    Memory: at most a million cached words.
    """

    size: int
    _cache: dict[str, int] = field(default_factory=dict)

    def __call__(self, texts: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Every n-gram inside each text.

        Returns:
            Hashes, uint64, and the position in `texts` each belongs to, int64; in order.
        """
        words_per_text = [_WORD.findall(text.casefold()) for text in texts]
        lengths = np.array([len(words) for words in words_per_text], dtype=np.int64)
        total = int(lengths.sum())
        words = np.fromiter((self._word(word) for words in words_per_text for word in words), np.uint64, total)
        if total < self.size:
            return np.empty(0, np.uint64), np.empty(0, np.int64)
        count = total - self.size + 1
        hashes = np.zeros(count, np.uint64)
        for offset in range(self.size):
            hashes *= _BASE
            hashes += words[offset : offset + count]
        owners = np.repeat(np.arange(len(texts), dtype=np.int64), lengths)
        inside = owners[:count] == owners[self.size - 1 :]
        return hashes[inside], owners[:count][inside]

    def _word(self, word: str) -> int:
        value = self._cache.get(word)
        if value is None:
            if len(self._cache) >= _MAX_CACHED_WORDS:
                self._cache.clear()
            value = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
            self._cache[word] = value
        return value


@dataclass(frozen=True)
class BenchmarkIndex:
    """The n-grams of all benchmarks, sorted, with the benchmarks and the items they occur in."""

    size: int
    names: list[str]
    num_items: list[int]
    grams_G: NDArray[np.uint64]
    members_GB: NDArray[np.bool_]
    pair_grams_P: NDArray[np.int64]  # index into grams_G
    pair_items_P: NDArray[np.int64]  # items are counted through all benchmarks

    @staticmethod
    def build(texts: Mapping[str, Sequence[str]], size: int) -> "BenchmarkIndex":
        """Index benchmarks.

        Args:
            texts: Context and gold of every item, by benchmark.
            size: Words in an n-gram.
        """
        hasher = NgramHasher(size)
        hashes, items, benchmarks = [np.empty(0, np.uint64)], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        first_item = 0
        for number, item_texts in enumerate(texts.values()):
            found, owners = hasher(item_texts)
            hashes.append(found)
            items.append(owners + first_item)
            benchmarks.append(np.full(len(found), number, np.int64))
            first_item += len(item_texts)
        grams_G, pair_grams_P = np.unique(np.concatenate(hashes), return_inverse=True)
        members_GB = np.zeros((len(grams_G), len(texts)), np.bool_)
        members_GB[pair_grams_P, np.concatenate(benchmarks)] = True
        num_items = [len(item_texts) for item_texts in texts.values()]
        return BenchmarkIndex(
            size, list(texts), num_items, grams_G, members_GB, pair_grams_P.astype(np.int64), np.concatenate(items)
        )

    def report(self, hit_grams: NDArray[np.int64], documents_B: NDArray[np.int64]) -> dict[str, Any]:
        """Counts by benchmark.

        Args:
            hit_grams: Positions in grams_G that occur in the training text.
            documents_B: Training documents that share an n-gram with each benchmark.
        Returns:
            By benchmark: num_items, num_items_long_enough (those with an n-gram at all), num_items_hit, share_items_hit
            (of num_items; lower is better), num_documents_hit.
        """
        hit_G = np.zeros(len(self.grams_G), np.bool_)
        hit_G[hit_grams] = True
        hit_items = np.unique(self.pair_items_P[hit_G[self.pair_grams_P]])
        long_items = np.unique(self.pair_items_P)
        bounds = np.concatenate([[0], np.cumsum(self.num_items)])
        hits_B = np.diff(np.searchsorted(hit_items, bounds))
        long_B = np.diff(np.searchsorted(long_items, bounds))
        return {
            name: {
                "num_items": self.num_items[i],
                "num_items_long_enough": int(long_B[i]),
                "num_items_hit": int(hits_B[i]),
                "share_items_hit": float(hits_B[i]) / self.num_items[i] if self.num_items[i] else 0.0,
                "num_documents_hit": int(documents_B[i]),
            }
            for i, name in enumerate(self.names)
        }

    def save(self, folder: Path) -> None:
        """Write what `OverlapCounter` needs, as .npy files that processes map together."""
        np.save(folder / "overlap_grams.npy", self.grams_G)
        np.save(folder / "overlap_members.npy", self.members_GB)


class OverlapCounter:
    """Counts the training documents and the benchmark n-grams that meet, over batches of one worker.

    Memory: the index, mapped from disk, and one flag for each of its n-grams.
    """

    def __init__(self, folder: Path, size: int) -> None:
        """Open what `BenchmarkIndex.save` wrote."""
        self._grams_G = np.load(folder / "overlap_grams.npy", mmap_mode="r")
        self._members_GB = np.load(folder / "overlap_members.npy", mmap_mode="r")
        self._hasher = NgramHasher(size)
        self._hit_G = np.zeros(len(self._grams_G), np.bool_)
        self.documents_B = np.zeros(self._members_GB.shape[1], np.int64)

    def add(self, texts: Sequence[str]) -> None:
        """Count a batch of training documents."""
        if not len(self._grams_G):
            return
        hashes, owners = self._hasher(texts)
        places = np.minimum(np.searchsorted(self._grams_G, hashes), len(self._grams_G) - 1)
        met = self._grams_G[places] == hashes
        grams, owners = places[met], owners[met]
        self._hit_G[grams] = True
        members = self._members_GB[grams]
        for benchmark in range(len(self.documents_B)):
            self.documents_B[benchmark] += len(np.unique(owners[members[:, benchmark]]))

    @property
    def hit_grams(self) -> NDArray[np.int64]:
        """Positions of the benchmark n-grams met so far, sorted."""
        return np.flatnonzero(self._hit_G)
