"""LightGBM: every round run, silent, fast on a large pool, and settings of its own for few points."""

from functools import partial

import numpy as np
import pytest

from nemo_demix.config import PredictorConfig
from nemo_demix.errors import ConfigError
from nemo_demix.prediction.folds import draw_folds, out_of_fold
from nemo_demix.prediction.lightgbm_model import LARGE_POOL, fit, settle
from nemo_demix.prediction.predictors import fit_predictor

RNG = np.random.default_rng(0)
WEIGHTS_MC = RNG.dirichlet(np.ones(4), size=200)
FRESH_XC = RNG.dirichlet(np.ones(4), size=500)
SCORES = {"linear": WEIGHTS_MC @ np.array([1.0, 2.0, 3.0, 4.0]), "square": (WEIGHTS_MC[:, 0] - 0.4) ** 2}
CONFIG = PredictorConfig()


def test_it_predicts_what_it_was_not_fitted_on():
    predicted = fit_predictor(CONFIG, WEIGHTS_MC, SCORES, 0).predict(FRESH_XC)
    truth = {"linear": FRESH_XC @ np.array([1.0, 2.0, 3.0, 4.0]), "square": (FRESH_XC[:, 0] - 0.4) ** 2}
    assert list(predicted) == ["linear", "square"]
    for name, truth_X in truth.items():
        assert predicted[name].shape == (500,)
        assert np.corrcoef(predicted[name], truth_X)[0, 1] > 0.95


@pytest.mark.parametrize("num_leaves", [15, 31])
def test_a_large_pool_gets_the_same_bytes_as_its_rows_alone(num_leaves):
    predictor = fit_predictor(PredictorConfig(num_leaves=num_leaves), WEIGHTS_MC, SCORES, 0)
    alone = predictor.predict(FRESH_XC)
    copies = LARGE_POOL // len(FRESH_XC) + 1
    pool = predictor.predict(np.tile(FRESH_XC, (copies, 1)))
    for name in SCORES:
        assert len(pool[name]) > LARGE_POOL
        assert pool[name].tobytes() == copies * alone[name].tobytes()


def test_every_round_is_run():
    regressor = fit(PredictorConfig(num_rounds=37), WEIGHTS_MC, SCORES["linear"], 0)
    assert regressor.booster.num_trees() == 37


def test_tuning_leaves_settings_that_cannot_learn():
    few = {"linear": SCORES["linear"][:28]}
    truth_X = FRESH_XC @ np.array([1.0, 2.0, 3.0, 4.0])
    errors = []
    for tune in (False, True):
        config = PredictorConfig(min_data_in_leaf=15, tune=tune)  # no split leaves 15 of 28 on both sides
        errors.append(np.std(fit_predictor(config, WEIGHTS_MC[:28], few, 0).predict(FRESH_XC)["linear"] - truth_X))
    assert errors[1] < 0.6 * errors[0]


def test_tuning_does_not_see_the_fold_that_is_predicted():
    weights_MC, scores_M = WEIGHTS_MC[:40], SCORES["linear"][:40]
    fold_M = draw_folds(weights_MC, 2, np.random.default_rng(0))
    changed_M = np.where(fold_M == 1, scores_M[::-1] * 100, scores_M)
    tuned = partial(settle, PredictorConfig(tune=True, num_rounds=40))
    given, changed = (out_of_fold(tuned, weights_MC, column_M, fold_M, 0) for column_M in (scores_M, changed_M))
    assert given[fold_M == 1].tobytes() == changed[fold_M == 1].tobytes()


def test_it_is_silent(capfd):
    tiny_MC = WEIGHTS_MC[:8]
    fit_predictor(CONFIG, tiny_MC, {"constant": np.ones(8), "x": SCORES["linear"][:8]}, 0).predict(tiny_MC)
    assert capfd.readouterr() == ("", "")


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match=r"search.predictor: expected num_leaves >= 2"):
        fit_predictor(PredictorConfig(num_leaves=1), WEIGHTS_MC, SCORES, 0)
