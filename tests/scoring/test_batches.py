"""Every continuation is scored once, after its own context, wherever it stands."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_demix.scoring.batches import plan_batches
from nemo_demix.scoring.suite import Request

TOKENS = st.lists(st.integers(1, 3), min_size=1, max_size=6)  # few tokens, so that contexts and answers recur


@given(
    pairs=st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=12),
    batch_tokens=st.integers(1, 80),
    share=st.booleans(),
)
def test_each_scored_token_sees_its_context_and_its_own_beginning(
    pairs: list[tuple[list[int], list[int]]], batch_tokens: int, share: bool
) -> None:
    requests = [Request("task/t", [*context, *answer], len(context), 1) for context, answer in pairs]
    plan = plan_batches(requests, batch_tokens, share)
    seen: dict[int, tuple[list[int], int]] = {}
    for batch in plan.batches:
        assert batch.tokens_BS.numel() <= batch_tokens or len(batch.tokens_BS) == 1
        for row, column, target, place in zip(
            batch.rows_Q.tolist(), batch.columns_Q.tolist(), batch.targets_Q.tolist(), batch.places_Q, strict=True
        ):
            assert int(place) not in seen
            seen[int(place)] = visible(batch, row, column), target
    for request, first in zip(requests, plan.offsets_R[:-1], strict=True):
        for step, token in enumerate(request.tokens[request.start :]):
            found, target = seen[int(plan.same_as_T[first + step])]
            assert (found, target) == (request.tokens[: request.start + step], token)
    assert plan.num_tokens <= plan.num_separate
    assert plan.num_padded >= plan.num_tokens


@given(lengths=st.lists(st.integers(2, 70), min_size=1, max_size=8), batch_tokens=st.integers(8, 600))
def test_batches_are_cut_where_it_costs_least(lengths: list[int], batch_tokens: int) -> None:
    requests = [Request("task/t", [place] * length, 1, 1) for place, length in enumerate(lengths)]
    plan = plan_batches(requests, batch_tokens, share=False)
    widths = sorted((-(-(length - 1) // 8) * 8 for length in lengths), reverse=True)
    best = math.inf
    for inner in itertools.product([False, True], repeat=len(widths) - 1):
        cuts = [0, *(place for place, cut in enumerate(inner, start=1) if cut), len(widths)]
        batches = [(last - first, widths[first]) for first, last in itertools.pairwise(cuts)]
        if all(rows == 1 or rows * width <= batch_tokens for rows, width in batches):
            best = min(best, sum(rows * width + 1024 for rows, width in batches))
    assert plan.num_padded + 1024 * len(plan.batches) == best


def visible(batch: object, row: int, column: int) -> list[int]:
    """What a place of a row may attend to, itself last, in the order of positions."""
    tokens, branches = batch.tokens_BS[row].tolist(), batch.branches_BS  # type: ignore[attr-defined]
    if branches is None:
        return tokens[: column + 1]
    own = branches[row].tolist()
    places = [place for place in range(column + 1) if own[place] in (0, own[column])]
    positions = [int(batch.positions_BS[row, place]) for place in places]  # type: ignore[attr-defined]
    assert positions == list(range(len(places)))
    return [tokens[place] for place in places]


def test_four_answers_cost_one_question() -> None:
    rng = np.random.default_rng(0)
    context = rng.integers(1, 100, 50).tolist()
    answers = [rng.integers(1, 100, 5).tolist() for _ in range(4)]
    requests = [Request("task/t", context + answer, 50, 1) for answer in answers]
    assert plan_batches(requests, 8192, share=False).num_tokens == 4 * 54
    longer = [
        *requests,
        Request("task/t", rng.integers(1, 100, 80).tolist(), 1, 1),
    ]  # a row may be as long as the longest
    assert plan_batches(longer, 8192, share=True).num_tokens == 50 + 4 * 4 + 79


@pytest.mark.parametrize("share", [False, True])
def test_answers_of_one_token_cost_nothing(share: bool) -> None:
    requests = [Request("task/t", [1, 2, 3, 4, answer], 4, 1) for answer in range(5, 9)]
    plan = plan_batches(requests, 8192, share)
    assert (plan.num_tokens, len(plan.batches)) == (4, 1)
    assert plan.batches[0].branches_BS is None  # and no mask
