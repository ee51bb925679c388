"""What every kind of predictor promises; a new kind is held to it by being registered."""

import dataclasses
import os
from functools import partial

import numpy as np
import pytest

from nemo_demix.config import PredictorConfig
from nemo_demix.errors import ConfigError, MixtureError, ScoreError
from nemo_demix.prediction.correlation import spearman
from nemo_demix.prediction.cross_validation import cross_validate
from nemo_demix.prediction.ensembles import MEMBERS
from nemo_demix.prediction.folds import draw_folds, out_of_fold
from nemo_demix.prediction.predictors import PREDICTORS, fit_predictor, refits

RNG = np.random.default_rng(0)
SLOPES_C = np.array([-1.5, 0.5, 1.0, -0.5])
WEIGHTS_MC = RNG.dirichlet(np.ones(4), size=36)
FRESH_XC = np.vstack([np.eye(4), RNG.dirichlet(np.ones(4), size=60)])


def law(weights_XC):
    return 2 + np.exp(weights_XC @ SLOPES_C)


SCORES = {
    "loss": law(WEIGHTS_MC) + RNG.normal(scale=0.02, size=36),
    "accuracy": 30 - 8 * (WEIGHTS_MC[:, 1] - 0.4) ** 2 + RNG.normal(scale=0.1, size=36),
}

pytestmark = pytest.mark.parametrize("kind", PREDICTORS)


def config(kind, **changes):
    return dataclasses.replace(
        PredictorConfig(kind=kind, num_rounds=60, num_bootstrap=3, folds=2, repeats=1), **changes
    )


def both(predictor, rows_XC=FRESH_XC):
    """Means and standard deviations as bytes."""
    found = (predictor.predict(rows_XC), predictor.predict_std(rows_XC))
    return [column.tobytes() for columns in found for column in columns.values()]


def test_a_finite_mean_and_standard_deviation_for_every_row_and_benchmark(kind):
    predictor = fit_predictor(config(kind), WEIGHTS_MC, SCORES, 0)
    assert set(predictor.chosen) == set(SCORES)
    assert all(predictor.chosen.values())
    for rows_XC in (FRESH_XC, FRESH_XC[:1], FRESH_XC[:0]):
        for columns in (predictor.predict(rows_XC), predictor.predict_std(rows_XC)):
            assert list(columns) == list(SCORES)
            for column in columns.values():
                assert column.shape == (len(rows_XC),)
                assert column.dtype == np.float64
                assert np.isfinite(column).all()
    spread = predictor.predict_std(FRESH_XC)
    assert all((column >= 0).all() and column.max() > 0 for column in spread.values())


def test_same_seed_same_bytes_on_any_number_of_threads(kind):
    allowed = os.sched_getaffinity(0)
    first = both(fit_predictor(config(kind), WEIGHTS_MC, SCORES, 3))
    os.sched_setaffinity(0, {min(allowed)})  # there is a thread for each processor
    try:
        assert both(fit_predictor(config(kind), WEIGHTS_MC, SCORES, 3)) == first
    finally:
        os.sched_setaffinity(0, allowed)


def test_the_order_of_rows_and_benchmarks_does_not_matter(kind):
    order_M = np.random.default_rng(1).permutation(36)
    shuffled = {name: SCORES[name][order_M] for name in reversed(SCORES)}
    given, mixed = (
        fit_predictor(config(kind), weights_MC, scores, 0)
        for weights_MC, scores in ((WEIGHTS_MC, SCORES), (WEIGHTS_MC[order_M], shuffled))
    )
    assert given.chosen == mixed.chosen
    for name in SCORES:
        assert given.predict(FRESH_XC)[name].tobytes() == mixed.predict(FRESH_XC)[name].tobytes()
        assert given.predict_std(FRESH_XC)[name].tobytes() == mixed.predict_std(FRESH_XC)[name].tobytes()


@pytest.mark.parametrize("sign", [1, -1])
def test_it_learns_a_smooth_function_of_either_direction(kind, sign):
    rng = np.random.default_rng(5)
    weights_MC = rng.dirichlet(np.ones(4), size=96)
    scores = {"law": sign * law(weights_MC) + rng.normal(scale=0.01, size=96)}
    fresh_XC = rng.dirichlet(np.ones(4), size=300)
    predicted_X = fit_predictor(config(kind, num_rounds=200), weights_MC, scores, 0).predict(fresh_XC)["law"]
    assert spearman(sign * law(fresh_XC), predicted_X) > 0.9


def test_the_unit_of_a_score_does_not_change_what_is_learnt(kind):
    once = fit_predictor(config(kind), WEIGHTS_MC, SCORES, 0)
    if kind == "lightgbm":  # it adds scores up in float32: only a factor that leaves their digits alone changes nothing
        scaled = fit_predictor(config(kind), WEIGHTS_MC, {name: 64 * score_M for name, score_M in SCORES.items()}, 0)
        for name in SCORES:
            assert scaled.predict(FRESH_XC)[name] == pytest.approx(64 * once.predict(FRESH_XC)[name], rel=1e-12)
        return
    scaled = fit_predictor(config(kind), WEIGHTS_MC, {name: 7 - 64 * score_M for name, score_M in SCORES.items()}, 0)
    for name in SCORES:
        expected_X = 7 - 64 * once.predict(FRESH_XC)[name]
        assert spearman(expected_X, scaled.predict(FRESH_XC)[name]) > 0.97


def test_a_constant_score_is_predicted_as_such_and_has_no_correlation(kind):
    scores = {"flat": np.full(36, 1.5), "loss": SCORES["loss"]}
    predictor = fit_predictor(config(kind), WEIGHTS_MC, scores, 0)
    assert predictor.predict(FRESH_XC)["flat"] == pytest.approx(1.5)
    found = cross_validate(config(kind), WEIGHTS_MC, scores, {"flat": "math", "loss": "code"}, 0)
    assert found.benchmark_rho["flat"] is None
    assert found.benchmark_rmse["flat"] == pytest.approx(0, abs=1e-9)
    assert found.capability_rho["math"] is None
    assert found.rho_macro is None
    assert found.capability_rho["code"] > 0.5


def test_predictions_of_a_fold_do_not_hang_on_its_scores(kind):
    fold_M = draw_folds(WEIGHTS_MC, 3, np.random.default_rng(0))
    settle = partial(PREDICTORS[kind].settle, config(kind))
    changed_M = np.where(fold_M == 1, SCORES["loss"][::-1] * 100, SCORES["loss"])
    given, changed = (out_of_fold(settle, WEIGHTS_MC, scores_M, fold_M, 0) for scores_M in (SCORES["loss"], changed_M))
    assert given[fold_M == 1].tobytes() == changed[fold_M == 1].tobytes()
    assert given[fold_M == 0].tobytes() != changed[fold_M == 0].tobytes()


@pytest.mark.slow
def test_noise_is_not_predicted(kind):
    """A kind or a setting chosen on the fold that is then scored would show as a correlation above 0."""
    count = 16 if kind in MEMBERS else 6  # the others fit all members in inner folds, too
    noise = {str(number): column for number, column in enumerate(np.random.default_rng(9).normal(size=(count, 36)))}
    found = cross_validate(config(kind, num_rounds=20), WEIGHTS_MC, noise, dict.fromkeys(noise, "noise"), 0)
    defined = [rho for rho in found.benchmark_rho.values() if rho is not None]
    assert np.mean(defined or [0.0]) < 0.12  # its standard error is 0.04 over 16, 0.07 over 6
    assert np.mean(list(found.benchmark_rmse.values())) > 0.95 * np.mean([np.std(column) for column in noise.values()])


def test_refits_vary_and_repeat_with_their_seed(kind):
    first, second = (list(refits(config(kind), WEIGHTS_MC, SCORES, 4, 3)) for _ in range(2))
    assert len(first) == 3
    predicted = [refit.predict(FRESH_XC)["loss"] for refit in first]
    assert [column.tobytes() for column in predicted] == [r.predict(FRESH_XC)["loss"].tobytes() for r in second]
    assert not np.array_equal(predicted[0], predicted[1])


def test_a_mixture_scored_twice_counts_once(kind):
    few = PREDICTORS[kind].min_rows(4) - 1
    rows_M = np.arange(36) % few
    with pytest.raises(ScoreError, match=rf"kind={kind}: expected {few + 1} distinct.*found {few} in 36 rows"):
        fit_predictor(config(kind), WEIGHTS_MC[rows_M], SCORES, 0)
    enough_M = np.arange(36) % (few + 5)
    assert np.isfinite(fit_predictor(config(kind), WEIGHTS_MC[enough_M], SCORES, 0).predict(FRESH_XC)["loss"]).all()


@pytest.mark.parametrize("fit", [fit_predictor, partial(refits, count=2)])
@pytest.mark.parametrize(
    ("weights_MC", "scores", "error", "message"),
    [
        (WEIGHTS_MC, {}, ScoreError, "at least one benchmark"),
        (WEIGHTS_MC, {"gsm8k": np.ones(35)}, ScoreError, r"gsm8k: expected 36 scores, .* found shape \(35,\)"),
        (WEIGHTS_MC, {"gsm8k": np.append(np.ones(35), np.nan)}, ScoreError, "gsm8k: .* found nan in row 35"),
        (WEIGHTS_MC, {"gsm8k": np.append(np.inf, np.ones(35))}, ScoreError, "gsm8k: .* found inf in row 0"),
        (2 * WEIGHTS_MC, SCORES, MixtureError, "row 0 is not on the simplex"),
        (WEIGHTS_MC[:, 0], SCORES, MixtureError, r"shape \(M, C\), found shape \(36,\)"),
    ],
)
def test_bad_input_is_refused(kind, fit, weights_MC, scores, error, message):
    with pytest.raises(error, match=message):
        fit(config(kind), weights_MC, scores, 0)


def test_rows_to_predict_are_checked(kind):
    predictor = fit_predictor(config(kind), WEIGHTS_MC, SCORES, 0)
    for predict in (predictor.predict, predictor.predict_std):
        with pytest.raises(MixtureError, match=r"expected shape \(M, 4\), found \(64, 3\)"):
            predict(FRESH_XC[:, :3])
        with pytest.raises(MixtureError, match="row 0 is not on the simplex"):
            predict(FRESH_XC * 2)


def test_a_standard_deviation_needs_two_refits(kind):
    with pytest.raises(ConfigError, match=r"num_bootstrap: expected 2 refits or more.*found 1"):
        fit_predictor(config(kind, num_bootstrap=1), WEIGHTS_MC, SCORES, 0)
