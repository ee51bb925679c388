"""The look-up tables against LightGBM's own predictions, bit for bit."""

import lightgbm as lgb
import numpy as np
import pytest

from nemo_demix.prediction.forest import CHUNK, MAX_LEAVES, Forest

ROWS_XC = np.random.default_rng(1).dirichlet(np.full(6, 0.7), size=CHUNK + 500)


def fitted(rounds, leaves, num_rows=300, target=None):
    rng = np.random.default_rng(0)
    rows_MC = rng.dirichlet(np.ones(6), size=num_rows)
    target_M = np.sqrt(rows_MC + 0.01) @ rng.normal(size=6) if target is None else np.full(num_rows, target)
    parameters = {"num_leaves": leaves, "min_data_in_leaf": 3, "verbosity": -1, "num_threads": 1}
    return lgb.train(parameters, lgb.Dataset(rows_MC, target_M), rounds)


@pytest.mark.parametrize("rounds", [1, 4, 50, 103])
@pytest.mark.parametrize("leaves", [2, 7, MAX_LEAVES])
def test_same_bytes_as_lightgbm(rounds, leaves):
    booster = fitted(rounds, leaves)
    assert Forest.of(booster).predict(ROWS_XC).tobytes() == booster.predict(ROWS_XC).tobytes()


def test_same_bytes_on_the_thresholds_themselves():
    booster = fitted(50, 15)
    forest = Forest.of(booster)
    rng = np.random.default_rng(2)
    rows_XC = np.column_stack([rng.choice(cuts, size=2000) for cuts in forest.cuts])
    for shifted_XC in (rows_XC, np.nextafter(rows_XC, 1), np.nextafter(rows_XC, 0)):
        assert forest.predict(shifted_XC).tobytes() == booster.predict(shifted_XC).tobytes()


def test_trees_of_one_leaf():
    booster = fitted(10, 15, target=2.5)
    assert Forest.of(booster).predict(ROWS_XC).tobytes() == booster.predict(ROWS_XC).tobytes()
    assert Forest.of(booster).predict(ROWS_XC[:3]).tolist() == [2.5, 2.5, 2.5]
