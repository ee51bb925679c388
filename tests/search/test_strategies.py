"""What every strategy has to do, whatever it asks for; and what each promises beyond that."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemo_demix.artifacts import canonical_json
from nemo_demix.config import BayesConfig, ConstraintsConfig, GroupConfig, MergeMixConfig, SearchConfig
from nemo_demix.constraints import Constraints
from nemo_demix.errors import ConfigError, MixtureError, ScoreError, refuse
from nemo_demix.mixture import Array, BlendMatrix
from nemo_demix.scoring.items import Score
from nemo_demix.search.choose import choose_from_rows
from nemo_demix.search.convex import Limit, Optimum
from nemo_demix.search.proxy_row import ProxyRow
from nemo_demix.search.space import SearchSpace
from nemo_demix.search.strategies import PROXIES, STRATEGIES, Problem, build_strategy, settings_errors, strategy_of
from nemo_demix.search.strategies.mergemix import seed_mixtures
from tests.search.bowls import BEST, BLEND, FAST, NAMES, Bowl, distance, search, space_of, values
from tests.search.bowls import row as scored_row

_BASE = SearchConfig(
    iterations=[20, 10, 6],
    pool_size=1500,
    select_top=16,
    num_refits=2,
    predictor=FAST,
    bayes=BayesConfig(initial=10, budget=22, batch=4, candidates=1000),
    mergemix=MergeMixConfig(seeds=20, verified=3),
)
_GAUSSIAN = replace(FAST, kind="gaussian_process")
# What a strategy needs besides `_BASE` to come near the optimum with so few proxies.
_OWN: dict[str, dict[str, Any]] = {
    "mergemix": {"objective": "utility"},
    "bayes": {"objective": "mean", "predictor": _GAUSSIAN},
    "recommended": {"objective": "mean", "predictor": _GAUSSIAN},
    "heuristic": {"heuristic": dict.fromkeys(NAMES, 1 / 3)},
    "mixmin": {"objective": "mean"},
}
SETTINGS = {name: replace(_BASE, strategy=name, **_OWN.get(name, {})) for name in STRATEGIES}
# Every strategy that is registered and asks for proxies, by its own account.
SEARCHES = {name: settings for name, settings in SETTINGS.items() if strategy_of(settings).num_proxies(settings)}
NUM_PROXIES = {"demix": 36, "mergemix": 23, "bayes": 22, "regmix": 36, "climb": 36, "recommended": 36}
PLAIN = [name for name, strategy in STRATEGIES.items() if not strategy.proxies]
# On data shares: math is 0.5 x its merge weight, so this keeps every mixture away from BEST.
TIGHT = ConstraintsConfig(
    min={"math": 0.15}, max={"code": 0.1}, groups={"stem": GroupConfig(["math", "code"], max=0.3)}
)
IDENTITY = BlendMatrix(tuple(NAMES), tuple(NAMES), np.eye(3))
every_search = pytest.mark.parametrize("settings", SEARCHES.values(), ids=SEARCHES.keys())


@every_search
def test_it_asks_for_what_it_says_and_ends_on_the_simplex(settings: SearchConfig, tmp_path: Path) -> None:
    bowl = Bowl()
    result = search(settings, tmp_path / "scores.jsonl", bowl)
    assert bowl.calls == len(result.rows) == strategy_of(settings).num_proxies(settings)
    assert bowl.calls == NUM_PROXIES.get(settings.strategy, bowl.calls)
    weights = result.choice.merge_weights
    assert sum(weights.values()) == pytest.approx(1, abs=1e-9)
    assert min(weights.values()) >= 0
    assert distance(weights) < 0.15
    keys = [canonical_json(row.merge_weights) for row in result.rows]
    assert len(set(keys)) == len(keys), "a mixture was asked for twice"


@every_search
def test_it_says_how_sure_it_is(settings: SearchConfig, tmp_path: Path) -> None:
    choice = search(settings, tmp_path / "scores.jsonl").choice
    assert set(choice.predicted) == set(NAMES)
    for value in choice.predicted.values():
        assert value["std"] == max(value["fit_std"], value["cv_rmse"]) > 0
    assert set(choice.intervals) == set(NAMES)
    for low_high in choice.intervals.values():
        assert low_high["top"][0] <= low_high["top"][1]
        assert low_high["refits"][0] <= low_high["refits"][1]
    assert set(choice.baselines) == {"proportional", "equal"}
    assert choice.pareto
    assert all(sum(point["data_shares"].values()) == pytest.approx(1) for point in choice.pareto)


@every_search
def test_constraints_hold_for_what_it_asks_and_what_it_ends_with(settings: SearchConfig, tmp_path: Path) -> None:
    space = space_of(Constraints.build(TIGHT, BLEND, None, None))
    result = search(settings, tmp_path / "scores.jsonl", space=space)
    asked_MC = np.array([space.as_array(row.merge_weights) for row in result.rows])
    assert space.constraints.satisfied_M(asked_MC).all()
    shares = BLEND.data_shares(result.choice.merge_weights)
    assert shares["math"] >= 0.15 - 1e-9
    assert shares["code"] <= 0.1 + 1e-9
    assert shares["math"] + shares["code"] <= 0.3 + 1e-9


@every_search
def test_cut_off_halfway_it_ends_in_the_same_bytes(settings: SearchConfig, tmp_path: Path) -> None:
    expected = search(settings, tmp_path / "whole.jsonl")
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    half = len(lines) // 2
    (tmp_path / "part.jsonl").write_text("".join(lines[:half]) + lines[half][:30])
    bowl = Bowl()
    found = search(settings, tmp_path / "part.jsonl", bowl)
    assert bowl.calls == len(lines) - half
    assert canonical_json(found) == canonical_json(expected)
    assert (tmp_path / "part.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@every_search
def test_failed_proxies_are_left_out_and_counted(settings: SearchConfig, tmp_path: Path) -> None:
    result = search(settings, tmp_path / "scores.jsonl", Bowl(fail_at=3))
    assert (result.num_failed, len(result.rows)) == (1, strategy_of(settings).num_proxies(settings) - 1)
    assert distance(result.choice.merge_weights) < 0.2


def test_demix_and_bayes_come_nearer_than_random_search_of_the_same_size(tmp_path: Path) -> None:
    """Random search ends with the best of as many random proxies; over three seeds, by the median."""

    def errors(strategy: str) -> float:
        settings = replace(SEARCHES[strategy], num_refits=0)
        found = [search(settings, tmp_path / f"{strategy}_{seed}", seed=seed) for seed in range(3)]
        return float(np.median([distance(result.choice.merge_weights) for result in found]))

    def random_error(count: int) -> float:
        best = []
        for seed in range(3):
            drawn_MC = np.random.default_rng(seed).dirichlet(np.ones(3), count)
            error_M = ((drawn_MC - list(BEST.values())) ** 2).sum(axis=1)
            best.append(np.abs(drawn_MC[error_M.argmin()] - list(BEST.values())).max())
        return float(np.median(best))

    assert errors("bayes") < min(0.02, random_error(22))
    assert errors("demix") < min(0.06, random_error(36))


def test_earlier_points_are_fitted_on_and_not_asked_for_again() -> None:
    """Points of a search before a dataset was added: they all weigh nothing on `code`."""
    space = space_of()
    drawn_M2 = np.random.default_rng(5).dirichlet(np.ones(2), 12)
    rows = []
    for index, (general, math) in enumerate(drawn_M2):
        scores = values({"general": general, "math": math, "code": 0.0})
        scores = {key: Score(value + 0.2 * math) for key, value in scores.items()}  # not the bowl's own
        rows.append(ProxyRow(f"old_{index}", {"general": general, "math": math}, scores=scores))
    alone = build_strategy(Problem(SEARCHES["bayes"], space, 0))
    helped = build_strategy(Problem(SEARCHES["bayes"], space, 0, tuple(rows)))
    batches = []
    for strategy in (alone, helped):
        first = strategy.ask()
        strategy.tell([scored_row(weights_C) for weights_C in first])
        batches.append((first, strategy.ask()))
    assert np.array_equal(batches[0][0], batches[1][0]), "the random start does not depend on earlier points"
    assert not np.array_equal(batches[0][1], batches[1][1]), "later batches do"


def test_mergemix_seeds_are_the_corners_pairs_and_priors_within_the_constraints() -> None:
    problem = Problem(SEARCHES["mergemix"], space_of(), 0)
    seeds = {tuple(np.round(row, 9)) for row in seed_mixtures(problem, 20)}
    assert {(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5), (0.6, 0.2, 0.2)} <= seeds
    assert len(seeds) == 20
    tight = space_of(Constraints.build(TIGHT, BLEND, None, None))
    seeds_MC = seed_mixtures(replace(problem, space=tight), 20)
    assert seeds_MC.shape == (20, 3)
    assert tight.constraints.satisfied_M(seeds_MC).all()


def test_mergemix_takes_the_best_of_what_it_verified(tmp_path: Path) -> None:
    result = search(SEARCHES["mergemix"], tmp_path / "scores.jsonl")
    verified = [row for row in result.rows if row.iteration == 1]
    best = min(verified, key=lambda row: row.scores["benchmark/math"].score)
    assert result.choice.merge_weights == best.merge_weights
    assert result.choice.notes == {"verified": 3, "taken": verified.index(best)}


@pytest.mark.parametrize("name", PLAIN)
def test_a_baseline_is_moved_no_farther_than_the_constraints_ask(name: str) -> None:
    baselines = {
        "proportional": {"general": 0.6, "math": 0.2, "code": 0.2},
        "equal": dict.fromkeys(NAMES, 1 / 3),
        "unimax": {"general": 0.5, "math": 0.3, "code": 0.2},
        "heuristic": {"general": 0.1, "math": 0.1, "code": 0.8},
    }
    free = replace(space_of(blend=IDENTITY), baselines=baselines)
    settings = SETTINGS[name]
    choice = build_strategy(Problem(settings, free, 0)).result()
    assert choice.merge_weights == pytest.approx(baselines[name])
    assert choice.notes["moved_share"] == pytest.approx(0, abs=1e-12)
    constraints = Constraints.build(ConstraintsConfig(max={"code": 0.15}), IDENTITY, None, None)
    choice = build_strategy(Problem(settings, replace(free, constraints=constraints), 0)).result()
    code = baselines[name]["code"]
    assert choice.merge_weights["code"] == pytest.approx(0.15, abs=1e-9)
    assert choice.notes["moved_share"] == pytest.approx(code - 0.15, abs=1e-6)
    assert (choice.predicted, choice.intervals, choice.pareto) == ({}, {}, [])


def test_heuristic_without_its_shares_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"search.strategy=heuristic: expected its data shares in search.heuristic"):
        build_strategy(Problem(replace(_BASE, strategy="heuristic"), space_of(), 0))


class BowlScreen:
    """A screen with known scores: the bowl, off by a constant."""

    def scores_MB(self, weights_MC: Array, groups: Sequence[str]) -> dict[str, Array]:
        error_M = ((weights_MC - list(BEST.values())) ** 2).sum(axis=1)
        return {group: 1.1 + error_M for group in groups}

    def optimum(
        self, constraints: Constraints, objective: Mapping[str, float], limits: Sequence[Limit] = ()
    ) -> Optimum:
        assert sum(objective.values()) == pytest.approx(1)
        return Optimum(constraints.nearest(np.array(list(BEST.values()))), 1.1, 0.0)

    def resampled(self, rng: np.random.Generator) -> "BowlScreen":
        return self

    def portable(self, groups: Sequence[str], resampled: Sequence[Any]) -> dict[str, Any]:
        raise NotImplementedError


def test_both_kinds_of_proxy_screen_a_pool_and_confirm_its_best() -> None:
    settings = replace(_BASE, proxy="both", confirm=5, objective="mean")
    space = space_of()
    strategy = build_strategy(Problem(settings, space, 0), BowlScreen())
    asked = strategy.ask()
    assert len(asked) == strategy_of(settings).num_proxies(settings) == 5
    assert all(np.abs(one - other).sum() >= 0.01 for one in asked for other in asked if one is not other)
    strategy.tell([scored_row(weights_C) for weights_C in asked])
    assert not strategy.ask()
    choice = strategy.result()
    assert distance(choice.merge_weights) < 0.05
    assert choice.predicted["math"]["cv_rmse"] == pytest.approx(0.1)
    assert choice.notes["confirmed_rho"] == dict.fromkeys(NAMES, pytest.approx(1.0))
    assert choice.baselines["equal"]["math"] == pytest.approx(
        BowlScreen().scores_MB(_merge_of(space, "equal"), ["b"])["b"][0]
    )


def test_mixmin_is_the_screens_optimum_with_its_gap() -> None:
    settings = replace(_BASE, strategy="mixmin", objective="mean", capability_weights={"math": 3.0})
    choice = build_strategy(Problem(settings, space_of(), 0), BowlScreen()).result()
    assert choice.merge_weights == pytest.approx(BEST)
    assert choice.notes == {"objective": 1.1, "optimality_gap": 0.0}
    assert choice.predicted["code"]["score"] == pytest.approx(1.1)
    with pytest.raises(ConfigError, match=r"set search\.objective=mean"):
        build_strategy(Problem(replace(settings, objective="percentile_rank"), space_of(), 0), BowlScreen())


def test_floors_exclude_what_gives_up_a_capability_and_say_when_nothing_is_left() -> None:
    """Math falls with its own weight, general rises: without a floor all goes into math."""
    rng = np.random.default_rng(0)
    weights_MC = rng.dirichlet(np.ones(3), 60)
    rows = [
        scored_row(
            weights_C,
            {
                "benchmark/general": 2 - weights_C[0],
                "benchmark/math": 2 - 3 * weights_C[1],
                "benchmark/code": 2.0 + 0.01 * weights_C[2],
            },
        )
        for weights_C in weights_MC
    ]
    settings = replace(_BASE, objective="mean", predictor=_GAUSSIAN, num_refits=0, floor_baseline="equal")
    space = space_of(blend=IDENTITY)
    greedy = choose_from_rows(settings, space, rows, 0)
    assert greedy.merge_weights["math"] > 0.85
    floored = choose_from_rows(replace(settings, floors={"general": 0.05}), space, rows, 0)
    limit = floored.baselines["equal"]["general"] + 0.05
    assert floored.predicted["general"]["score"] <= limit + 1e-12 < greedy.predicted["general"]["score"]
    impossible = replace(space, baselines={"proportional": {"general": 0.75, "math": 0.25, "code": 0.0}})
    both = replace(settings, floors={"general": 0.0, "math": 0.0}, floor_baseline="proportional")
    with pytest.raises(
        MixtureError, match=r"search.floors: no mixture of the pool .* nearest is predicted to be worse"
    ):
        choose_from_rows(both, impossible, rows, 0)
    with pytest.raises(ConfigError, match=r"search.floors: no capability maths in the objective"):
        choose_from_rows(replace(settings, floors={"maths": 0.1}), space, rows, 0)
    with pytest.raises(ConfigError, match=r"search.floor_baseline=best: expected one of proportional, equal"):
        choose_from_rows(replace(settings, floors={"math": 0.1}, floor_baseline="best"), space, rows, 0)


def test_a_fit_benchmark_is_predicted_and_moves_nothing() -> None:
    rng = np.random.default_rng(1)
    weights_MC = rng.dirichlet(np.ones(3), 40)
    settings = replace(_BASE, num_refits=0)
    space = space_of(use={"benchmark/code": "fit"})
    rows = [scored_row(row_C) for row_C in weights_MC]
    choice = choose_from_rows(settings, space, rows, 0)
    assert set(choice.predicted) == {"general", "math"}
    assert set(choice.fit_scores) == {"benchmark/code"}
    rows = [
        replace(row, scores={**row.scores, "benchmark/code": Score(7.0 - row.merge_weights["math"])}) for row in rows
    ]
    moved = choose_from_rows(settings, space, rows, 0)
    assert moved.merge_weights == choice.merge_weights
    assert moved.fit_scores != choice.fit_scores


def test_the_order_of_rows_does_not_matter() -> None:
    weights_MC = np.random.default_rng(2).dirichlet(np.ones(3), 30)
    rows = [scored_row(row_C) for row_C in weights_MC]
    settings = replace(_BASE, num_refits=2)
    assert choose_from_rows(settings, space_of(), rows, 0) == choose_from_rows(settings, space_of(), rows[::-1], 0)


def test_missing_and_too_few_scores_are_refused() -> None:
    rows = [scored_row(row_C) for row_C in np.random.default_rng(2).dirichlet(np.ones(3), 30)]
    with pytest.raises(ScoreError, match="expected"):
        choose_from_rows(_BASE, space_of(), rows[:3], 0)
    del rows[4].scores["benchmark/math"]
    with pytest.raises(ScoreError, match="benchmark/math: no score of mix"):
        choose_from_rows(_BASE, space_of(), rows, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strategy": "best"}, "search.strategy=best: expected one of recommended, demix, mergemix"),
        ({"proxy": "trained"}, "search.proxy=trained: expected one of merge, predictions, both"),
        ({"objective": "best"}, "search.objective=best: expected one of percentile_rank, mean, utility"),
        (
            {"strategy": "bayes", "proxy": "both"},
            "proxy=both: bayes takes merge or predictions; set search.proxy=merge",
        ),
        ({"strategy": "regmix", "proxy": "predictions"}, "regmix trains its proxies"),
        ({"strategy": "equal", "floors": {"math": 0.1}}, "search.floors: equal predicts nothing"),
    ],
)
def test_impossible_settings_are_refused_before_anything_starts(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        refuse(settings_errors(replace(_BASE, **change)))


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_it_says_of_itself_goes_together(name: str) -> None:
    """What the command asks of a strategy before it starts: which models, which proxies, how many."""
    strategy, settings = STRATEGIES[name], SETTINGS[name]
    assert strategy.name == name
    taken = [value for value in PROXIES if value in strategy.proxies] or ["merge"]
    for value in taken:
        asked = replace(settings, proxy=value)
        refuse(settings_errors(asked))
        one = strategy_of(asked)
        for can_mix in (True, False):
            plan = one.plan(asked, can_mix)
            assert {plan.asked, plan.chosen_by, plan.judge} <= {"merge", "predictions", "trained"}
            assert ("trained" in plan.kinds) == one.trains_proxies()
            assert one.mixes_components() or not plan.screen, "predictions are of components"
        assert one.num_proxies(asked) >= 0
        assert one.proxies or not one.num_proxies(asked)
    for value in set(PROXIES) - set(strategy.proxies) if strategy.mixes_components() else ():
        with pytest.raises(ConfigError, match=rf"search\.proxy={value}: {name} takes .*; set search\.proxy="):
            refuse(settings_errors(replace(settings, proxy=value)))
    with pytest.raises(ConfigError, match=rf"search\.parameters\.nosuch: {name} has no such parameter"):
        refuse(settings_errors(replace(settings, parameters={"nosuch": 1})))


def test_impossible_budgets_of_bayes_are_refused() -> None:
    settings = replace(SEARCHES["bayes"], bayes=BayesConfig(initial=20, budget=10))
    with pytest.raises(ConfigError, match=r"search.bayes: expected 1 <= initial <= budget"):
        build_strategy(Problem(settings, space_of(), 0))


def _merge_of(space: SearchSpace, name: str) -> Array:
    return space.as_array(space.blend.merge_weights_for(space.baselines[name])[0])[None]


def test_scores_of_different_units_have_no_mean() -> None:
    space = space_of()
    rows = [
        scored_row(
            weights_C, {f"benchmark/{name}": 1.0 + weights_C[0] for name in NAMES}, {"benchmark/math": "accuracy"}
        )
        for weights_C in (*np.eye(3), *(np.eye(3) + 1) / 6)
    ]
    with pytest.raises(ConfigError, match=r"search.objective=mean: scores in accuracy and bits/byte have no mean"):
        choose_from_rows(replace(_BASE, objective="mean"), space, rows, 0)
