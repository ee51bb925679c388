"""Continuations to score, laid out as batches of rows; a context that several of them share is run once.

A row is a context followed by the continuations that are scored after it. Each continuation sees the context and
itself, and its tokens have the positions they would have if it stood there alone; so four answers cost one question.

Axes: B rows of a batch, S places in a row, Q scored tokens of a batch, R continuations, T scored tokens of all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

_PAD_TO = 8
_BATCH_COST = 1024  # of each batch beside its tokens, in tokens: launching kernels, and meeting the other ranks


class Continuation(Protocol):
    """Tokens, of which those from `start` on are scored."""

    @property
    def tokens(self) -> Sequence[int]:
        """The context, of one token at least, and the continuation."""

    @property
    def start(self) -> int:
        """Where the continuation starts: 1 or more, and less than the number of tokens."""


@dataclass(frozen=True)
class Batch:
    """Rows of like length, padded on the right, and the scored tokens in them.

    Attributes:
        tokens_BS: Token ids, int64, shape (B, S).
        positions_BS: Position of each token in its own sequence, int64, shape (B, S); None: its place in the row.
        branches_BS: 0 for context and n for the row's n-th continuation, int32, shape (B, S); None: no row has more
            than one.
        rows_Q, columns_Q: Where each scored token is predicted from, shape (Q,).
        targets_Q: The scored tokens, shape (Q,).
        places_Q: Place of each scored token among all T, int64, shape (Q,).
    """

    tokens_BS: "torch.Tensor"
    positions_BS: "torch.Tensor | None"
    branches_BS: "torch.Tensor | None"
    rows_Q: "torch.Tensor"
    columns_Q: "torch.Tensor"
    targets_Q: "torch.Tensor"
    places_Q: npt.NDArray[np.int64]


@dataclass(frozen=True)
class BatchPlan:
    """All batches of a list of continuations.

    Attributes:
        offsets_R: int64, shape (R + 1,): continuation r's scored tokens are offsets[r] up to offsets[r + 1] of T.
        same_as_T: Place of the scored token that stands for this one, where the same continuation occurs twice; int64,
            shape (T,).
        num_tokens: Tokens of all rows, without padding: what a pass has to run at least.
        num_padded: Tokens of all rows, with padding.
        num_separate: What running every continuation after its own context would take, without padding.
    """

    batches: list[Batch]
    offsets_R: npt.NDArray[np.int64]
    same_as_T: npt.NDArray[np.int64]
    num_tokens: int
    num_padded: int
    num_separate: int


@dataclass
class _Row:
    context: tuple[int, ...]
    branches: list[tuple[int, ...]]
    places: list[int]  # of each branch's first scored token among all T

    @property
    def length(self) -> int:
        return len(self.context) + sum(len(branch) - 1 for branch in self.branches)

    @property
    def width(self) -> int:
        """The row's length with its padding."""
        return -(-self.length // _PAD_TO) * _PAD_TO

    @property
    def is_forked(self) -> bool:
        """A continuation of one token puts nothing into the row: it is only predicted."""
        return sum(len(branch) > 1 for branch in self.branches) > 1


def gold_offsets(continuations: Sequence[Continuation]) -> npt.NDArray[np.int64]:
    """Return where each continuation's scored tokens start among all, int64, shape (R + 1,)."""
    lengths_R = [len(one.tokens) - one.start for one in continuations]
    return np.concatenate([[0], np.cumsum(lengths_R)]).astype(np.int64)


def plan_batches(continuations: Sequence[Continuation], batch_tokens: int, share: bool) -> BatchPlan:
    """Lay continuations out as batches, longest rows first, so that a batch too large for the memory fails at once.

    Args:
        batch_tokens: Padded tokens of one batch, at most, unless a single row is longer.
        share: Whether continuations of one context may share a row; what the model's attention must be able to mask.
    """
    offsets_R = gold_offsets(continuations)
    same_as_T = np.arange(offsets_R[-1], dtype=np.int64)
    rows: list[_Row] = []
    open_rows: dict[tuple[int, ...], _Row] = {}
    seen: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
    longest = max(len(one.tokens) for one in continuations) - 1
    for one, first, last in zip(continuations, offsets_R[:-1], offsets_R[1:], strict=True):
        context, branch = tuple(one.tokens[: one.start]), tuple(one.tokens[one.start :])
        if (context, branch) in seen:
            same_as_T[first:last] = np.arange(seen[context, branch], seen[context, branch] + last - first)
            continue
        seen[context, branch] = int(first)
        row = open_rows.get(context)
        if row is None or row.length + len(branch) - 1 > longest or not (share or len(branch) == 1):
            row = _Row(context, [], [])
            rows.append(row)
            if share or len(branch) == 1:
                open_rows[context] = row
        row.branches.append(branch)
        row.places.append(int(first))
    order = sorted(rows, key=lambda row: (-row.length, row.places[0]))
    kinds = [row for row in order if row.is_forked], [row for row in order if not row.is_forked]
    batches = [_batch(some) for kind in kinds for some in _cut(kind, batch_tokens)]
    return BatchPlan(
        batches=batches,
        offsets_R=offsets_R,
        same_as_T=same_as_T,
        num_tokens=sum(row.length for row in rows),
        num_padded=sum(batch.tokens_BS.numel() for batch in batches),
        num_separate=sum(len(one.tokens) - 1 for one in continuations),
    )


def _cut(rows: Sequence[_Row], batch_tokens: int) -> list[Sequence[_Row]]:
    """Return rows, longest first, cut into batches where it costs least.

    A batch costs its padded tokens, and as much as `_BATCH_COST` more.
    """
    count = len(rows)
    costs = np.zeros(count + 1, dtype=np.int64)  # of the rows from a place on
    sizes = np.arange(1, count + 1)
    ends = [0] * count
    for first in range(count - 1, -1, -1):
        width = rows[first].width
        full = min(count, first + max(1, batch_tokens // width))
        totals = costs[first + 1 : full + 1] + sizes[: full - first] * width
        ends[first] = full - int(totals[::-1].argmin())  # of equal ones the largest batch
        costs[first] = totals.min() + _BATCH_COST
    batches, first = [], 0
    while first < count:
        batches.append(rows[first : ends[first]])
        first = ends[first]
    return batches


def _batch(rows: Sequence[_Row]) -> Batch:
    """Lay rows out as one batch, as wide as the first row."""
    import torch

    width = rows[0].width
    tokens_BS = np.zeros((len(rows), width), dtype=np.int64)
    positions_BS = np.tile(np.arange(width, dtype=np.int64), (len(rows), 1))
    branches_BS = np.zeros((len(rows), width), dtype=np.int32)
    rows_Q: list[int] = []
    columns_Q: list[int] = []
    targets_Q: list[int] = []
    places_Q: list[int] = []
    for number, row in enumerate(rows):
        context_length = len(row.context)
        tokens_BS[number, :context_length] = row.context
        end = context_length
        for branch_number, (branch, place) in enumerate(zip(row.branches, row.places, strict=True), start=1):
            inside = slice(end, end + len(branch) - 1)
            tokens_BS[number, inside] = branch[:-1]
            positions_BS[number, inside] = np.arange(context_length, context_length + len(branch) - 1)
            branches_BS[number, inside] = branch_number
            rows_Q += [number] * len(branch)
            columns_Q += [context_length - 1, *range(inside.start, inside.stop)]
            targets_Q += branch
            places_Q += range(place, place + len(branch))
            end = inside.stop
    forked = rows[0].is_forked
    return Batch(
        tokens_BS=torch.from_numpy(tokens_BS),
        positions_BS=torch.from_numpy(positions_BS) if forked else None,
        branches_BS=torch.from_numpy(branches_BS) if forked else None,
        rows_Q=torch.tensor(rows_Q),
        columns_Q=torch.tensor(columns_Q),
        targets_Q=torch.tensor(targets_Q),
        places_Q=np.array(places_Q, dtype=np.int64),
    )
