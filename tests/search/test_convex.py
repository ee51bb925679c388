"""The exact best mixture of predictions: against a closed form, a fine grid, and everything that constraints allow."""

import numpy as np
import pytest

from nemo_demix.config import ConstraintsConfig, GroupConfig
from nemo_demix.constraints import Constraints
from nemo_demix.errors import ScoreError
from nemo_demix.mixture import BlendMatrix, token_proportional
from nemo_demix.search.convex import best_prediction_mixture
from nemo_demix.search.token_predictions import TokenPredictions

OBJECTIVE = {"a": 0.4, "b": 0.6}


def predictions_of(logprobs_CT: np.ndarray) -> TokenPredictions:
    """Requests of ten tokens; the first half of the tokens is score a, the other score b."""
    num_tokens = logprobs_CT.shape[1]
    halves = np.split(np.arange(num_tokens), 2)
    weights = {
        name: (tokens, np.full(len(tokens), 0.3 / len(tokens))) for name, tokens in zip("ab", halves, strict=True)
    }
    return TokenPredictions(logprobs_CT.astype(np.float32), np.arange(0, num_tokens + 1, 10), weights)


def drawn(num_components: int, num_tokens: int, spread: float, seed: int = 0) -> TokenPredictions:
    """Components that find the same tokens easy, each better at some."""
    rng = np.random.default_rng(seed)
    difficulty_T = rng.gamma(1.0, 2.0, num_tokens)
    factors_CT = np.exp(spread * rng.normal(size=(num_components, num_tokens)))
    return predictions_of(-difficulty_T * factors_CT - spread * rng.random((num_components, 1)))


def blend_of(num_components: int) -> BlendMatrix:
    return BlendMatrix.demix([f"d{number}" for number in range(num_components)], "d0", 0.5)


def value_of(predictions: TokenPredictions, weights_MC: np.ndarray) -> np.ndarray:
    scores = predictions.scores_MB(weights_MC, list(OBJECTIVE))
    return sum(weight * scores[name] for name, weight in OBJECTIVE.items())


def test_where_each_token_is_known_to_one_component_the_weights_are_the_tokens_shares() -> None:
    owners_T = np.repeat([0, 1, 2], [100, 300, 600])
    logprobs_CT = np.where(owners_T == np.arange(3)[:, None], -1.0, -60.0)
    predictions = TokenPredictions(
        logprobs_CT.astype(np.float32), np.arange(0, 1001, 10), {"a": (np.arange(1000), np.full(1000, 0.001))}
    )
    found = best_prediction_mixture(predictions, {"a": 1.0}, Constraints.none(blend_of(3)))
    assert found.weights_C == pytest.approx([0.1, 0.3, 0.6], abs=1e-4)
    entropy = -sum(share * np.log2(share) for share in (0.1, 0.3, 0.6))
    assert found.value == pytest.approx(entropy + 1.0 / np.log(2.0), rel=1e-8)
    assert found.optimality_gap <= 1e-7 * found.value


def test_a_component_that_is_best_everywhere_gets_everything() -> None:
    logprobs_CT = drawn(5, 400, 0.3).logprobs_CT
    logprobs_CT[2] = logprobs_CT.max(axis=0) + 0.1
    found = best_prediction_mixture(predictions_of(logprobs_CT), OBJECTIVE, Constraints.none(blend_of(5)))
    assert found.weights_C == pytest.approx(np.eye(5)[2], abs=1e-9)
    assert found.optimality_gap <= 1e-7 * found.value


@pytest.mark.parametrize("config", [ConstraintsConfig(), ConstraintsConfig(max={"d1": 0.1}, min={"d2": 0.15})])
def test_no_point_of_a_fine_grid_is_better(config: ConstraintsConfig) -> None:
    predictions = drawn(3, 500, 1.0)
    constraints = Constraints.build(config, blend_of(3), None, None)
    found = best_prediction_mixture(predictions, OBJECTIVE, constraints)
    steps = np.arange(401)
    grid = np.array([(i, j, 400 - i - j) for i in steps for j in steps[: 401 - i]]) / 400
    allowed_MC = grid[constraints.satisfied_M(grid)]
    values_M = value_of(predictions, allowed_MC)
    assert constraints.satisfied_M(found.weights_C[None]).all()
    assert found.value <= values_M.min() + 1e-6
    assert found.value == pytest.approx(values_M.min(), abs=1e-4)  # the grid is as near as its steps
    assert np.abs(allowed_MC[values_M.argmin()] - found.weights_C).max() <= 0.01
    assert value_of(predictions, found.weights_C[None])[0] == pytest.approx(found.value, rel=1e-6)


@pytest.mark.parametrize("num_components", [7, 20, 50])
@pytest.mark.parametrize("spread", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("kind", ["none", "linear", "divergence"])
def test_the_gap_certifies_the_optimum_under_every_constraint(num_components: int, spread: float, kind: str) -> None:
    predictions = drawn(num_components, 1000, spread, seed=num_components)
    blend = blend_of(num_components)
    linear = ConstraintsConfig(
        min={"d0": 0.55},
        max={"d1": 0.6 / num_components},
        pinned={"d2": 0.4 / num_components},
        groups={"g": GroupConfig(["d3", "d4"], 0.2 / num_components, 0.9 / num_components)},
    )
    config = {"none": ConstraintsConfig(), "linear": linear, "divergence": ConstraintsConfig(max_kl=0.02)}[kind]
    prior = dict(zip(blend.datasets, np.full(num_components, 1 / num_components) @ blend.rows_CD, strict=True))
    constraints = Constraints.build(
        config, blend, None, token_proportional({k: int(1e9 * v) for k, v in prior.items()})
    )
    found = best_prediction_mixture(predictions, OBJECTIVE, constraints)
    assert constraints.satisfied_M(found.weights_C[None]).all()
    assert 0 <= found.optimality_gap <= 1e-6 * found.value
    # Nothing on the way from the optimum to many other mixtures, as far as they are allowed, is better.
    others_MC = np.random.default_rng(1).dirichlet(np.full(num_components, 0.3), 200)
    near_MC = np.vstack([found.weights_C + step * (others_MC - found.weights_C) for step in (1e-3, 1e-2, 0.1, 1.0)])
    near_MC = np.vstack([near_MC, constraints.nearest(others_MC[0])])
    values_M = value_of(predictions, near_MC[constraints.satisfied_M(near_MC)])
    assert len(values_M) >= 1
    assert values_M.min() >= found.value - found.optimality_gap - 2e-6 * found.value


def test_a_least_weight_is_kept_and_its_price_is_in_the_gap() -> None:
    predictions, blend = drawn(7, 500, 1.0), blend_of(7)
    free = best_prediction_mixture(predictions, OBJECTIVE, Constraints.none(blend))
    constraints = Constraints.build(ConstraintsConfig(min_used=0.2), blend, None, None)
    found = best_prediction_mixture(predictions, OBJECTIVE, constraints)
    used_C = found.weights_C[found.weights_C > 0]
    assert used_C.min() >= 0.2 - 1e-9
    assert free.weights_C[free.weights_C > 0].min() < 0.2
    assert found.value > free.value
    assert found.value - found.optimality_gap <= free.value + 1e-9


def test_same_input_same_bytes() -> None:
    constraints = Constraints.build(ConstraintsConfig(max={"d1": 0.05}), blend_of(7), None, None)
    one, two = (best_prediction_mixture(drawn(7, 500, 1.0), OBJECTIVE, constraints) for _ in range(2))
    assert one.weights_C.tobytes() == two.weights_C.tobytes()


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ({"code/pass@1": 1.0}, r"code/pass@1: .* bits per byte only: a, b; use search.proxy=merge"),
        ({"a": 1.0, "b": -0.5}, r"b: weight -0.5 in the objective"),
        ({"a": 0.0, "b": 0.0}, "no score has a weight above 0"),
    ],
)
def test_what_is_not_convex_is_refused(objective: dict[str, float], message: str) -> None:
    with pytest.raises(ScoreError, match=message):
        best_prediction_mixture(drawn(3, 100, 0.3), objective, Constraints.none(blend_of(3)))
