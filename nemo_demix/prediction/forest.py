"""LightGBM's predictions of a large pool, bit for bit and several times faster than its own loop.

Every inner node forbids the leaves of one side. A row's leaf is the first one, from the left, that no node on any
side forbids, and which leaves a feature's value forbids is looked up by the number of thresholds below it. Four trees
of up to 16 leaves share one 64-bit word, so four trees cost one look-up a feature.

Axes: X rows, C features, T trees, W words of four trees, L leaves.
Source: Lucchese et al., QuickScorer (SIGIR 2015), with look-up tables in place of its scan over thresholds.
"""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nemo_demix.mixture import Array

if TYPE_CHECKING:
    import lightgbm as lgb

MAX_LEAVES = 16  # bits of a tree in a word
TREES_PER_WORD = 4
NUMERICAL = "2"  # a decision "<=" on a feature that is never missing
CHUNK = 16_384  # rows at a time: their words and look-ups stay in the cache


@cache
def first_leaf() -> npt.NDArray[np.intp]:
    """Return the lowest bit that is set in each word of `MAX_LEAVES` bits, shape (2 ** MAX_LEAVES,); -1 for
    the word 0.
    """
    return np.array([(bits & -bits).bit_length() - 1 for bits in range(1 << MAX_LEAVES)], dtype=np.intp)


@dataclass(frozen=True, eq=False)
class Forest:
    """The trees of one regressor as look-up tables.

    Attributes:
        cuts: Thresholds of each feature, ascending.
        words: Leaves that each feature still allows, by the number of its thresholds below, shape (W, thresholds + 1).
        values_TL: Leaf values, left to right; a tree with fewer leaves is padded.
    """

    cuts: list[Array]
    words: list[npt.NDArray[np.uint64]]
    values_TL: Array

    @classmethod
    def of(cls, booster: "lgb.Booster") -> "Forest":
        """Return the forest of a fitted regressor of numerical features, none missing, with at most 16
        leaves a tree.
        """
        trees = [Tree.parsed(text) for text in booster.model_to_string().split("\nTree=")[1:]]
        values_TL = np.zeros((len(trees), MAX_LEAVES))
        nodes: list[tuple[int, int, float, int]] = []  # tree, feature, threshold, leaves on the left as bits
        for number, tree in enumerate(trees):
            leaves: list[float] = []
            tree.walk(0 if tree.features else -1, number, leaves, nodes)
            values_TL[number, : len(leaves)] = leaves
        tree_N, feature_N, threshold_N, left_N = np.array(nodes, dtype=np.float64).reshape(-1, 4).T
        num_words = -(-len(trees) // TREES_PER_WORD)
        cuts, words = [], []
        for feature in range(booster.num_feature()):
            own_N = feature_N == feature
            cuts_ = np.unique(threshold_N[own_N])
            table = np.full((num_words, len(cuts_) + 1), 2**64 - 1, dtype=np.uint64)
            word_N, slot_N = np.divmod(tree_N[own_N].astype(np.uint64), np.uint64(TREES_PER_WORD))
            forbidden_N = left_N[own_N].astype(np.uint64) << (np.uint64(MAX_LEAVES) * slot_N)
            place_N = np.searchsorted(cuts_, threshold_N[own_N]) + 1
            np.bitwise_and.at(table, (word_N.astype(np.intp), place_N), ~forbidden_N)
            cuts.append(cuts_)
            words.append(np.bitwise_and.accumulate(table, axis=1))
        return cls(cuts, words, values_TL)

    def predict(self, rows_XC: Array) -> Array:
        """Return predictions, float64, shape (X,): leaf values added in the order of the trees, as LightGBM adds them.

        Memory: a few arrays of one chunk (16384 rows).
        """
        predicted_X = np.zeros(len(rows_XC))
        for start in range(0, len(rows_XC), CHUNK):
            self._add(rows_XC[start : start + CHUNK], predicted_X[start : start + CHUNK])
        return predicted_X

    def _add(self, rows_XC: Array, predicted_X: Array) -> None:
        num_rows, num_trees = len(rows_XC), len(self.values_TL)
        first_leaf_B = first_leaf()
        below = [np.searchsorted(cuts, rows_XC[:, feature]) for feature, cuts in enumerate(self.cuts)]
        allowed_X, looked_up_X = np.empty((2, num_rows), dtype=np.uint64)
        leaf_X, value_X = np.empty(num_rows, dtype=np.intp), np.empty(num_rows)
        for first_tree in range(0, num_trees, TREES_PER_WORD):
            word = first_tree // TREES_PER_WORD
            np.take(self.words[0][word], below[0], out=allowed_X, mode="clip")
            for words, below_X in zip(self.words[1:], below[1:], strict=True):
                if words.shape[1] > 1:
                    np.take(words[word], below_X, out=looked_up_X, mode="clip")
                    np.bitwise_and(allowed_X, looked_up_X, out=allowed_X)
            slots = allowed_X.view("<u2").reshape(num_rows, TREES_PER_WORD)
            for tree in range(first_tree, min(first_tree + TREES_PER_WORD, num_trees)):
                np.take(first_leaf_B, slots[:, tree - first_tree], out=leaf_X, mode="clip")
                np.take(self.values_TL[tree], leaf_X, out=value_X, mode="clip")
                predicted_X += value_X


@dataclass(frozen=True)
class Tree:
    """One tree as LightGBM writes it: nodes count from 0, and a child below 0 is the leaf `-1 - child`."""

    features: list[int]
    thresholds: list[float]
    left: list[int]
    right: list[int]
    values: list[float]

    @classmethod
    def parsed(cls, text: str) -> "Tree":
        """Read a tree from its lines `key=values` in the model's text, which keeps every bit of a number."""
        lines = dict(line.split("=", 1) for line in text.split("\n\n")[0].splitlines() if "=" in line)
        assert set(lines.get("decision_type", "").split()) <= {NUMERICAL}, lines["decision_type"]
        features, left, right = (
            [int(value) for value in lines.get(key, "").split()]
            for key in ("split_feature", "left_child", "right_child")
        )
        thresholds, values = (
            [float(value) for value in lines.get(key, "").split()] for key in ("threshold", "leaf_value")
        )
        return cls(features, thresholds, left, right, values)

    def walk(self, node: int, number: int, leaves: list[float], nodes: list[tuple[int, int, float, int]]) -> int:
        """Return the leaves below a node as bits; appends leaf values from left to right, and inner nodes."""
        if node < 0:
            leaves.append(self.values[-1 - node])
            return 1 << (len(leaves) - 1)
        left = self.walk(self.left[node], number, leaves, nodes)
        right = self.walk(self.right[node], number, leaves, nodes)
        nodes.append((number, self.features[node], self.thresholds[node], left))
        return left | right
