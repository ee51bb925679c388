"""Every strategy over the real proxies of a finished run, by the command line, with tiny budgets."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import fork_run, run_cli

FAST = [
    "parallel.tensor=1",
    "search.pool_size=2000",
    "search.num_refits=2",
    "search.predictor.num_rounds=50",
    "search.predictor.folds=2",
    "search.predictor.repeats=1",
    "search.predictor.num_bootstrap=2",
]
CAPABILITIES = {"general", "math", "code"}
TINY = ["search.trained.num_tokens=4096", "search.iterations=[8]"]


@pytest.fixture(scope="module")
def runs(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fork_run(smoke_run, tmp_path_factory.mktemp("searches"), "search", "final", "models/final")


def search(runs: Path, *arguments: str) -> dict[str, Any]:
    run_cli("search", "--config-name", "smoke", f"runs_dir={runs}", *FAST, *arguments)
    mixture: dict[str, Any] = json.loads((runs / "smoke/search/mixture.json").read_text())
    assert sum(mixture["data_shares"].values()) == pytest.approx(1, abs=1e-9)
    assert mixture["constraints"]["satisfied"]
    assert {"predicted", "measured", "baselines", "verdict", "intervals", "warnings", "trust"} <= set(mixture)
    return mixture


def rows(runs: Path, proxy: str) -> list[dict[str, Any]]:
    lines = (runs / "smoke/search/scores.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["proxy"] == proxy]


def test_mixmin_is_certified_and_its_own_merge_is_scored(runs: Path) -> None:
    mixture = search(runs, "search=mixmin")
    assert (mixture["strategy"], mixture["proxy"], mixture["num_proxies"]) == ("mixmin", "merge", 0)
    assert 0 <= mixture["notes"]["optimality_gap"] < 1e-5
    assert set(mixture["measured"]) == CAPABILITIES
    best = sum(value["score"] for value in mixture["predicted"].values()) / 3
    assert best == pytest.approx(mixture["notes"]["objective"])
    assert {"proportional", "equal"} <= set(mixture["baselines"])
    for baseline in mixture["baselines"].values():
        assert best <= sum(baseline["predicted"].values()) / 3 + 1e-9


def test_a_screened_pool_is_confirmed_by_merges(runs: Path) -> None:
    mixture = search(runs, "search.proxy=both", "search.confirm=3")
    assert (mixture["proxy"], mixture["num_proxies"]) == ("both", 3)
    confirmed = rows(runs, "merge")
    assert len(confirmed) == 3
    best = min(confirmed, key=lambda row: sum(score["score"] for score in row["capabilities"].values()))
    assert mixture["merge_weights"] == best["merge_weights"]
    assert mixture["measured"] == best["capabilities"]


@pytest.mark.slow
def test_mergemix_takes_the_best_verified_merge(runs: Path) -> None:
    arguments = ("search=mergemix", "search.mergemix.seeds=12", "search.mergemix.verified=2")
    mixture = search(runs, *arguments, "search.objective=utility")
    assert (mixture["num_proxies"], mixture["notes"]["verified"]) == (14, 2)
    asked = [row for row in rows(runs, "merge") if row["iteration"] == 1]
    assert mixture["merge_weights"] in [row["merge_weights"] for row in asked]
    assert (
        "done already"
        in run_cli(
            "search", "--config-name", "smoke", f"runs_dir={runs}", *FAST, *arguments, "search.objective=utility"
        ).stderr
    )


@pytest.mark.slow
def test_bayes_spends_its_budget_and_constraints_hold(runs: Path) -> None:
    mixture = search(
        runs, "search=bayes", "search.bayes.initial=10", "search.bayes.budget=13", "search.bayes.batch=2",
        "search.bayes.candidates=500", "+search.constraints.min.code_2=0.2",
    )  # fmt: skip
    assert mixture["num_proxies"] == 13
    assert mixture["data_shares"]["code_2"] >= 0.2 - 1e-9
    assert mixture["intervals"]["code_2"]["top"][0] >= 0.2 - 1e-9


@pytest.mark.slow
def test_regmix_trains_its_proxies_and_says_what_they_cost(runs: Path) -> None:
    mixture = search(runs, "search=regmix", *TINY)
    assert (mixture["proxy"], mixture["merge_weights"], mixture["measured"]) == ("trained", {}, None)
    assert (mixture["num_proxies"], mixture["verdict"]) == (8, None)
    trained = rows(runs, "trained")
    assert [row["num_tokens"] for row in trained] == [4096] * 8
    assert len(list((runs / "smoke/models/proxy").glob("*/record.json"))) == 8


def test_a_report_benchmark_judges_the_choice_and_no_proxy_sees_it(runs: Path) -> None:
    mixture = search(runs, "search.proxy=predictions", "search.iterations=[10]", "suite.benchmarks.gsm8k.use=report")
    assert mixture["proxy"] == "predictions"
    asked = rows(runs, "predictions")
    assert len(asked) == 10
    for row in asked:
        assert "benchmark/gsm8k" not in row["scores"]
        assert "benchmark/math" in row["scores"]
    assert mixture["measured"]["math"]["num_items"] == 8  # gsm8k alone: what nothing was tuned on
    assert set(mixture["predicted"]) == CAPABILITIES


def test_a_baseline_needs_no_proxies_and_is_moved_into_the_constraints(runs: Path) -> None:
    mixture = search(
        runs,
        "search=heuristic",
        "+search.heuristic.general=0.6",
        "+search.heuristic.math_1=0.4",
        "+search.constraints.max.math_1=0.3",
    )
    assert mixture["data_shares"]["math_1"] == pytest.approx(0.3, abs=1e-6)
    assert mixture["notes"]["moved_share"] == pytest.approx(0.1, abs=1e-6)
    assert len(mixture["constraints"]["binding"]) == 1
    assert "search.constraints.max.math_1" in mixture["constraints"]["binding"][0]
    assert (mixture["proxy"], mixture["predicted"], mixture["measured"]) == (None, {}, None)


@pytest.mark.slow
def test_recommended_goes_by_predictions_keeps_its_floors_and_is_judged_by_other_items(runs: Path) -> None:
    settings = ["search=recommended", "search.iterations=[8,4]", "search.predictor.kind=lightgbm"]
    mixture = search(runs, *settings, "search.default_floor=0.002", "suite.judged_items=4")
    assert (mixture["proxy"], mixture["num_proxies"], mixture["notes"]["chosen_by"]) == (
        "predictions",
        12,
        "predictions",
    )
    assert {row["iteration"] for row in rows(runs, "merge")[-12:]} == {0, 1}
    assert 0 <= mixture["notes"]["optimality_gap"] < 1e-5
    proportional, demix = mixture["baselines"]["proportional"], mixture["baselines"]["demix"]
    for name, predicted in mixture["predicted"].items():
        assert predicted["score"] <= proportional["predicted"][name] + 0.002 + 1e-6
    assert sum(demix["data_shares"].values()) == pytest.approx(1)
    assert demix["data_shares"] != mixture["data_shares"]
    # Compared by what chose it, over items that it was not chosen on; its own merge is measured on the same.
    assert {baseline["proxy"] for baseline in mixture["baselines"].values()} == {"predictions"}
    assert {name: score["num_items"] for name, score in mixture["measured"].items()} == {
        "general": 20,
        "math": 8,
        "code": 8,
    }
    assert mixture["measured"]["math"]["score"] != pytest.approx(proportional["measured"]["math"]["score"], abs=1e-9)

    free = search(runs, *settings, "search.default_floor=null", "suite.judged_items=4", "search.proxy=predictions")
    assert free["notes"]["objective"] <= mixture["notes"]["objective"]
    assert (free["num_proxies"], "demix" in free["baselines"]) == (0, False)
