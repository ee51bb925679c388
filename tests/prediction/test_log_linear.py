"""The mixing law is found where it holds, and stands an outlier."""

import numpy as np
import pytest

from nemo_demix.config import PredictorConfig
from nemo_demix.prediction.log_linear import settle

RNG = np.random.default_rng(0)
WEIGHTS_MC = RNG.dirichlet(np.ones(5), size=60)
FRESH_XC = np.vstack([np.eye(5), RNG.dirichlet(np.ones(5), size=50)])
SLOPES_C = np.array([-2.0, -0.5, 0.0, 0.5, 1.0])


def law(sign, weights_XC):
    return sign * (2.5 + 0.4 * np.exp(weights_XC @ SLOPES_C))


def fitted(weights_MC, scores_M):
    return settle(PredictorConfig(), weights_MC, scores_M, 0).fit(weights_MC, scores_M, 0)


@pytest.mark.parametrize("sign", [1, -1])
def test_an_exact_law_is_recovered_beyond_the_scored_mixtures(sign):
    model = fitted(WEIGHTS_MC, law(sign, WEIGHTS_MC))
    assert model.predict(FRESH_XC) == pytest.approx(law(sign, FRESH_XC), rel=2e-3)


def test_a_linear_score_is_the_limit_of_the_law():
    model = fitted(WEIGHTS_MC, WEIGHTS_MC @ SLOPES_C)
    assert np.corrcoef(model.predict(FRESH_XC), FRESH_XC @ SLOPES_C)[0, 1] > 0.99


def test_an_outlier_pulls_less_than_in_least_squares():
    scores_M = law(1, WEIGHTS_MC)
    scores_M[7] += 20 * scores_M.std()
    error = np.abs(fitted(WEIGHTS_MC, scores_M).predict(WEIGHTS_MC) - law(1, WEIGHTS_MC))
    assert np.median(error) < 0.3 * law(1, WEIGHTS_MC).std()


def test_a_component_that_no_mixture_uses_gets_finite_predictions():
    unused_MC = np.hstack([WEIGHTS_MC, np.zeros((60, 1))])
    model = fitted(unused_MC, law(1, WEIGHTS_MC))
    assert np.isfinite(model.predict(np.eye(6))).all()
