import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nemo_demix.datasets.shards import DOCUMENT, DROP, HELDOUT, TRAIN, LowestDocuments, heldout_below, select

ROWS = st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(1, 100)), max_size=40)


@given(rows=ROWS, repeats=st.integers(1, 3), cap=st.one_of(st.none(), st.integers(1, 2000)))
def test_selection_drops_repeats_respects_the_cap_and_holds_out_by_digest(
    rows: list[tuple[int, int, int]], repeats: int, cap: int | None
) -> None:
    rows = list({row[:2]: row for row in rows}.values())
    documents = np.array(rows * repeats, DOCUMENT)
    choice, num_duplicates = select(documents, cap, 0.3)
    assert num_duplicates == len(rows) * (repeats - 1)
    assert (choice[len(rows) :] == DROP).all()
    kept = documents[choice != DROP]
    if cap is not None and len(kept):
        last = kept[np.argmax(kept["order"])]
        assert kept["size"].sum() - last["size"] < cap
        dropped = documents[: len(rows)][choice[: len(rows)] == DROP]
        assert not len(dropped) or (dropped["order"].min() >= last["order"] and kept["size"].sum() >= cap)
    if len(rows):
        assert (choice == HELDOUT).any()
    below = kept["split"] < np.uint64(heldout_below(0.3))
    if below.any():
        assert ((choice[choice != DROP] == HELDOUT) == below).all()


def test_about_the_asked_share_is_held_out() -> None:
    generator = np.random.default_rng(0)
    documents = np.zeros(20_000, DOCUMENT)
    documents["order"] = np.arange(20_000)
    documents["split"] = generator.integers(0, 2**64, 20_000, dtype=np.uint64)
    documents["size"] = 1
    choice, _ = select(documents, None, 0.05)
    assert abs((choice == HELDOUT).mean() - 0.05) < 0.005
    assert ((choice == TRAIN) | (choice == HELDOUT)).all()


@given(orders=st.lists(st.integers(0, 30), max_size=40), max_bytes=st.integers(0, 60), seed=st.integers(0, 5))
def test_a_sample_does_not_depend_on_the_order_of_reading(orders: list[int], max_bytes: int, seed: int) -> None:
    texts = {order: "x" * (1 + order % 7) for order in orders}
    expected: list[tuple[int, str]] = []
    for order in sorted(texts):
        if sum(len(text) for _, text in expected) < max_bytes:
            expected.append((order, texts[order][:max_bytes]))
    shuffled = orders * 2
    random.Random(seed).shuffle(shuffled)
    sample = LowestDocuments(max_bytes)
    for order in shuffled:
        sample.add(order, texts[order])
    assert sample.texts() == expected
