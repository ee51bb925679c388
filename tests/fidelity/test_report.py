"""The study's figures from score rows with known answers."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from nemo_demix.artifacts import BenchmarkRecord, DataManifest, DatasetRecord, ModelRecord, canonical_json
from nemo_demix.config import BenchmarkConfig, DemixConfig
from nemo_demix.errors import ScoreError
from nemo_demix.fidelity.objective import macro_of_sets
from nemo_demix.fidelity.references import Reference, shared_orders
from nemo_demix.fidelity.report import Measured, fidelity_report
from nemo_demix.scoring.items import Score, Scores
from nemo_demix.search.proxy_row import ProxyRow
from nemo_demix.stages.fidelity_tables import print_fidelity

DATASETS = {"general": "general", "math_1": "math", "math_2": "math"}
BENCHMARKS = {"piqa": "general", "gsm8k": "math", "secret": "math"}


def make_manifest() -> DataManifest:
    datasets = {
        name: DatasetRecord(name, capability, name, name, 1, 0, 100, 100, 1, 1, [], {}, name)
        for name, capability in DATASETS.items()
    }
    benchmarks = {name: BenchmarkRecord(name, capability, name, 8, {}, name) for name, capability in BENCHMARKS.items()}
    return DataManifest({}, datasets, benchmarks, "manifest")


def make_config() -> DemixConfig:
    config = DemixConfig(name="t")
    config.suite.benchmarks = {name: BenchmarkConfig(capability=owner) for name, owner in BENCHMARKS.items()}
    config.suite.benchmarks["secret"].use = "report"
    config.verify.num_bootstrap = 200
    config.reference.num_tokens = 1000  # as each component: three references cost as much as these
    return config


def scores_of(general: float, math: float) -> dict[str, Score]:
    values = {"piqa": general, "gsm8k": math, "secret": 9.0}
    scores = {f"benchmark/{name}": value for name, value in values.items()}
    scores |= {"heldout/general": general + 1, "heldout/math_1": math - 0.1, "heldout/math_2": math + 0.1}
    return {name: Score(value) for name, value in scores.items()}


def changed(models: Mapping[str, Scores], name: str, **change: Any) -> dict[str, Scores]:
    """Models with one score changed in all of them."""
    return {model: {**scores, name: replace(scores[name], **change)} for model, scores in models.items()}


def component(name: str, delta: float) -> ModelRecord:
    return ModelRecord("component", name, "", {}, {}, 1000, 10, None, delta, None, 1.0, name)


COMPONENTS = [component("general", 0.05), component("math_1", 0.08), component("math_2", 0.12)]


def make_measured(count: int = 8, noise: float = 0.0, repeated: int = 3) -> Measured:
    """Scores that fall with the capability's own share, and proxies of them with a common offset and some noise; so
    many mixtures were trained in a second data order.
    """
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(3), count)
    references, scores, trained, merged = [], {}, {}, {}
    for index, weights_C in enumerate(weights):
        name = f"ref_{index:03d}"
        shares = dict(zip(DATASETS, weights_C.tolist(), strict=True))
        truth = (3 - shares["general"] ** 2, 4 - shares["math_1"] - 0.2 * shares["math_2"])
        references.append(Reference(name, name, shares, shares, 0))
        scores[name] = scores_of(*truth)
        trained[name] = scores_of(*(value + rng.normal(0, 0.3) for value in truth))
        proxy = scores_of(*(1.1 * value + rng.normal(0, noise) for value in truth))
        merged[name] = ProxyRow(name, shares, scores=proxy)
        if index < repeated:
            references.append(Reference(f"{name}_seed1", name, shares, shares, 1))
            scores[f"{name}_seed1"] = scores_of(truth[0] + 0.02 * (index + 1), truth[1])
    return Measured(references, scores, {100: trained}, {"merge": merged})


def report_of(measured: Measured, config: DemixConfig | None = None) -> dict[str, Any]:
    found = fidelity_report(config or make_config(), make_manifest(), measured, COMPONENTS)
    result: dict[str, Any] = json.loads(canonical_json(found))
    return result


def test_figures_follow_from_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    report = report_of(make_measured())
    assert report["num_references"] == 8
    assert report["num_models"] == 11
    for name in ("benchmarks", "heldout"):
        merge = report[name]["proxies"]["merge"]
        assert merge["rho"]["macro"]["value"] == pytest.approx(1)
        assert report[name]["proxies"]["trained_100"]["rho"]["macro"]["value"] < 0.95
        assert report[name]["differences"]["merge_minus_trained_100"]["rho"]["macro"]["value"] > 0.05
    assert report["benchmarks"]["proxies"]["merge"]["recovery"]["math"]["value"] == pytest.approx(1.1)
    # general's own share decides its score alone; which of the math datasets it is decides math's.
    null = report["benchmarks"]["proxies"]["null"]["rho"]
    assert null["general"]["value"] == pytest.approx(1)
    assert null["math"]["value"] < 1
    assert report["benchmarks"]["seed_noise"]["std"]["general"] == pytest.approx(0.02 / 2**0.5)
    assert report["benchmarks"]["seed_noise"]["ceiling_rho"]["macro"] == pytest.approx(1)
    match = report["benchmarks"]["tokens_to_match"]["merge"]
    assert match["ratio"] is None
    assert match["ratio_more_than"] == pytest.approx(112 * 100 / 3000)
    print_fidelity(report)
    printed = capsys.readouterr().out
    assert "112 trained proxies that order as well need more than 3.7 x the components' tokens" in printed
    assert "Delta of the components: 0.050 to 0.120 (math_2)." in printed


def test_a_reference_is_the_mean_of_the_data_orders_that_all_mixtures_have(capsys: pytest.CaptureFixture[str]) -> None:
    some, every = make_measured(12, 0.2), make_measured(12, 0.2, repeated=12)
    reports = report_of(some), report_of(every)
    assert [report["num_orders"] for report in reports] == [1, 2]
    general = [
        every.scores[f"ref_{index:03d}{tail}"]["benchmark/piqa"].score for tail in ("", "_seed1") for index in range(12)
    ]
    merged = [every.proxies["merge"][f"ref_{index:03d}"].scores["benchmark/piqa"].score for index in range(12)]
    first, mean = general[:12], np.mean([general[:12], general[12:]], axis=0)
    for report, reference in zip(reports, (first, mean), strict=True):
        found = report["benchmarks"]["proxies"]["merge"]["rho"]["general"]["value"]
        assert found == pytest.approx(spearmanr(reference, merged).statistic)
    assert spearmanr(first, merged).statistic != pytest.approx(spearmanr(mean, merged).statistic)
    # What a law of equal cost is fitted to is one model each.
    laws = [report["benchmarks"]["objective"]["left_out"]["proxies"]["ridge_equal_cost"]["rho"] for report in reports]
    assert laws[0] != laws[1]
    print_fidelity(reports[1])
    assert "choose as 12 references, means of 2 data orders, do?" in " ".join(capsys.readouterr().out.split())


def test_a_spot_check_is_one_mixture_against_its_merge() -> None:
    measured = make_measured()
    check = report_of(measured)["spot_checks"][0]
    weights = measured.references[0].merge_weights
    assert check["recovery"]["merge"]["benchmarks"]["math"] == pytest.approx(1.1)
    expected = sum(weights[record.name] * (record.delta or 0) for record in COMPONENTS)
    assert check["mean_delta"] == pytest.approx(expected)


def test_the_same_rows_give_the_same_bytes() -> None:
    assert canonical_json(report_of(make_measured(noise=0.1))) == canonical_json(report_of(make_measured(noise=0.1)))


def failed(measured: Measured, *names: str) -> Measured:
    merged = dict(measured.proxies["merge"])
    for name in names:
        merged[name] = ProxyRow(name, {}, reason="not finite")
    return Measured(measured.references, measured.scores, measured.trained, {"merge": merged})


def test_failed_proxies_are_left_out_and_named() -> None:
    report = report_of(failed(make_measured(), "ref_002"))
    assert report["num_references"] == 7
    assert report["excluded"] == {"ref_002": "its merge proxy failed: not finite"}
    config = make_config()
    config.search.max_failed_share = 0.2
    with pytest.raises(ScoreError, match=r"2 of 8 merge proxies failed.*search.max_failed_share=0.2.*not finite"):
        report_of(failed(make_measured(), "ref_001", "ref_002"), config)
    config.search.max_failed_share = 0.9
    with pytest.raises(ScoreError, match="2 references are left, 3 are needed"):
        report_of(failed(make_measured(), *(f"ref_00{index}" for index in range(6))), config)


def test_constant_scores_are_undefined_in_the_report_and_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    measured = make_measured()
    flat = {name: scores_of(3.0, one["benchmark/gsm8k"].score) for name, one in measured.scores.items()}
    report = report_of(Measured(measured.references, flat, measured.trained, measured.proxies))
    rho = report["benchmarks"]["proxies"]["merge"]["rho"]
    assert (rho["general"]["value"], rho["macro"]["value"]) == (None, None)
    assert rho["macro"]["reason"] == "undefined for general"
    assert report["benchmarks"]["tokens_to_match"]["merge"]["reason"] == "rho of merged proxies is undefined"
    print_fidelity(report)
    assert "undefined" in capsys.readouterr().out


def test_the_objective_is_the_weighted_mean_of_the_capabilities_of_the_search() -> None:
    measured = make_measured(noise=0.2)
    config = make_config()
    config.search.capability_weights = {"general": 3, "math": 1}
    objective = report_of(measured, config)["benchmarks"]["objective"]
    assert objective["weights"] == {"general": 0.75, "math": 0.25}
    assert (objective["unit"], objective["higher_is_better"], objective["reason"]) == ("bits/byte", False, None)

    def macro(models: Mapping[str, Scores]) -> np.ndarray:
        models_R = [models[f"ref_{index:03d}"] for index in range(8)]
        return np.array([0.75 * one["benchmark/piqa"].score + 0.25 * one["benchmark/gsm8k"].score for one in models_R])

    proxies = {name: row.scores for name, row in measured.proxies["merge"].items()}
    reference, merged = macro(measured.scores), macro(proxies)
    found = objective["proxies"]["merge"]
    assert found["rho"]["value"] == pytest.approx(spearmanr(reference, merged).statistic)
    assert found["slope"]["value"] == pytest.approx(np.polyfit(merged, reference, 1)[0])
    assert found["residual"]["value"] == pytest.approx(np.std(reference - merged, ddof=1))
    assert found["regret"]["value"] == pytest.approx(reference[np.argmin(merged)] - reference.min())
    assert set(objective["proxies"]) == {"merge", "trained_100", "null_share", "null_entropy"}
    assert objective["proxies"]["null_entropy"]["slope"]["reason"] == "it has no score, only an order"
    assert "merge_minus_null_share" in objective["differences"]


def test_regressions_of_equal_cost_are_compared_on_what_they_have_not_seen(capsys: pytest.CaptureFixture[str]) -> None:
    report = report_of(make_measured(12))
    left_out = report["benchmarks"]["objective"]["left_out"]
    assert (left_out["num_fitted"], left_out["num_splits"], left_out["reason"]) == (3, 50, None)
    assert left_out["proxies"]["merge"]["rho"]["value"] == pytest.approx(1)
    assert left_out["proxies"]["ridge_equal_cost"]["rho"]["value"] < 1
    assert left_out["differences"]["merge_minus_ridge_equal_cost"]["value"] > 0
    law = left_out["proxies"]["log_linear_equal_cost"]["rho"]
    assert law["value"] is None
    assert "as much as 3; it takes 6 to fit" in law["reason"]
    print_fidelity(report)
    printed = capsys.readouterr().out
    assert printed.index("Would a proxy choose as 12 references do?") < printed.index("Proxies against 12 references")
    assert "ridge on 3 references" in printed
    assert "it takes 6 to fit" in " ".join(printed.split())


@pytest.mark.parametrize(("reference_tokens", "says"), [(1001, "cost as much as 2; 3 are needed"), (500, "left out")])
def test_too_few_references_for_equal_cost_say_so(
    reference_tokens: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config()
    config.reference.num_tokens = reference_tokens
    report = report_of(make_measured(8), config)
    left_out = report["benchmarks"]["objective"]["left_out"]
    assert left_out["proxies"] == {}
    assert left_out["reason"].startswith("not enough references")
    assert says in left_out["reason"]
    print_fidelity(report)
    assert "At equal cost: not enough references" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"unit": "accuracy"}, "different units (accuracy, bits/byte)"),
        ({"higher_is_better": True}, "higher is better for some capabilities and lower for others"),
    ],
)
def test_capabilities_without_a_mean_have_no_objective(
    change: dict[str, Any], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = make_measured()
    measured = Measured(
        measured.references,
        changed(measured.scores, "benchmark/gsm8k", **change),
        {tokens: changed(models, "benchmark/gsm8k", **change) for tokens, models in measured.trained.items()},
        {
            kind: {
                name: replace(row, scores=dict(changed({name: row.scores}, "benchmark/gsm8k", **change)[name]))
                for name, row in rows.items()
            }
            for kind, rows in measured.proxies.items()
        },
    )
    report = report_of(measured)
    objective = report["benchmarks"]["objective"]
    assert says in objective["reason"]
    assert objective["proxies"] is objective["left_out"] is None
    assert report["benchmarks"]["proxies"]["merge"]["rho"]["general"]["value"] == pytest.approx(1)
    assert report["heldout"]["objective"]["reason"] is None
    print_fidelity(report)
    assert "The macro score of the benchmarks is undefined" in capsys.readouterr().out
    config = make_config()
    config.search.capability_weights = {"math": 0}  # what does not count may have any unit
    assert report_of(measured, config)["benchmarks"]["objective"]["reason"] is None


def test_benchmarks_that_are_only_fitted_are_in_no_objective() -> None:
    config = make_config()
    config.suite.benchmarks["gsm8k"].use = "fit"
    assert report_of(make_measured(), config)["benchmarks"]["objective"]["weights"] == {"general": 1}
    config.suite.benchmarks["piqa"].use = "fit"
    assert "no benchmark has use=search" in report_of(make_measured(), config)["benchmarks"]["objective"]["reason"]


def test_without_held_out_text_it_is_said_to_be_why() -> None:
    config = make_config()
    config.suite.heldout_tokens = 0
    sets = macro_of_sets(config, make_manifest())
    assert (sets["heldout"].reason, sets["benchmarks"].reason) == ("suite.heldout_tokens=0: none is scored", None)


def test_a_missing_benchmark_is_an_error_that_names_it() -> None:
    measured = make_measured()
    less = {key: score for key, score in measured.scores["ref_003"].items() if key != "benchmark/gsm8k"}
    measured = replace(measured, scores={**measured.scores, "ref_003": less})
    with pytest.raises(ScoreError, match="reference ref_003: no score benchmark/gsm8k; found benchmark/piqa"):
        report_of(measured)


def test_a_capability_may_not_mix_directions() -> None:
    measured = make_measured()
    turned = changed(measured.scores, "heldout/math_2", higher_is_better=True)
    measured = replace(measured, scores=turned)
    with pytest.raises(ScoreError, match="math: its average would mix scores of both directions"):
        report_of(measured)


def test_brought_components_have_no_price() -> None:
    brought = [ModelRecord(**{**record.__dict__, "num_tokens": 0}) for record in COMPONENTS]
    found = fidelity_report(make_config(), make_manifest(), make_measured(), brought)
    match = found["benchmarks"]["tokens_to_match"]["merge"]
    assert (match["ratio"], match["ratio_more_than"]) == (None, None)
    assert "brought" in match["reason"]


def test_no_benchmarks_or_no_heldout_text_leave_the_other() -> None:
    config = make_config()
    config.suite.heldout_tokens = 0
    assert "heldout" not in report_of(make_measured(), config)
    manifest = make_manifest()
    manifest.benchmarks.clear()
    with pytest.raises(ScoreError, match="nothing to compare"):
        fidelity_report(config, manifest, make_measured(), COMPONENTS)


def test_only_data_orders_that_all_mixtures_have_are_shared() -> None:
    measured = make_measured(4, repeated=4)
    names = [f"ref_00{index}" for index in range(4)]
    orders = shared_orders(measured.references, names)
    assert orders == [{name: name for name in names}, {name: f"{name}_seed1" for name in names}]
    fewer = [one for one in measured.references if one.name != "ref_002_seed1"]
    assert shared_orders(fewer, names) == orders[:1]
    kept = ["ref_000", "ref_003"]  # what is left out has no say
    assert shared_orders(fewer, kept) == [{name: order[name] for name in kept} for order in orders]
