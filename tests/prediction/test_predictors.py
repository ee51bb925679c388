"""The registry, and that means do not pay for standard deviations."""

import subprocess
import sys
import time

import numpy as np
import pytest

from nemo_demix.config import PredictorConfig
from nemo_demix.errors import ConfigError
from nemo_demix.prediction.base import Bootstrapped
from nemo_demix.prediction.predictors import fit_predictor

RNG = np.random.default_rng(0)
WEIGHTS_MC = RNG.dirichlet(np.ones(3), size=20)
SCORES = {"loss": WEIGHTS_MC @ np.array([1.0, 2.0, 3.0])}


def test_an_unknown_kind_is_refused_with_those_that_exist():
    with pytest.raises(ConfigError, match=r"search.predictor.kind: expected one of lightgbm, ridge.*found 'forest'"):
        fit_predictor(PredictorConfig(kind="forest"), WEIGHTS_MC, SCORES, 0)


def test_refits_for_the_standard_deviation_wait_and_are_kept():
    fitted_on = []

    def fit(weights_MC, scores_M, seed):
        fitted_on.append(scores_M)
        return lambda weights_XC: np.full(len(weights_XC), scores_M.mean())

    scores_M = SCORES["loss"]
    model = Bootstrapped(fit, WEIGHTS_MC, scores_M, 0, 5)
    assert model.predict(WEIGHTS_MC[:2]).tolist() == [scores_M.mean()] * 2
    assert len(fitted_on) == 1
    first, second = model.predict_std(WEIGHTS_MC), model.predict_std(WEIGHTS_MC)
    assert len(fitted_on) == 1 + 5
    assert first.tobytes() == second.tobytes()
    drawn = fitted_on[1:]
    assert first[0] > 0
    assert first[0] == pytest.approx(np.std([drawn_M.mean() for drawn_M in drawn], ddof=1))
    for drawn_M in drawn:  # as many rows, with replacement
        assert len(drawn_M) == 20
        assert set(drawn_M) < set(scores_M)


def test_means_do_not_pay_for_standard_deviations():
    predictor = fit_predictor(PredictorConfig(num_rounds=10, num_bootstrap=200), WEIGHTS_MC, SCORES, 0)
    started = time.process_time()
    predictor.predict(WEIGHTS_MC)
    mean_s = time.process_time() - started
    predictor.predict_std(WEIGHTS_MC)
    assert time.process_time() - started > 10 * mean_s  # 70 were measured


def test_predicting_takes_no_torch():
    code = "import sys, nemo_demix.prediction.cross_validation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
