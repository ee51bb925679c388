"""The maths of mixed predictions: what a mixture of the components' predictions costs, from their log-probabilities.

A mixture stands for the model that gives a token the probability sum_i alpha_i p_i(token): no merging, no forward pass.
All scores here are bits per byte, so each is a weighted sum over tokens of -log2 of that probability; and convex in
alpha, since the logarithm is concave.

Axes: M mixtures, C components, R requests, T gold tokens.
Source: MixMin (mixtures of models' predictions, minimised exactly).
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nemo_demix.errors import ScoreError
from nemo_demix.mixture import Array
from nemo_demix.prediction.portable import packed

Float32Array = npt.NDArray[np.float32]

MIXTURES_A_BLOCK = 256  # with the next: 1 MiB of fp32, which stays in a core's cache
TOKENS_A_BLOCK = 1024
SAFE = 1e-30  # mixed probabilities (over the largest component's) that fp32 still holds to full precision


class _Block(NamedTuple):
    """Some tokens of one score."""

    ratios_CT: Float32Array  # probabilities, over the largest component's
    weights_T: Float32Array
    least_C: Float32Array  # the smallest ratio of each component


class _Score(NamedTuple):
    """One score, ready for many mixtures."""

    blocks: list[_Block]
    bits_of_largest: float  # what each token's best component would give
    tokens: npt.NDArray[np.int64]
    weights_T: Array


@dataclass(frozen=True, eq=False)
class TokenPredictions:
    """What every component gives each gold token.

    Attributes:
        logprobs_CT: Natural-log probabilities, float32, shape (C, T).
        offsets_R: Where each request's tokens start, int64, shape (R + 1,).
        token_weights: Tokens (indices, int64) and what -log2 of their probability counts (float64), by score.
    """

    logprobs_CT: Float32Array
    offsets_R: npt.NDArray[np.int64]
    token_weights: Mapping[str, tuple[npt.NDArray[np.int64], Array]]

    def bits_R(self, weights_C: Array) -> Array:
        """Return bits of every request under a mixture of the predictions, float64, shape (R,).

        One component alone gives that component's own bits.
        """
        bits: Array = np.add.reduceat(self._bits_T(np.asarray(weights_C)), self.offsets_R[:-1])
        return bits

    def _bits_T(self, weights_C: Array, tokens: npt.NDArray[np.int64] | None = None) -> Array:
        """Return bits of each token, float64; safe at any distance between the components."""
        used = np.flatnonzero(weights_C > 0)
        logprobs_UT = (self.logprobs_CT[used] if tokens is None else self.logprobs_CT[np.ix_(used, tokens)]).astype(
            np.float64
        )
        largest_T = logprobs_UT.max(axis=0)
        mixed_T = weights_C[used] @ np.exp(logprobs_UT - largest_T)
        bits_T: Array = -(largest_T + np.log(mixed_T)) / np.log(2.0)
        return bits_T

    def scores_MB(self, weights_MC: Array, names: Sequence[str]) -> dict[str, Array]:
        """Return the named scores of many mixtures, each float64, shape (M,), bits per byte.

        Blocks of fp32 probabilities and logarithms, summed in float64: within 1e-6 of `bits_R`'s. Rows whose
        probabilities fp32 cannot hold are worked out in float64. The same bytes with any number of threads.

        Args:
            weights_MC: Merge weights, float64, shape (M, C); rows on the simplex.
            names: Names of scores.
        Raises:
            ScoreError: if a score is not one of the suite's in bits per byte.
        Memory: 8 bytes a component and gold token, and 1 MiB a thread.
        """
        self.check_names(names)
        weights_MC = np.asarray(weights_MC, dtype=np.float64)
        blocks = [weights_MC[start : start + MIXTURES_A_BLOCK] for start in range(0, len(weights_MC), MIXTURES_A_BLOCK)]
        scores = {}
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:  # numpy lets go of the interpreter
            for name in names:
                score = self._prepare(name)
                scores[name] = np.concatenate([*threads.map(partial(self._scores_M, score), blocks), np.empty(0)])
        return scores

    def resampled(self, rng: np.random.Generator) -> "TokenPredictions":
        """Return the same with each score's requests drawn anew, with replacement: a token counts as often as its
        request.
        """
        request_T = np.repeat(np.arange(len(self.offsets_R) - 1), np.diff(self.offsets_R))
        drawn = {}
        for name, (tokens, weights_T) in self.token_weights.items():
            members, places_T = np.unique(request_T[tokens], return_inverse=True)
            counts = np.bincount(rng.integers(len(members), size=len(members)), minlength=len(members))
            drawn[name] = (tokens, weights_T * counts[places_T])
        return replace(self, token_weights=drawn)

    def portable(self, names: Sequence[str], resampled: Sequence["TokenPredictions"]) -> dict[str, Any]:
        """Return what the named scores are worked out from, as plain values; arrays are base64 of their bytes.

        Returns:
            A mapping a score: `logprobs` (float32, a component after the other), `lengths` of its requests in tokens
            (int32), `weights` of a bit of each request (float64), and `draws`: how often each resample has drawn each
            request (uint8, a resample after the other).
        """
        request_T = np.repeat(np.arange(len(self.offsets_R) - 1), np.diff(self.offsets_R))
        scores = {}
        for name in names:
            tokens, weights_T = self.token_weights[name]
            order = np.argsort(tokens)
            tokens, weights_T = tokens[order], weights_T[order]
            _, first, lengths = np.unique(request_T[tokens], return_index=True, return_counts=True)
            draws = [np.rint(one.token_weights[name][1][order][first] / weights_T[first]) for one in resampled]
            scores[name] = {
                "logprobs": packed(self.logprobs_CT[:, tokens], "<f4"),
                "lengths": packed(lengths, "<i4"),
                "weights": packed(weights_T[first]),
                "draws": [packed(one, "|u1") for one in draws],
            }
        return {"scores": scores}

    def check_names(self, names: Sequence[str]) -> None:
        """Refuse scores that predictions cannot serve.

        Raises:
            ScoreError: if a score is not one of the suite's in bits per byte.
        """
        for name in names:
            if name not in self.token_weights:
                raise ScoreError(
                    f"{name}: search.proxy=predictions serves scores in bits per byte only: "
                    f"{', '.join(self.token_weights)}; use search.proxy=merge, or leave this score out of the search"
                )

    def objective_weights_T(self, objective: Mapping[str, float]) -> Array:
        """Return what -log2 of each token's probability counts in a weighted sum of scores, float64, shape (T,).

        Raises:
            ScoreError: if a score is not in bits per byte, a weight is negative (not convex then), or all are 0.
        """
        self.check_names(list(objective))
        weights_T = np.zeros(int(self.offsets_R[-1]))
        for name, weight in objective.items():
            if not weight >= 0:
                raise ScoreError(
                    f"{name}: weight {weight} in the objective; the exact optimum needs weights of at least 0"
                )
            tokens, shares_T = self.token_weights[name]
            np.add.at(weights_T, tokens, weight * shares_T)
        if not weights_T.any():
            raise ScoreError(
                f"the objective {dict(objective)}: no score has a weight above 0, so nothing is to be found"
            )
        return weights_T

    def _prepare(self, name: str) -> _Score:
        tokens, weights_T = self.token_weights[name]
        blocks, bits_of_largest = [], 0.0
        for start in range(0, len(tokens), TOKENS_A_BLOCK):
            place = slice(start, start + TOKENS_A_BLOCK)
            logprobs_CT = self.logprobs_CT[:, tokens[place]]
            largest_T = logprobs_CT.max(axis=0)
            ratios_CT = np.exp(logprobs_CT - largest_T)
            blocks.append(_Block(ratios_CT, weights_T[place].astype(np.float32), ratios_CT.min(axis=1)))
            bits_of_largest -= float(largest_T.astype(np.float64) @ weights_T[place]) / np.log(2.0)
        return _Score(blocks, bits_of_largest, tokens, weights_T)

    def _scores_M(self, score: _Score, weights_MC: Array) -> Array:
        weights32_MC = weights_MC.astype(np.float32)
        mixed_MT = np.empty((len(weights_MC), TOKENS_A_BLOCK), np.float32)
        nats_M = np.zeros(len(weights_MC))
        safe_M = np.ones(len(weights_MC), dtype=bool)
        for block in score.blocks:
            block_MT = mixed_MT[:, : len(block.weights_T)]
            safe_M &= (weights32_MC * block.least_C).max(axis=1) > SAFE
            np.matmul(weights32_MC, block.ratios_CT, out=block_MT)
            with np.errstate(divide="ignore"):  # only in rows that are not safe
                np.log(block_MT, out=block_MT)
            nats_M -= block_MT @ block.weights_T
        scores_M: Array = score.bits_of_largest + nats_M / np.log(2.0)
        for row in np.flatnonzero(~safe_M):
            scores_M[row] = self._bits_T(weights_MC[row], score.tokens) @ score.weights_T
        return scores_M
