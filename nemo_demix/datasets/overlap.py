"""N-gram overlap of training text with benchmarks: how many benchmark items, how many training documents.

Words are casefolded runs of letters and digits. A word's hash is a polynomial of its characters, mixed; an n-gram's is
a polynomial of its words' hashes; both are 64 bits, the same in every process, and worked out for a piece of text by a
few array operations. Most n-grams of the training text are in no benchmark: a table of bits says so for nearly all of
them, before the sorted hashes are searched.

Legend: G distinct benchmark n-grams, B benchmarks, P (n-gram, item) pairs, N characters, W words.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that it has an inverse mod 2^64
_INVERSE = np.uint64(pow(int(_BASE), -1, 1 << 64))
_MIXERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # of splitmix64
_PIECE = 1 << 17  # characters, or words, that are looked at at once: their arrays stay in a core's own cache
_BITS_A_GRAM = 64  # of the table: one n-gram in so many passes that is in no benchmark
_BETWEEN = re.compile(r"[\W_]")
_LEAST_BITS, _MOST_BITS = 16, 30  # of a hash, by which the table is addressed


class NgramHasher:
    """Hashes of word n-grams.

    Memory: some ten megabytes, and 50 bytes a word of the texts.
    """

    def __init__(self, size: int) -> None:
        """Take the number of words of an n-gram."""
        self.size = size

    def __call__(self, texts: Sequence[str]) -> tuple[Hashes, NDArray[np.int64]]:
        """Hash every n-gram inside each text.

        Returns:
            Hashes, uint64, and the position in `texts` that each belongs to, int64, shape (n-grams,) both; in order.
        """
        folded = [text.casefold() for text in texts]
        words_W, starts_W = word_hashes("\n".join(folded))
        first_characters = np.cumsum([0, *(len(text) + 1 for text in folded)])
        lengths = np.diff(np.searchsorted(starts_W, first_characters))  # words of each text
        if len(words_W) < self.size:
            return np.empty(0, np.uint64), np.empty(0, np.int64)
        count = len(words_W) - self.size + 1
        hashes = np.empty(count, np.uint64)
        for first in range(0, count, _PIECE):
            hashes[first : first + _PIECE] = self._hashes_of(words_W[first : first + _PIECE + self.size - 1])
        owners = np.repeat(np.arange(len(texts), dtype=np.int64), lengths)
        inside = owners[:count] == owners[self.size - 1 :]
        return hashes[inside], owners[:count][inside]

    def _hashes_of(self, words_W: Hashes) -> Hashes:
        """Hash the n-grams of consecutive words, as differences of running sums; uint64, shape (n-grams,)."""
        count = len(words_W) - self.size + 1
        powers, inverses = _powers(1 << len(words_W).bit_length())
        sums = _running_sums(words_W, inverses)
        return (sums[self.size :] - sums[:count]) * powers[self.size - 1 : len(words_W)]


def word_hashes(text: str) -> tuple[Hashes, NDArray[np.int64]]:
    """Hash each word of a casefolded text.

    Returns:
        The hashes, uint64, and the characters that the words start at, int64, shape (W,) both.
    """
    hashes, starts = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    place = 0
    while place < len(text):
        end = place + _PIECE
        if end < len(text):  # to the end of a word, however long that is
            between = _BETWEEN.search(text, end)
            end = len(text) if between is None else between.end()
        found_W, starts_W = _words_of(text[place:end])
        hashes.append(found_W)
        starts.append(starts_W + place)
        place = end
    return np.concatenate(hashes), np.concatenate(starts)


def _words_of(piece: str) -> tuple[Hashes, NDArray[np.int64]]:
    if piece.isascii():
        codes_N: NDArray[Any] = np.frombuffer(piece.encode("ascii"), np.uint8)
        is_word_N = _ascii_words().take(codes_N)
    else:
        codes_N = np.frombuffer(piece.encode("utf-32-le", "surrogatepass"), np.uint32)
        is_word_N = _all_words().take(codes_N)
    edges = np.flatnonzero(np.diff(is_word_N, prepend=False, append=False))
    starts_W, ends_W = edges[::2], edges[1::2]
    powers_N, inverses_N = _powers(1 << len(piece).bit_length())
    sums = _running_sums(codes_N, powers_N)
    hashes_W = (sums[ends_W] - sums[starts_W]) * inverses_N[starts_W]
    for mixer, shift in zip(_MIXERS, (np.uint64(30), np.uint64(27)), strict=True):
        hashes_W ^= hashes_W >> shift
        hashes_W *= mixer
    return hashes_W ^ (hashes_W >> np.uint64(31)), starts_W


def _running_sums(values_N: NDArray[Any], factors: Hashes) -> Hashes:
    """Return the sums of the first 0, 1, ... N values, each by its factor; uint64, shape (N + 1,)."""
    sums = np.zeros(len(values_N) + 1, np.uint64)
    np.cumsum(values_N * factors[: len(values_N)], out=sums[1:])
    return sums


@cache
def _ascii_words() -> NDArray[np.bool_]:
    return np.array([chr(code).isalnum() for code in range(128)])


@cache
def _all_words() -> NDArray[np.bool_]:
    return np.array([chr(code).isalnum() for code in range(0x110000)])


@lru_cache(maxsize=8)  # most pieces are of one size
def _powers(count: int) -> tuple[Hashes, Hashes]:
    """Return powers of the base and of its inverse, from the power of 0; uint64, shape (count,) both."""
    powers = (np.full(count, base, np.uint64) for base in (_BASE, _INVERSE))
    first, second = (np.cumprod(np.concatenate([np.ones(1, np.uint64), one[1:]])) for one in powers)
    return first, second


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
        """Index the n-grams of benchmarks.

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
        """Count the items and documents that are hit, by benchmark.

        Args:
            hit_grams: Positions in grams_G that occur in the training text, int64.
            documents_B: Training documents that share an n-gram with each benchmark, int64, shape (B,).
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
        np.save(folder / "overlap_bits.npy", _bits(self.grams_G))
        np.save(folder / "overlap_grams.npy", self.grams_G)
        np.save(folder / "overlap_members.npy", self.members_GB)


class OverlapCounter:
    """Counts the training documents and the benchmark n-grams that meet, over batches of one worker.

    Memory: the index, mapped from disk, and one flag for each of its n-grams.
    """

    def __init__(self, folder: Path, size: int) -> None:
        """Open what `BenchmarkIndex.save` wrote."""
        self._bits = np.load(folder / "overlap_bits.npy", mmap_mode="r")
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
        possible = np.flatnonzero(_set_in(self._bits, hashes))
        hashes, owners = hashes[possible], owners[possible]
        places = np.minimum(np.searchsorted(self._grams_G, hashes), len(self._grams_G) - 1)
        met = self._grams_G[places] == hashes
        grams, owners = places[met], owners[met]
        self._hit_G[grams] = True
        members = self._members_GB[grams]
        for benchmark in range(len(self.documents_B)):
            self.documents_B[benchmark] += len(np.unique(owners[members[:, benchmark]]))

    @property
    def hit_grams(self) -> NDArray[np.int64]:
        """Positions in grams_G of the benchmark n-grams met so far, int64, shape (n-grams met,), sorted."""
        return np.flatnonzero(self._hit_G)


def _bits(grams_G: Hashes) -> NDArray[np.uint8]:
    """Return a table of 2^k bits, packed: those that the first k bits of the n-grams address are set."""
    width = int(np.clip(np.ceil(np.log2(max(1, len(grams_G)) * _BITS_A_GRAM)), _LEAST_BITS, _MOST_BITS))
    table = np.zeros(1 << width, np.bool_)
    table[grams_G >> np.uint64(64 - width)] = True
    return np.packbits(table)


def _set_in(bits: NDArray[np.uint8], hashes: Hashes) -> NDArray[np.bool_]:
    width = len(bits).bit_length() - 1 + 3
    places = hashes >> np.uint64(64 - width)
    found = bits[places >> np.uint64(3)] >> (np.uint8(7) - (places & np.uint64(7)).astype(np.uint8))
    return (found & np.uint8(1)).astype(np.bool_)
