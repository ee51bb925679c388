"""`auto` takes what predicts best, and a stack is the weighted mean that its members make."""

import numpy as np
import pytest

from nemo_demix.config import PredictorConfig
from nemo_demix.prediction.ensembles import MEMBERS, Stack
from nemo_demix.prediction.predictors import fit_predictor

RNG = np.random.default_rng(0)
WEIGHTS_MC = RNG.dirichlet(np.ones(4), size=60)
FRESH_XC = RNG.dirichlet(np.ones(4), size=200)
CONFIG = PredictorConfig(num_rounds=60, num_bootstrap=3)


def steps(weights_XC):
    return np.floor(4 * weights_XC[:, 0]) + 2 * (weights_XC[:, 1] > 0.3)


def test_auto_takes_trees_for_steps_and_something_smooth_for_a_line():
    scores = {"steps": steps(WEIGHTS_MC), "line": WEIGHTS_MC @ np.array([1.0, 2.0, 3.0, 5.0])}
    predictor = fit_predictor(PredictorConfig(kind="auto", num_rounds=200), WEIGHTS_MC, scores, 0)
    assert predictor.chosen["steps"] == "lightgbm"
    assert predictor.chosen["line"] in {"ridge", "log_linear", "gaussian_process"}
    alone = fit_predictor(PredictorConfig(num_rounds=200), WEIGHTS_MC, {"steps": scores["steps"]}, 0)
    assert predictor.predict(FRESH_XC)["steps"].tobytes() == alone.predict(FRESH_XC)["steps"].tobytes()


def test_kinds_that_an_inner_fold_leaves_too_few_mixtures_for_are_not_tried():
    scores = {"line": WEIGHTS_MC[:10] @ np.array([1.0, 2.0, 3.0, 5.0])}
    wide_MC = np.hstack([WEIGHTS_MC[:10], np.zeros((10, 4))])
    assert MEMBERS["log_linear"].min_rows(8) == 11
    chosen = fit_predictor(PredictorConfig(kind="stacked"), wide_MC, scores, 0).chosen["line"]
    assert "log_linear" not in chosen.split("+")


def test_a_stack_is_about_as_good_as_its_best_member():
    truth_X = np.exp(FRESH_XC @ np.array([-1.0, 0.0, 1.0, 2.0]))
    scores = {"law": np.exp(WEIGHTS_MC @ np.array([-1.0, 0.0, 1.0, 2.0])) + RNG.normal(scale=0.1, size=60)}
    errors = {}
    for kind in [*MEMBERS, "stacked"]:
        predictor = fit_predictor(PredictorConfig(kind=kind, num_rounds=100), WEIGHTS_MC, scores, 0)
        errors[kind] = float(np.sqrt(np.mean((predictor.predict(FRESH_XC)["law"] - truth_X) ** 2)))
    best = min(errors[kind] for kind in MEMBERS)
    assert errors["stacked"] < 1.5 * best
    assert errors["stacked"] < np.median([errors[kind] for kind in MEMBERS])


class Fixed:
    """A model of known mean and standard deviation."""

    def __init__(self, mean, std):
        self.mean, self.std = mean, std

    def predict(self, weights_XC):
        return np.full(len(weights_XC), self.mean)

    def predict_std(self, weights_XC):
        return np.full(len(weights_XC), self.std)


def test_a_stacks_standard_deviation_is_that_of_the_members_mixture():
    stack = Stack(np.array([0.25, 0.75]), [Fixed(1.0, 0.3), Fixed(3.0, 0.1)])
    assert stack.predict(FRESH_XC[:1]) == pytest.approx([2.5])
    draws = np.random.default_rng(0)
    first = draws.random(400_000) < 0.25
    sampled = np.where(first, draws.normal(1.0, 0.3, 400_000), draws.normal(3.0, 0.1, 400_000))
    assert stack.predict_std(FRESH_XC[:1]) == pytest.approx([sampled.std()], rel=5e-3)
