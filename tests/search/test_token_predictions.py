"""Mixed predictions, against float64 arithmetic on the probabilities themselves."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_demix.search.token_predictions import MIXTURES_A_BLOCK, TOKENS_A_BLOCK, TokenPredictions


def predictions_of(logprobs_CT: np.ndarray, lengths_R: list[int]) -> TokenPredictions:
    """One benchmark score over the even requests, by their own lengths, and one held-out score over all tokens."""
    offsets_R = np.concatenate([[0], np.cumsum(lengths_R)])
    even = range(0, len(lengths_R), 2)
    tokens = np.concatenate([np.arange(offsets_R[row], offsets_R[row + 1]) for row in even])
    weights_T = np.concatenate([np.full(lengths_R[row], 1 / (len(even) * 3 * lengths_R[row])) for row in even])
    every = np.arange(offsets_R[-1])
    weights = {"benchmark": (tokens, weights_T), "heldout": (every, np.full(len(every), 0.2 / len(every)))}
    return TokenPredictions(logprobs_CT.astype(np.float32), offsets_R, weights)


def drawn(num_components: int = 4, num_requests: int = 50, seed: int = 0) -> TokenPredictions:
    rng = np.random.default_rng(seed)
    lengths_R = rng.integers(1, 40, num_requests).tolist()
    return predictions_of(-rng.gamma(1.0, 3.0, (num_components, sum(lengths_R))), lengths_R)


def oracle_R(predictions: TokenPredictions, weights_C: np.ndarray) -> np.ndarray:
    mixed_T = weights_C @ np.exp(predictions.logprobs_CT.astype(np.longdouble))
    bits_T = -np.log2(mixed_T)
    return np.array(
        [bits_T[start:end].sum() for start, end in np.lib.stride_tricks.sliding_window_view(predictions.offsets_R, 2)]
    )


@given(seed=st.integers(0, 1000), concentration=st.sampled_from([0.1, 1.0, 10.0]))
def test_bits_are_those_of_the_mixed_probabilities(seed: int, concentration: float) -> None:
    predictions = drawn(seed=seed)
    weights_C = np.random.default_rng(seed).dirichlet(np.full(4, concentration))
    assert predictions.bits_R(weights_C) == pytest.approx(oracle_R(predictions, weights_C).astype(float), rel=1e-12)


def test_one_component_alone_gives_its_own_bits() -> None:
    predictions = drawn()
    for row_T, weights_C in zip(predictions.logprobs_CT, np.eye(4), strict=True):
        own_R = np.add.reduceat(-row_T.astype(np.float64) / np.log(2.0), predictions.offsets_R[:-1])
        assert predictions.bits_R(weights_C).tobytes() == own_R.tobytes()


def test_many_mixtures_at_once_are_each_as_alone() -> None:
    predictions = drawn(num_requests=300)
    assert predictions.offsets_R[-1] > 2 * TOKENS_A_BLOCK
    weights_MC = np.vstack([np.eye(4), np.random.default_rng(0).dirichlet(np.ones(4), 2 * MIXTURES_A_BLOCK + 7)])
    scores = predictions.scores_MB(weights_MC, ["heldout", "benchmark"])
    assert list(scores) == ["heldout", "benchmark"]
    for row in (0, 3, 4, MIXTURES_A_BLOCK, len(weights_MC) - 1):
        bits_R = predictions.bits_R(weights_MC[row])
        lengths_R = np.diff(predictions.offsets_R)
        expected = {
            "heldout": 0.2 * bits_R.sum() / lengths_R.sum(),
            "benchmark": (bits_R / (3 * lengths_R))[::2].mean(),
        }
        for name, score in expected.items():
            assert scores[name][row] == pytest.approx(score, rel=1e-6)
            assert predictions.scores_MB(weights_MC[row : row + 1], [name])[name][0] == pytest.approx(score, rel=1e-6)
    again = predictions.scores_MB(weights_MC, ["heldout", "benchmark"])
    assert all(scores[name].tobytes() == again[name].tobytes() for name in scores)
    assert predictions.scores_MB(np.empty((0, 4)), ["heldout"])["heldout"].shape == (0,)


def test_components_too_far_apart_for_fp32_are_still_exact() -> None:
    """A token that one component gives e^-1 and the other e^-200, and none of the first in the mixture."""
    predictions = predictions_of(np.array([[-1.0, -2.0, -1.5], [-200.0, -2.0, -300.0]]), [2, 1])
    weights_MC = np.array([[0.0, 1.0], [1e-40, 1.0], [0.5, 0.5]])
    found_M = predictions.scores_MB(weights_MC, ["heldout"])["heldout"]
    expected_M = [0.2 * predictions.bits_R(weights_C).sum() / 3 for weights_C in weights_MC]
    assert found_M == pytest.approx(expected_M, rel=1e-6)
    assert found_M[0] == pytest.approx(0.2 * 502 / np.log(2.0) / 3)
    assert found_M[1] < found_M[0]


def test_scores_are_convex_in_the_weights() -> None:
    predictions = drawn()
    one_MC, two_MC = np.random.default_rng(0).dirichlet(np.ones(4), (2, 100))
    scores = [
        predictions.scores_MB(rows_MC, ["heldout"])["heldout"] for rows_MC in (one_MC, two_MC, (one_MC + two_MC) / 2)
    ]
    assert (scores[2] <= (scores[0] + scores[1]) / 2 + 1e-6).all()


def test_thousands_of_mixtures_a_second() -> None:
    rng = np.random.default_rng(0)
    predictions = predictions_of(-rng.gamma(1.0, 2.0, (7, 30_000)), [10] * 3000)
    weights_MC = rng.dirichlet(np.ones(7), 2000)
    started = time.process_time()
    predictions.scores_MB(weights_MC, ["heldout"])
    assert time.process_time() - started < 2.0  # 12,000 a CPU second were measured
