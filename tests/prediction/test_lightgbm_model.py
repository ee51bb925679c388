"""The predictor: deterministic, silent, keyed by benchmark, and strict about its inputs."""

import numpy as np
import pytest

from nemo_demix.config import PredictorConfig
from nemo_demix.errors import ConfigError, MixtureError, ScoreError
from nemo_demix.prediction import lightgbm_model
from nemo_demix.prediction.lightgbm_model import fit_predictor

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


def test_same_seed_same_bytes():
    first, second = (fit_predictor(CONFIG, WEIGHTS_MC, SCORES, 3).predict(FRESH_XC) for _ in range(2))
    assert all(first[name].tobytes() == second[name].tobytes() for name in SCORES)


@pytest.mark.parametrize("num_leaves", [15, 31])
def test_a_large_pool_gets_the_same_bytes_as_its_rows_alone(num_leaves, monkeypatch):
    predictor = fit_predictor(PredictorConfig(num_leaves=num_leaves), WEIGHTS_MC, SCORES, 0)
    alone = predictor.predict(FRESH_XC)
    monkeypatch.setattr(lightgbm_model, "LARGE_POOL", 1)
    pool = predictor.predict(FRESH_XC)
    assert all(alone[name].tobytes() == pool[name].tobytes() for name in SCORES)


def test_every_round_is_run():
    predictor = fit_predictor(PredictorConfig(num_rounds=37), WEIGHTS_MC, SCORES, 0)
    assert {booster.num_trees() for booster in predictor.boosters.values()} == {37}


def test_it_is_silent(capfd):
    tiny_MC = WEIGHTS_MC[:8]
    fit_predictor(CONFIG, tiny_MC, {"constant": np.ones(8), "x": SCORES["linear"][:8]}, 0).predict(tiny_MC)
    assert capfd.readouterr() == ("", "")


def test_a_constant_score_is_predicted_as_such():
    predicted = fit_predictor(CONFIG, WEIGHTS_MC, {"constant": np.full(200, 1.5)}, 0).predict(FRESH_XC)
    assert predicted["constant"] == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("weights_MC", "scores", "message"),
    [
        (WEIGHTS_MC[:7], {"x": np.ones(7)}, "expected 8 scored mixtures or more, found 7"),
        (WEIGHTS_MC, {}, "at least one benchmark"),
        (WEIGHTS_MC, {"gsm8k": np.ones(199)}, r"gsm8k: expected 200 scores, found shape \(199,\)"),
        (WEIGHTS_MC, {"gsm8k": np.append(np.ones(199), np.nan)}, "gsm8k: expected finite scores, found nan in row 199"),
        (WEIGHTS_MC, {"gsm8k": np.append(np.inf, np.ones(199))}, "gsm8k: expected finite scores, found inf in row 0"),
    ],
)
def test_scores_it_cannot_be_fitted_on_are_refused(weights_MC, scores, message):
    with pytest.raises(ScoreError, match=message):
        fit_predictor(CONFIG, weights_MC, scores, 0)


def test_weights_off_the_simplex_are_refused():
    with pytest.raises(MixtureError, match="row 0 is not on the simplex"):
        fit_predictor(CONFIG, 2 * WEIGHTS_MC, SCORES, 0)
    predictor = fit_predictor(CONFIG, WEIGHTS_MC, SCORES, 0)
    with pytest.raises(MixtureError, match=r"expected shape \(M, 4\), found \(500, 3\)"):
        predictor.predict(FRESH_XC[:, :3])
    with pytest.raises(MixtureError, match=r"shape \(M, C\), found shape \(200,\)"):
        fit_predictor(CONFIG, WEIGHTS_MC[:, 0], SCORES, 0)


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match=r"search.predictor: expected num_leaves >= 2"):
        fit_predictor(PredictorConfig(num_leaves=1), WEIGHTS_MC, SCORES, 0)
