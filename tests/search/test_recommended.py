"""The recommended search: the minimum itself, above floors, by predictions or by a smooth predictor over merges."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from nemo_demix.config import ConstraintsConfig, PredictorConfig, SearchConfig
from nemo_demix.constraints import Constraints
from nemo_demix.errors import ConfigError, MixtureError, refuse
from nemo_demix.mixture import Array, BlendMatrix
from nemo_demix.search import refine
from nemo_demix.search.convex import Limit, Optimum, best_prediction_mixture
from nemo_demix.search.floors import LADDER, nothing_gained
from nemo_demix.search.minimise import minimise
from nemo_demix.search.pool import wide_pool
from nemo_demix.search.proxy_row import ProxyRow
from nemo_demix.search.ranking import Ranking, floor_weights
from nemo_demix.search.reach import edges
from nemo_demix.search.refine import choose_refined
from nemo_demix.search.strategies import Problem, build_strategy, settings_errors, strategy_of
from nemo_demix.search.token_predictions import TokenPredictions
from tests.search.bowls import BEST, FAST, NAMES, space_of
from tests.search.bowls import row as scored_row

SETTINGS = SearchConfig(
    strategy="recommended", proxy="auto", objective="mean", iterations=[12, 6, 4], pool_size=3000, select_top=16,
    num_refits=4, predictor=replace(FAST, kind="gaussian_process"),
)  # fmt: skip
MERGED = replace(SETTINGS, proxy="merge", num_refits=0, pool_size=1000)
GROUPS = [f"benchmark/{name}" for name in NAMES]
HELDOUT = {f"heldout/{name}": name for name in NAMES}
BESIDE = {"general": {"general": 0.9, "math": 0.05, "code": 0.05}}


class TokenScreen:
    """Mixed predictions of three components, each the best at the tokens of its own benchmark."""

    def __init__(self, predictions: TokenPredictions) -> None:
        self.predictions = predictions

    @classmethod
    def drawn(cls, seed: int = 0, general_helps: float = 0.0) -> "TokenScreen":
        """Args: general_helps: Nats by which the first component is better at every token of the others."""
        rng = np.random.default_rng(seed)
        owner_T = np.repeat(np.arange(3), 200)
        logprobs_CT = -rng.gamma(2.0, 1.5, 600) * np.exp(0.2 * rng.normal(size=(3, 600)))
        logprobs_CT[owner_T, np.arange(600)] += 0.5
        logprobs_CT[0, 200:] += general_helps
        weights = {
            group: (np.flatnonzero(owner_T == place), np.full(200, 1 / 600)) for place, group in enumerate(GROUPS)
        }
        # Held-out text that is like the first capability's, whatever dataset it is of.
        parts = np.split(np.arange(200), [100, 150])
        weights |= {
            name: (part, np.full(len(part), 1 / (3 * len(part)))) for name, part in zip(HELDOUT, parts, strict=True)
        }
        return cls(TokenPredictions(np.minimum(logprobs_CT, -1e-3).astype(np.float32), np.arange(0, 601, 10), weights))

    def scores_MB(self, weights_MC: Array, groups: Sequence[str]) -> dict[str, Array]:
        return self.predictions.scores_MB(weights_MC, groups)

    def optimum(
        self, constraints: Constraints, objective: Mapping[str, float], limits: Sequence[Limit] = ()
    ) -> Optimum:
        return best_prediction_mixture(self.predictions, objective, constraints, limits)

    def resampled(self, rng: np.random.Generator) -> "TokenScreen":
        return TokenScreen(self.predictions.resampled(rng))

    def portable(self, groups: Sequence[str], resampled: Sequence[Any]) -> dict[str, Any]:
        return self.predictions.portable(groups, [one.predictions for one in resampled])


def grid() -> Array:
    steps = np.arange(201)
    return np.array([(i, j, 200 - i - j) for i in steps for j in steps[: 201 - i]]) / 200


def all_pay(weights_C: Array) -> ProxyRow:
    """Each capability pays for what its own component loses, so that only a baseline itself is above floors of 0."""
    return scored_row(weights_C, {f"benchmark/{name}": 2.0 - w for name, w in zip(NAMES, weights_C, strict=True)})


def macro(screen: TokenScreen, weights_MC: Array) -> Array:
    return np.mean(list(screen.scores_MB(weights_MC, GROUPS).values()), axis=0)


def test_by_predictions_no_mixture_of_a_grid_that_keeps_the_floors_is_better() -> None:
    screen, space = TokenScreen.drawn(), space_of()
    baseline_C = space.as_array(space.blend.merge_weights_for(space.baselines["proportional"])[0])
    at_baseline = screen.scores_MB(baseline_C[None], GROUPS)
    scores = screen.scores_MB(grid(), GROUPS)
    values = []
    for floor in (None, 0.005, 0.0):
        settings = replace(SETTINGS, proxy="predictions", default_floor=floor)
        choice = build_strategy(Problem(settings, space, 0), screen).result()
        chosen_C = space.as_array(choice.merge_weights)
        kept_M = np.all(
            [scores[name] <= at_baseline[name] + (9 if floor is None else floor) for name in GROUPS], axis=0
        )
        value = float(macro(screen, chosen_C[None])[0])
        assert value <= macro(screen, grid())[kept_M].min() + 1e-6
        assert choice.notes["objective"] == pytest.approx(value, rel=1e-6)
        assert choice.notes["optimality_gap"] <= 1e-6
        worse = {name: choice.predicted[name]["score"] - choice.baselines["proportional"][name] for name in NAMES}
        assert floor is None or max(worse.values()) <= floor + 1e-6
        values.append(value)
    assert all(looser < tighter for looser, tighter in pairwise(values))  # every floor costs something here


def test_no_mixture_of_a_grid_that_keeps_the_floor_under_held_out_text_is_better() -> None:
    screen, space = TokenScreen.drawn(), replace(space_of(), heldout={**HELDOUT, "heldout/more": "code"})
    screen.predictions.token_weights["heldout/more"] = screen.predictions.token_weights["heldout/code"]
    heldout = {"heldout/general": 1 / 3, "heldout/math": 1 / 3, "heldout/code": 1 / 6, "heldout/more": 1 / 6}

    def of_heldout(weights_MC: Array) -> Array:
        scores = screen.scores_MB(weights_MC, list(heldout))
        return np.sum([weight * scores[name] for name, weight in heldout.items()], axis=0)

    space = replace(space, baselines=BESIDE)
    baseline_C = space.as_array(space.blend.merge_weights_for(space.baselines["general"])[0])
    most = float(of_heldout(baseline_C[None])[0])
    settings = replace(SETTINGS, proxy="predictions", floor_baseline="general", heldout_floor=0.0)
    free = build_strategy(Problem(replace(settings, heldout_floor=None), space, 0), screen).result()
    assert of_heldout(space.as_array(free.merge_weights)[None])[0] > most + 0.01  # it pays with held-out text
    assert "heldout" not in free.notes
    choice = build_strategy(Problem(settings, space, 0), screen).result()
    chosen_C = space.as_array(choice.merge_weights)
    kept_M = of_heldout(grid()) <= most
    assert macro(screen, chosen_C[None])[0] <= macro(screen, grid())[kept_M].min() + 1e-6
    assert of_heldout(chosen_C[None])[0] <= most + 1e-6
    assert choice.notes["heldout"] == {"score": pytest.approx(most, abs=1e-6), "most": pytest.approx(most)}
    front_MC = np.array([space.as_array(one["merge_weights"]) for one in choice.pareto])
    assert (of_heldout(front_MC) <= most + 1e-6).all()


def test_where_only_the_baseline_keeps_its_floors_by_predictions_it_is_the_answer() -> None:
    """Floors as tight as that are met to the rounding of fp32 probabilities, not to less."""
    groups = [f"benchmark/{place}" for place in range(6)]
    owner_T = np.repeat(np.arange(6), 100)
    weights = {name: (np.flatnonzero(owner_T == place), np.full(100, 0.01)) for place, name in enumerate(groups)}
    free = Constraints.none(BlendMatrix.unmixed(tuple(groups)))
    for seed in range(10):
        rng = np.random.default_rng(seed)
        logprobs_CT = -rng.gamma(2.0, 1.5, 600) * np.exp(0.3 * rng.normal(size=(6, 600)))
        logprobs_CT[owner_T, np.arange(600)] += 0.5
        logprobs = np.minimum(logprobs_CT, -1e-3).astype(np.float32)
        screen = TokenScreen(TokenPredictions(logprobs, np.arange(0, 601, 10), weights))
        # The best of some weighting: whatever is better in one score is worse in another.
        some = dict(zip(groups, rng.dirichlet(np.ones(6)).tolist(), strict=True))
        baseline_C = screen.optimum(free, some).weights_C
        at = screen.scores_MB(baseline_C[None], groups)
        limits = [Limit({name: 1.0}, float(at[name][0])) for name in groups]
        found = screen.optimum(free, dict.fromkeys(groups, 1 / 6), limits)
        assert found.weights_C == pytest.approx(baseline_C, abs=5e-3)
        assert found.value == pytest.approx(np.mean([at[name] for name in groups]), abs=1e-6)


def test_what_floors_cost_is_the_optimum_above_each() -> None:
    screen, space = TokenScreen.drawn(), replace(space_of(), heldout=HELDOUT)
    settings = replace(SETTINGS, proxy="predictions", default_floor=0.002, heldout_floor=0.0)
    own, *ladder = build_strategy(Problem(settings, space, 0), screen).result().notes["floors"]
    assert (own["default_floor"], own["heldout_floor"]) == (0.002, 0.0)
    assert [row["default_floor"] for row in ladder] == [row["heldout_floor"] for row in ladder] == list(LADDER)
    assert all(looser["objective"] <= tighter["objective"] + 1e-6 for tighter, looser in pairwise(ladder))
    assert ladder[-1]["objective"] < own["objective"] < ladder[0]["objective"]
    for row in (own, *ladder):
        assert row["objective"] == pytest.approx(np.mean(list(row["capabilities"].values())))
        if row["default_floor"] is not None:
            assert max(row["capabilities"].values()) <= row["default_floor"] + 1e-6
            assert row["heldout"] <= row["heldout_floor"] + 1e-6
        changed = replace(settings, default_floor=row["default_floor"], heldout_floor=row["heldout_floor"])
        chosen = build_strategy(Problem(changed, space, 0), screen).result()
        assert row["data_shares"] == space.blend.data_shares(chosen.merge_weights)


def test_floors_that_leave_nothing_are_told_with_what_others_would_buy(caplog: pytest.LogCaptureFixture) -> None:
    """A dataset a capability, and a baseline that is the best of some weighting: what one gains, another pays."""
    screen, space = TokenScreen.drawn(), space_of()
    best = screen.optimum(space.constraints, dict(zip(GROUPS, (0.2, 0.2, 0.6), strict=True)))
    counted_from = space.blend.data_shares(space.as_weights(best.weights_C))
    space = replace(space, baselines={"proportional": counted_from})
    settings = replace(SETTINGS, proxy="predictions", default_floor=0.0)
    with caplog.at_level("WARNING"):
        prices = build_strategy(Problem(settings, space, 0), screen).result().notes["floors"]
    assert prices[0]["objective"] == pytest.approx(0, abs=1e-4)
    assert prices[-1]["objective"] < -0.001
    assert nothing_gained(prices)
    assert "no mixture is predicted to be better than the proportional one" in caplog.text
    caplog.clear()
    build_strategy(Problem(replace(settings, default_floor=0.005), space, 0), screen).result()
    assert "no mixture is predicted" not in caplog.text


def test_floors_of_single_capabilities_win_over_the_default() -> None:
    screen, space = TokenScreen.drawn(), space_of()
    free = build_strategy(Problem(replace(SETTINGS, proxy="predictions"), space, 0), screen).result()
    settings = replace(SETTINGS, proxy="predictions", default_floor=0.0, floors=dict.fromkeys(NAMES, 5.0))
    assert build_strategy(Problem(settings, space, 0), screen).result().merge_weights == free.merge_weights


def test_with_merges_beside_them_predictions_still_choose_and_demix_is_shown() -> None:
    screen, space = TokenScreen.drawn(), space_of()
    alone = build_strategy(Problem(replace(SETTINGS, proxy="predictions"), space, 0), screen).result()
    strategy, demix = (
        build_strategy(Problem(settings, space, 0), screen)
        for settings in (SETTINGS, replace(SETTINGS, strategy="demix", proxy="merge", predictor=FAST))
    )
    asked = 0
    while batch := strategy.ask():
        assert np.array_equal(batch, demix.ask())  # the very proxies of the published search
        rows = [scored_row(weights_C) for weights_C in batch]
        strategy.tell(rows)
        demix.tell(rows)
        asked += len(batch)
    assert asked == strategy_of(SETTINGS).num_proxies(SETTINGS) == 22
    choice = strategy.result()
    assert choice.merge_weights == alone.merge_weights
    assert choice.published == demix.result().merge_weights
    assert set(choice.baselines) == {"proportional", "equal", "demix"}
    assert choice.notes["merges"]["number"] == 22
    assert set(choice.notes["merges"]["rho"]) == set(NAMES)
    assert all(low <= high for one in choice.intervals.values() for low, high in one.values())
    assert choice.intervals["math"]["refits"][0] < choice.intervals["math"]["refits"][1]


def test_where_merges_choose_they_are_asked_for_where_they_may_improve() -> None:
    space, settings = space_of(), replace(SETTINGS, proxy="merge")
    strategy = build_strategy(Problem(settings, space, 0))
    demix = build_strategy(Problem(replace(settings, strategy="demix", predictor=FAST), space, 0))
    asked, rows = [], []
    while batch := strategy.ask():
        asked.append(batch)
        told = [scored_row(weights_C) for weights_C in batch]
        strategy.tell(told)
        rows += told
    assert np.array_equal(asked[0], demix.ask())  # what DeMix's iterations begin with
    assert [len(batch) for batch in asked] == [12, 4, 4, 2]
    best_C = np.array(list(BEST.values()))
    far = [np.abs(np.array(batch) - best_C).sum(axis=1).mean() for batch in asked]
    assert max(far[1:]) < 0.7 * far[0]
    choice = strategy.result()
    assert choice.notes == {"chosen_by": "merge"}
    assert choice.merge_weights == pytest.approx(BEST, abs=0.02)
    demix.tell(rows)
    assert choice.published is not None
    assert choice.published != choice.merge_weights
    assert sum(choice.published.values()) == pytest.approx(1)


def test_batches_go_on_where_only_the_floors_own_baseline_is_above_them() -> None:
    settings = replace(SETTINGS, proxy="merge", default_floor=0.0)
    space = space_of()
    strategy = build_strategy(Problem(settings, space, 0))
    num_told = 0
    while batch := strategy.ask():
        strategy.tell([all_pay(weights_C) for weights_C in batch])
        num_told += len(batch)
    assert num_told > 12
    chosen_C = space.as_array(strategy.result().merge_weights)
    assert chosen_C == pytest.approx(floor_weights(settings, space), abs=1e-3)


def test_over_merges_the_minimum_is_found_and_never_above_the_best_scored_mixture() -> None:
    space = space_of()
    rng = np.random.default_rng(0)
    rows = [scored_row(weights_C) for weights_C in rng.dirichlet(np.ones(3), 40)]
    best = scored_row(np.array(list(BEST.values())))
    choice = choose_refined(replace(SETTINGS, proxy="merge"), space, [*rows, best], 0)
    assert choice.merge_weights == pytest.approx(BEST, abs=5e-3)
    # A predictor of steps has no slopes to follow: what it was told is a candidate all the same.
    settings = replace(SETTINGS, proxy="merge", predictor=FAST)
    coarse = choose_refined(settings, space, [*rows, best], 0)
    bests = sum(prediction["score"] for prediction in coarse.predicted.values())
    alone = choose_refined(replace(settings, pool_size=16), space, [*rows, best], 0)
    assert sum(prediction["score"] for prediction in alone.predicted.values()) <= bests + 0.05
    assert alone.notes == {}


@pytest.mark.parametrize("seed", range(2))
def test_the_minimum_over_merges_is_not_where_little_was_scored(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of noisy scores, a fitted function is least where it follows noise: one in doubt has to be lower by that."""
    space, rng = space_of(), np.random.default_rng(seed)
    settings = replace(SETTINGS, proxy="merge")
    rows = []
    for weights_C in rng.dirichlet(np.full(3, 20.0), 24):
        scores_B = 2.0 + 0.5 * (weights_C - 1 / 3) ** 2 - 0.05 * weights_C[0] + 0.02 * rng.normal(size=3)
        rows.append(scored_row(weights_C, dict(zip(GROUPS, scores_B, strict=True))))
    cautious = choose_refined(settings, space, rows, 0)
    monkeypatch.setattr(refine, "CAUTION", 0.0)
    plain = choose_refined(settings, space, rows, 0)
    ranking = Ranking(settings, space, rows, 0)
    told_2C = np.array([space.as_array(one.merge_weights) for one in (cautious, plain)])
    mean_2, doubt_2 = (sum(found(told_2C).values()) for found in (ranking.averages, ranking.averages_std))
    assert mean_2[0] > mean_2[1]
    assert doubt_2[0] < 0.8 * doubt_2[1]
    assert (mean_2 + doubt_2)[0] < (mean_2 + doubt_2)[1]


def test_a_minimum_among_narrow_bumps_is_found_in_few_steps() -> None:
    """Fitted to noise alone, length scales are hundredths: slopes by a coarser step led nowhere for 47,000 steps."""
    space, rng = space_of(), np.random.default_rng(0)
    rows = []
    for weights_C in rng.dirichlet(np.full(3, 20.0), 24):
        scores_B = 2.0 + (weights_C - 1 / 3) ** 2 + 0.02 * rng.normal(size=3)
        rows.append(scored_row(weights_C, dict(zip(GROUPS, scores_B, strict=True))))
    ranking = Ranking(replace(SETTINGS, proxy="merge"), space, rows, 0)
    steps = 0

    def counted(weights_XC: Array) -> dict[str, Array]:
        nonlocal steps
        steps += 1
        return ranking.averages(weights_XC)

    refine.lowest(ranking, counted, refine.starts(ranking, wide_pool(ranking)))
    assert steps < 5000


def test_the_minimum_over_merges_keeps_floors_and_constraints() -> None:
    space = space_of(Constraints.build(ConstraintsConfig(max={"code": 0.1}), space_of().blend, None, None))
    rng = np.random.default_rng(1)
    rows = [scored_row(weights_C) for weights_C in rng.dirichlet(np.ones(3), 40)]
    choice = choose_refined(replace(SETTINGS, proxy="merge", default_floor=0.001), space, rows, 0)
    assert space.constraints.satisfied_M(space.as_array(choice.merge_weights)[None]).all()
    worse = [choice.predicted[name]["score"] - choice.baselines["proportional"][name] for name in NAMES]
    assert max(worse) <= 0.001 + 1e-6


def of_heldout(weights_MC: Array) -> Array:
    """What held-out text costs in the tests below: the less of the first component, the more, and little else."""
    found_M: Array = 1.0 + (0.7 - weights_MC[:, 0]) ** 2 + 0.05 * weights_MC[:, 1] ** 2
    return found_M


def with_heldout(weights_C: Array) -> ProxyRow:
    """A bowl's row with three held-out scores whose macro mean is `of_heldout`."""
    bowl = scored_row(weights_C)
    value = float(of_heldout(weights_C[None])[0])
    heldout = {name: value + shift for name, shift in zip(HELDOUT, (-0.1, 0.0, 0.1), strict=True)}
    return scored_row(weights_C, {**{name: score.score for name, score in bowl.scores.items()}, **heldout})


def test_where_merges_choose_the_floor_under_held_out_text_is_kept_too() -> None:
    space = replace(space_of(), heldout=HELDOUT, baselines=BESIDE)
    settings = replace(MERGED, floor_baseline="general", heldout_floor=0.0)
    found = {}
    for floor in (None, 0.0):
        strategy = build_strategy(Problem(replace(settings, heldout_floor=floor), space, 0))
        while batch := strategy.ask():
            strategy.tell([with_heldout(weights_C) for weights_C in batch])
        found[floor] = strategy.result()
    free_C, kept_C = (space.as_array(choice.merge_weights) for choice in found.values())
    most = float(of_heldout(floor_weights(settings, space)[None])[0])
    assert of_heldout(free_C[None])[0] > most + 0.01  # it pays with held-out text
    assert of_heldout(kept_C[None])[0] == pytest.approx(most, abs=2e-3)  # by a predictor of 22 proxies
    assert "heldout" not in found[None].notes
    note = found[0.0].notes["heldout"]
    assert note["score"] <= note["most"] + 1e-6
    assert note["most"] == pytest.approx(most, abs=2e-3)
    grid_MC = grid()
    allowed_M = of_heldout(grid_MC) <= most
    rows = [scored_row(weights_C) for weights_C in (kept_C, *grid_MC[allowed_M][::7])]
    bowl = [np.mean([row.scores[name].score for name in GROUPS]) for row in rows]
    assert bowl[0] <= min(bowl[1:]) + 2e-3
    front_MC = np.array([space.as_array(one["merge_weights"]) for one in found[0.0].pareto])
    assert (of_heldout(front_MC) <= most + 5e-3).all()


def test_where_merges_choose_what_floors_cost_is_told_too() -> None:
    space = replace(space_of(), heldout=HELDOUT, baselines=BESIDE)
    settings = replace(MERGED, floor_baseline="general", default_floor=0.002, heldout_floor=0.0)
    rows = [with_heldout(weights_C) for weights_C in np.random.default_rng(3).dirichlet(np.ones(3), 40)]
    own, *ladder = choose_refined(settings, space, rows, 0).notes["floors"]
    assert (own["default_floor"], own["heldout_floor"]) == (0.002, 0.0)
    assert [row["default_floor"] for row in ladder] == [row["heldout_floor"] for row in ladder] == list(LADDER)
    assert all(looser["objective"] <= tighter["objective"] + 1e-4 for tighter, looser in pairwise(ladder))
    assert ladder[-1]["objective"] < ladder[0]["objective"] - 0.001
    for row in (own, *ladder):
        assert row["objective"] == pytest.approx(np.mean(list(row["capabilities"].values())))
        if row["default_floor"] is not None:
            assert max(row["capabilities"].values()) <= row["default_floor"] + 1e-6
            assert row["heldout"] <= row["heldout_floor"] + 1e-6
    for floor in (0.01, None):
        (row,) = [row for row in ladder if row["default_floor"] == floor]
        chosen = choose_refined(replace(settings, default_floor=floor, heldout_floor=floor), space, rows, 0)
        assert row["data_shares"] == pytest.approx(space.blend.data_shares(chosen.merge_weights), abs=5e-3)


def test_proxies_without_held_out_scores_leave_that_floor_out_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    space = replace(space_of(), heldout=HELDOUT, baselines=BESIDE)
    settings = replace(MERGED, floor_baseline="general", heldout_floor=0.0)
    earlier = tuple(scored_row(weights_C) for weights_C in np.random.default_rng(0).dirichlet(np.ones(3), 4))
    strategy = build_strategy(Problem(settings, space, 0, earlier))
    while batch := strategy.ask():
        strategy.tell([with_heldout(weights_C) for weights_C in batch])
    with caplog.at_level("INFO"):
        assert strategy.result().notes == {"chosen_by": "merge"}
    assert "no floor under held-out text: not all proxies were scored on all of it" in caplog.text


def test_a_floor_under_held_out_text_that_the_constraints_do_not_reach_is_refused() -> None:
    elsewhere = space_of(Constraints.build(ConstraintsConfig(max={"general": 0.7}), space_of().blend, None, None))
    space = replace(elsewhere, heldout=HELDOUT, baselines=BESIDE)
    rows = [with_heldout(weights_C) for weights_C in np.random.default_rng(2).dirichlet(np.ones(3), 40)]
    settings = replace(MERGED, floor_baseline="general", heldout_floor=0.0)
    with pytest.raises(MixtureError, match=r"search\.heldout_floor=0\.0: no mixture of the pool"):
        choose_refined(settings, space, rows, 0)


def test_floors_that_only_their_own_baseline_keeps_leave_it() -> None:
    rng = np.random.default_rng(2)
    settings = replace(SETTINGS, proxy="merge", default_floor=0.0)
    space = space_of()
    rows = [all_pay(weights_C) for weights_C in rng.dirichlet(np.ones(3), 40)]
    choice = choose_refined(settings, space, rows, 0)
    baseline_C = floor_weights(settings, space)
    assert space.as_array(choice.merge_weights) == pytest.approx(baseline_C, abs=1e-3)
    elsewhere = space_of(Constraints.build(ConstraintsConfig(min={"code": 0.3}), space.blend, None, None))
    with pytest.raises(MixtureError, match=r"search\.floors: no mixture of the pool is above all"):
        choose_refined(settings, elsewhere, rows, 0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"objective": "percentile_rank"}, "ranks have no slope; expected one of mean, utility"),
        ({"strategy": "bayes", "proxy": "merge", "heldout_floor": 0.0}, r"bayes keeps no floor under held-out text"),
        ({"proxy": "both"}, r"recommended takes auto, merge or predictions; set search\.proxy=auto"),
        ({"strategy": "demix"}, r"search\.proxy=auto: demix takes merge, predictions or both; set search\.proxy=merge"),
    ],
)
def test_what_does_not_go_together_is_refused(changed: dict[str, str], message: str) -> None:
    refuse(settings_errors(SETTINGS))
    with pytest.raises(ConfigError, match=message):
        refuse(settings_errors(replace(SETTINGS, **changed)))


def test_floors_that_nothing_keeps_are_refused() -> None:
    """The components cannot come near the baseline: they have no general data but half of the first one's."""
    screen = TokenScreen.drawn(general_helps=0.4)
    far = space_of(Constraints.build(ConstraintsConfig(min={"code": 0.4}), space_of().blend, None, None))
    with pytest.raises(MixtureError, match=r"search\.floors: no mixture of predictions was found that keeps them"):
        build_strategy(Problem(replace(SETTINGS, proxy="predictions", default_floor=0.0), far, 0), screen).result()


# The edge of what components can stand for.


def test_an_answer_on_the_edge_says_so_and_what_lies_beyond() -> None:
    """With half of general data in every component, half is the least; less would be better here."""
    screen, space = TokenScreen.drawn(), space_of()
    settings = replace(SETTINGS, proxy="predictions", capability_weights={"general": 0.0})
    choice = build_strategy(Problem(settings, space, 0), screen).result()
    assert choice.merge_weights["general"] == pytest.approx(0.0, abs=1e-3)
    (edge,) = choice.reach
    assert (edge["dataset"], edge["bound"]) == ("general", "least")
    assert edge["share"] == pytest.approx(0.5, abs=1e-3)
    assert edge["gain"] > 0
    pure = space_of(blend=BlendMatrix(tuple(NAMES), tuple(NAMES), np.eye(3)))
    assert build_strategy(Problem(settings, pure, 0), screen).result().reach == []


def test_a_share_of_all_or_nothing_is_no_edge() -> None:
    space = space_of()
    assert edges(space, np.array([1.0, 0.0, 0.0]), None) == []  # nothing but general data: there is no more
    (most,) = edges(space, np.array([0.3, 0.7, 0.0]), None) or [None]
    assert most is None


# Minimising.


def test_a_restart_goes_on_where_rounding_stopped() -> None:
    """Fifty components under a divergence that binds: one descent ends .002 above the minimum."""
    rng = np.random.default_rng(50)
    blend = BlendMatrix.demix([f"d{number}" for number in range(50)], "d0", 0.5)
    prior = dict(zip(blend.datasets, np.full(50, 0.02) @ blend.rows_CD, strict=True))
    constraints = Constraints.build(ConstraintsConfig(max_kl=0.02), blend, None, prior)
    goal_C = rng.dirichlet(np.ones(50))

    def loss(weights_C: Array) -> tuple[float, Array]:
        gap_C = weights_C - goal_C
        return float(gap_C @ gap_C), 2 * gap_C

    found_C = minimise(loss, constraints, [], constraints.convex.centre_C[None])
    assert found_C is not None
    assert constraints.satisfied_M(found_C[None]).all()
    nearest_C = constraints.nearest(goal_C)
    assert loss(found_C)[0] <= loss(nearest_C)[0] + 1e-9


def test_where_no_start_leads_to_what_is_allowed_there_is_none() -> None:
    constraints = Constraints.none(space_of().blend)
    never = lambda weights_C: (1.0, np.zeros(3))  # noqa: E731
    assert minimise(never, constraints, [never], constraints.convex.centre_C[None]) is None


def test_any_smooth_predictor_has_slopes_to_follow() -> None:
    space = space_of()
    rng = np.random.default_rng(2)
    rows = [scored_row(weights_C) for weights_C in rng.dirichlet(np.ones(3), 60)]
    settings = replace(SETTINGS, proxy="merge", predictor=PredictorConfig(kind="ridge", num_bootstrap=2, folds=2))
    assert choose_refined(settings, space, rows, 0).merge_weights == pytest.approx(BEST, abs=0.05)
