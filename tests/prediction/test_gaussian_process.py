"""The posterior and the likelihood against scikit-learn's."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel

from nemo_demix.config import PredictorConfig
from nemo_demix.prediction import gaussian_process
from nemo_demix.prediction.gaussian_process import CHUNK, Process, marginal_loss, settle

RNG = np.random.default_rng(0)
WEIGHTS_MC = RNG.dirichlet(np.ones(3), size=40)
SCORES_M = 5 + 3 * np.sin(4 * WEIGHTS_MC[:, 0]) + RNG.normal(scale=0.1, size=40)
SETTINGS_T = np.array([2.0, 0.8, 1.5, 3.0, 0.05])


def oracle():
    kernel = ConstantKernel(SETTINGS_T[0]) * RBF(SETTINGS_T[1:-1])
    regressor = GaussianProcessRegressor(kernel, alpha=SETTINGS_T[-1], optimizer=None, normalize_y=True)
    return regressor.fit(WEIGHTS_MC / WEIGHTS_MC.std(axis=0), SCORES_M)


def test_mean_and_standard_deviation_of_the_function_are_those_of_scikit_learn():
    fresh_XC = RNG.dirichlet(np.ones(3), size=CHUNK + 50)
    process = Process.fit(gaussian_process.weights, SETTINGS_T, WEIGHTS_MC, SCORES_M)
    mean_X, std_X = oracle().predict(fresh_XC / WEIGHTS_MC.std(axis=0), return_std=True)
    assert process.predict(fresh_XC) == pytest.approx(mean_X, rel=1e-9)
    assert process.predict_std(fresh_XC) == pytest.approx(std_X, rel=1e-6)


def test_the_likelihood_is_that_of_scikit_learn_and_its_gradient_is_right():
    rows_MC = WEIGHTS_MC / WEIGHTS_MC.std(axis=0)
    apart_CMM = (rows_MC.T[:, :, None] - rows_MC.T[:, None, :]) ** 2
    standard_M = (SCORES_M - SCORES_M.mean()) / SCORES_M.std()
    loss, gradient_T = marginal_loss(np.log(SETTINGS_T), apart_CMM, standard_M)
    assert -loss - 20 * np.log(2 * np.pi) == pytest.approx(oracle().log_marginal_likelihood_value_, rel=1e-9)
    numeric_T = approx_fprime(np.log(SETTINGS_T), lambda at_T: marginal_loss(at_T, apart_CMM, standard_M)[0], 1e-6)
    assert gradient_T == pytest.approx(numeric_T, abs=1e-3)


def test_it_is_surer_near_scored_mixtures_and_the_noise_is_not_in_it():
    near_XC = RNG.dirichlet(np.full(3, 30.0), size=200)
    scores_M = near_XC @ np.array([1.0, 2.0, 3.0]) + RNG.normal(scale=0.5, size=200)
    model = settle(PredictorConfig(), near_XC, scores_M, 0).fit(near_XC, scores_M, 0)
    inside, corner = model.predict_std(np.array([[1 / 3, 1 / 3, 1 / 3], [0.0, 0.0, 1.0]]))
    assert inside < corner
    assert inside < 0.25


def test_more_rows_than_its_settings_need_are_still_learnt_from(monkeypatch):
    monkeypatch.setattr(gaussian_process, "MAX_SETTLED_ROWS", 12)
    model = settle(PredictorConfig(), WEIGHTS_MC, SCORES_M, 0).fit(WEIGHTS_MC, SCORES_M, 0)
    assert model.rows_MC.shape == (40, 3)
    assert np.corrcoef(model.predict(WEIGHTS_MC), SCORES_M)[0, 1] > 0.9
