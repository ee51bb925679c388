import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_demix.datasets import overlap
from nemo_demix.datasets.overlap import BenchmarkIndex, NgramHasher, OverlapCounter, word_hashes

WORDS = st.lists(st.sampled_from(["a", "B", "b", "cé", "1"]), max_size=12).map(" ".join)


def ngrams(text: str, size: int) -> list[tuple[str, ...]]:
    words = re.findall(r"[^\W_]+", text.casefold())
    return [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]


def count(folder: Path, texts: dict[str, list[str]], documents: list[list[str]], size: int) -> dict[str, Any]:
    index = BenchmarkIndex.build(texts, size)
    index.save(folder)
    counter = OverlapCounter(folder, size)
    for batch in documents:
        counter.add(batch)
    return index.report(counter.hit_grams, counter.documents_B)


def test_a_planted_item_is_found_whatever_its_case_and_punctuation(tmp_path: Path) -> None:
    planted = "What colour has the sky on a clear day in the middle of summer? Blue."
    texts = {"x": [planted, "An item of which no training document holds as many words as are in an n-gram."], "y": []}
    document = "Before. " + planted.upper().replace(" ", ",  ") + " After."
    found = count(tmp_path, texts, [["nothing here"], [document, "nothing either"]], 13)
    assert found["x"] == {
        "num_items": 2,
        "num_items_long_enough": 2,
        "num_items_hit": 1,
        "share_items_hit": 0.5,
        "num_documents_hit": 1,
    }
    assert found["y"]["num_items_hit"] == 0


def test_an_ngram_never_spans_two_texts() -> None:
    hashes, owners = NgramHasher(3)(["a b", "c d e", "", "f"])
    assert owners.tolist() == [1]
    assert hashes.tolist() == NgramHasher(3)(["c d e"])[0].tolist()


@given(texts=st.lists(WORDS, max_size=6), documents=st.lists(st.lists(WORDS, max_size=4), max_size=3))
def test_counts_agree_with_plain_sets(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], documents: list[list[str]]
) -> None:
    size = 3
    folder = tmp_path_factory.mktemp("overlap")
    benchmarks = {"first": texts[::2], "second": texts[1::2]}
    found = count(folder, benchmarks, documents, size)
    trained = {gram for batch in documents for text in batch for gram in ngrams(text, size)}
    for name, items in benchmarks.items():
        grams = {gram for text in items for gram in ngrams(text, size)}
        hit = [text for text in items if not trained.isdisjoint(ngrams(text, size))]
        met = [text for batch in documents for text in batch if not grams.isdisjoint(ngrams(text, size))]
        assert found[name]["num_items_hit"] == len(hit)
        assert found[name]["num_documents_hit"] == len(met)
        assert found[name]["num_items_long_enough"] == sum(bool(ngrams(text, size)) for text in items)


def test_hashes_are_the_same_in_every_process() -> None:
    """Records of different workers and runs are put together by them."""
    hashes, _ = NgramHasher(2)(["Hello, world"])
    assert hashes.dtype == np.uint64
    assert hashes.tolist() == [0x54F5E44601A54292]
    assert hashes.tolist() == NgramHasher(2)(["(HELLO) _World_"])[0].tolist()


@given(st.text(max_size=60))
def test_words_are_what_the_expression_finds(text: str) -> None:
    """By position and by identity, whatever the characters."""
    folded = text.casefold()
    found = list(re.finditer(r"[^\W_]+", folded))
    hashes, starts = word_hashes(folded)
    assert starts.tolist() == [match.start() for match in found]
    words = [match.group() for match in found]
    assert len(set(hashes.tolist())) == len(set(words))
    assert dict(zip(words, hashes.tolist(), strict=True)) == {word: int(word_hashes(word)[0][0]) for word in words}


def test_words_of_long_texts_are_those_of_their_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "alpha beta_gamma 12 " * 5 + "x" * 90 + " délta end"
    whole = word_hashes(text)
    monkeypatch.setattr(overlap, "_PIECE", 32)
    assert [part.tolist() for part in word_hashes(text)] == [part.tolist() for part in whole]
