"""The registry, and that means do not pay for standard deviations."""

import subprocess
import sys

import numpy as np
import pytest

from nemo_demix.config import PredictorConfig
from nemo_demix.errors import ConfigError
from nemo_demix.prediction import base
from nemo_demix.prediction.predictors import fit_predictor

RNG = np.random.default_rng(0)
WEIGHTS_MC = RNG.dirichlet(np.ones(3), size=20)
SCORES = {"loss": WEIGHTS_MC @ np.array([1.0, 2.0, 3.0])}


def test_an_unknown_kind_is_refused_with_those_that_exist():
    with pytest.raises(ConfigError, match=r"search.predictor.kind: expected one of lightgbm, ridge.*found 'forest'"):
        fit_predictor(PredictorConfig(kind="forest"), WEIGHTS_MC, SCORES, 0)


def test_refits_for_the_standard_deviation_wait_and_are_kept(monkeypatch):
    drawn = []
    draw = base.resampled_rows
    monkeypatch.setattr(base, "resampled_rows", lambda *inputs: drawn.append(1) or draw(*inputs))
    predictor = fit_predictor(PredictorConfig(num_rounds=10, num_bootstrap=5), WEIGHTS_MC, SCORES, 0)
    predictor.predict(WEIGHTS_MC)
    assert not drawn
    first, second = predictor.predict_std(WEIGHTS_MC)["loss"], predictor.predict_std(WEIGHTS_MC)["loss"]
    assert len(drawn) == 5
    assert first.tobytes() == second.tobytes()


def test_predicting_takes_no_torch():
    code = "import sys, nemo_demix.prediction.cross_validation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
