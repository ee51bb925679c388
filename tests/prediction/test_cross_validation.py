"""Cross-validation against an oracle, and what is undefined stays undefined."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import spearmanr

from nemo_demix.artifacts import load_record, write_json
from nemo_demix.config import PredictorConfig
from nemo_demix.errors import ConfigError, ScoreError
from nemo_demix.prediction.cross_validation import CrossValidation, cross_validate, spearman
from nemo_demix.prediction.inputs import check_scored
from nemo_demix.prediction.predictors import fit_predictor

RNG = np.random.default_rng(0)
DRAWN_MC = RNG.dirichlet(np.ones(4), size=96)
WEIGHTS_MC, SCORES = check_scored(
    DRAWN_MC,
    {
        "easy": DRAWN_MC @ np.array([1.0, 2.0, 3.0, 4.0]),
        "hard": DRAWN_MC[:, 0] + RNG.normal(scale=0.2, size=96),
        "noise": RNG.normal(size=96),
    },
)
CAPABILITY_OF = {"easy": "math", "hard": "math", "noise": "code"}
CONFIG = PredictorConfig(num_rounds=60)


def test_figures_are_those_of_predictions_of_held_out_rows():
    config = PredictorConfig(num_rounds=60, folds=4, repeats=1)
    found = cross_validate(config, WEIGHTS_MC, SCORES, CAPABILITY_OF, 5)
    fold_M = np.random.default_rng(5).permutation(96) % 4
    predicted = {name: np.zeros(96) for name in SCORES}
    for fold in range(4):
        kept_M = fold_M != fold
        kept = {name: scores_M[kept_M] for name, scores_M in SCORES.items()}
        held = fit_predictor(config, WEIGHTS_MC[kept_M], kept, 5).predict(WEIGHTS_MC[~kept_M])
        for name in SCORES:
            predicted[name][~kept_M] = held[name]
    best_M = np.argsort(SCORES["easy"])[:24]
    assert found.benchmark_rho["easy"] == spearmanr(SCORES["easy"], predicted["easy"]).statistic
    assert found.benchmark_rho_top["easy"] == spearmanr(SCORES["easy"][best_M], predicted["easy"][best_M]).statistic
    error_M = (predicted["easy"] + predicted["hard"] - SCORES["easy"] - SCORES["hard"]) / 2
    assert found.capability_rmse["math"] == pytest.approx(np.sqrt(np.mean(error_M**2)), rel=1e-12)
    assert found.rho_macro == pytest.approx((found.capability_rho["math"] + found.capability_rho["code"]) / 2)
    assert found.num_rows == 96


def test_the_order_of_rows_does_not_matter():
    order_M = np.random.default_rng(3).permutation(96)
    shuffled = {name: scores_M[order_M] for name, scores_M in SCORES.items()}
    given = cross_validate(CONFIG, WEIGHTS_MC, SCORES, CAPABILITY_OF, 2)
    assert cross_validate(CONFIG, WEIGHTS_MC[order_M], shuffled, CAPABILITY_OF, 2) == given


def test_a_mixture_scored_again_is_not_predicted_from_its_repeat():
    rng = np.random.default_rng(4)
    weights_MC = np.repeat(rng.dirichlet(np.ones(4), size=30), 2, axis=0)
    noise = {"noise": np.repeat(rng.normal(size=30), 2)}
    config = PredictorConfig(kind="gaussian_process", folds=5, repeats=2)
    found = cross_validate(config, weights_MC, noise, {"noise": "code"}, 0)
    assert (found.benchmark_rho["noise"] or 0.0) < 0.4


def test_what_can_be_predicted_is_told_from_noise():
    found = cross_validate(CONFIG, WEIGHTS_MC, SCORES, CAPABILITY_OF, 0)
    assert found.benchmark_rho["easy"] > 0.9
    assert abs(found.benchmark_rho["noise"]) < 0.35
    assert found.benchmark_rmse["noise"] > 0.9 * np.std(SCORES["noise"])


def test_same_seed_same_record_and_it_can_be_read_back(tmp_path):
    first, second = (cross_validate(CONFIG, WEIGHTS_MC, SCORES, CAPABILITY_OF, 1) for _ in range(2))
    assert first == second
    write_json(tmp_path / "cv.json", first)
    assert load_record(tmp_path / "cv.json", CrossValidation) == first


def test_repeats_are_averaged_not_pooled_into_an_ensemble():
    once = cross_validate(dataclasses.replace(CONFIG, repeats=1), WEIGHTS_MC, SCORES, CAPABILITY_OF, 0)
    often = cross_validate(dataclasses.replace(CONFIG, repeats=6), WEIGHTS_MC, SCORES, CAPABILITY_OF, 0)
    assert often.repeats == 6
    assert often.benchmark_rmse["hard"] == pytest.approx(once.benchmark_rmse["hard"], rel=0.1)


def test_a_constant_score_has_no_correlation_and_no_macro():
    scores = {**SCORES, "noise": np.full(96, 2.0)}
    found = cross_validate(CONFIG, WEIGHTS_MC, scores, CAPABILITY_OF, 0)
    assert found.benchmark_rho["noise"] is None
    assert found.capability_rho["code"] is None
    assert found.rho_macro is None
    assert found.capability_rmse["code"] == pytest.approx(0, abs=1e-12)
    assert found.capability_rho["math"] is not None


def test_the_best_quarter_follows_the_direction():
    mirrored = {name: -scores_M for name, scores_M in SCORES.items()}
    lower = cross_validate(CONFIG, WEIGHTS_MC, SCORES, CAPABILITY_OF, 0)
    higher = cross_validate(CONFIG, WEIGHTS_MC, mirrored, CAPABILITY_OF, 0, dict.fromkeys(SCORES, True))
    wrong = cross_validate(CONFIG, WEIGHTS_MC, mirrored, CAPABILITY_OF, 0)
    assert higher.benchmark_rho_top["easy"] == pytest.approx(lower.benchmark_rho_top["easy"], abs=0.02)
    assert wrong.benchmark_rho_top["easy"] != pytest.approx(lower.benchmark_rho_top["easy"], abs=0.02)


def test_spearman_is_undefined_where_it_has_no_meaning():
    assert spearman(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 9.0])) == pytest.approx(1)
    assert spearman(np.array([1.0, 2.0, 3.0]), np.ones(3)) is None
    assert spearman(np.ones(3), np.array([1.0, 2.0, 3.0])) is None
    assert spearman(np.array([1.0, 2.0]), np.array([1.0, 2.0])) is None


@pytest.mark.parametrize(
    ("config", "capability_of", "directions", "kind", "message"),
    [
        (PredictorConfig(folds=1), CAPABILITY_OF, None, ConfigError, "expected folds from 2 to 48"),
        (PredictorConfig(folds=49), CAPABILITY_OF, None, ConfigError, "found 49 and 2"),
        (PredictorConfig(repeats=0), CAPABILITY_OF, None, ConfigError, "repeats >= 1, found 5 and 0"),
        (CONFIG, {"easy": "math"}, None, ScoreError, "no capability for benchmark hard, noise"),
        (CONFIG, CAPABILITY_OF, {"easy": True}, ScoreError, "no direction for hard"),
        (
            CONFIG,
            CAPABILITY_OF,
            {"easy": True, "hard": False, "noise": True},
            ScoreError,
            "math: its average",
        ),
    ],
)
def test_what_cannot_be_validated_is_refused(config, capability_of, directions, kind, message):
    with pytest.raises(kind, match=message):
        cross_validate(config, WEIGHTS_MC, SCORES, capability_of, 0, directions)
