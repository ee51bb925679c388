"""The page of a run: whatever the run has is on it, true to the records, in one file, whatever its names."""

import json
import logging
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nemo_demix.artifacts import canonical_json, write_json
from nemo_demix.cli import _write_page
from nemo_demix.config import DemixConfig, PredictorConfig
from nemo_demix.errors import ConfigError, DemixError
from nemo_demix.fidelity.report import fidelity_report
from nemo_demix.report.compare import compare_command
from nemo_demix.report.page import report_stage
from nemo_demix.report.sections.causes import effects
from nemo_demix.report.sections.verdict import POWER
from nemo_demix.search.imported import read_problem, search_imported
from tests.fidelity import test_report as study
from tests.helpers import REPOSITORY
from tests.report.html import KEYS, Page, shown
from tests.report.runs import DATASETS, HOSTILE, Run, whole_run
from tests.search.test_imported_search import BEST, settings, write_csv
from tests.test_imports import imported as imported_packages

LARGEST = 3 * 2**20


def finished(folder: Path) -> DemixConfig:
    return whole_run(folder).config


def half_done(folder: Path) -> DemixConfig:
    return Run(folder).prepared().trained(2).scored(12).config


def searched(folder: Path) -> DemixConfig:
    return Run(folder).prepared().trained().scored().searched().config


def only_data(folder: Path) -> DemixConfig:
    return Run(folder).prepared().config


def imported(folder: Path) -> DemixConfig:
    config = settings(folder, write_csv(folder / "scores.csv", [f"train_{one}" for one in BEST]), [])
    config.search.predictor = PredictorConfig(kind="gaussian_process", folds=2, repeats=1)
    config.search.objective = "mean"
    search_imported(config, read_problem(config))
    return config


def verified(folder: Path, repeated: int = 3) -> DemixConfig:
    """A study of references, so many in two data orders, and no search yet."""
    config = replace(study.make_config(), runs_dir=str(folder))
    measured = study.make_measured(12, noise=0.05, repeated=repeated)
    write_json(config.run_dir / "datasets/manifest.json", study.make_manifest())
    write_json(config.run_dir / "verify/references.json", list(measured.references))
    for name, scores in measured.scores.items():
        write_json(config.run_dir / f"scores/reference_{name}.json", {"scores": scores})
    lines = [
        canonical_json(replace(row, merge_weights=reference.merge_weights, proxy=kind, components={}).to_json()) + "\n"
        for kind, rows in measured.proxies.items()
        for reference in measured.references
        if (row := rows.get(reference.name))
    ]
    (config.run_dir / "scores/proxies.jsonl").write_text("".join(lines))
    report = fidelity_report(config, study.make_manifest(), measured, study.COMPONENTS)
    write_json(config.run_dir / "verify/fidelity.json", report)
    return config


KINDS: dict[str, tuple[Callable[[Path], DemixConfig], set[str]]] = {  # and the questions that it leaves open
    "finished": (finished, set()),
    "searched": (searched, {"proxies"}),
    "half done": (half_done, {"mixture", "losers", "proxies", "predictor", "trades", "shape", "whatif"}),
    "only data": (
        only_data,
        {
            "mixture",
            "losers",
            "proxies",
            "predictor",
            "trades",
            "shape",
            "whatif",
            "effects",
            "noise",
            "progress",
            "cost",
        },
    ),
    "imported": (imported, {"proxies", "progress", "cost", "inputs"}),
    "verified": (
        verified,
        {"mixture", "losers", "predictor", "trades", "shape", "whatif", "progress", "cost"},
    ),
}


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    folder = tmp_path_factory.mktemp("runs")
    return request.param, Page(report_stage(KINDS[request.param][0](folder)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run with its page: not to be changed."""
    run = whole_run(tmp_path_factory.mktemp("made"))
    report_stage(run.config)
    return run


def test_every_question_is_answered_or_says_what_would(kind: tuple[str, Page]) -> None:
    name, page = kind
    assert list(page.sections) == KEYS
    assert set(page.missing) == KINDS[name][1]
    for key, why in page.missing.items():
        assert len(why) > 20
        assert page.sections[key].find(".//table") is None
    for key in set(KEYS) - set(page.missing) - {"verdict", "whatif", "repeat"}:
        assert page.sections[key].find(".//table") is not None, key
    links = [one.get("href") for one in page.root.iterfind(".//nav//a")]
    assert links == [f"#{key}" for key in KEYS]


def test_it_is_one_file_that_asks_for_nothing(kind: tuple[str, Page]) -> None:
    page = kind[1]
    assert len(page.source.encode()) < LARGEST
    for element in page.root.iter():
        for name, value in element.attrib.items():
            if name in ("src", "href", "srcset", "action", "data", "poster") or name.endswith("}href"):
                assert value.startswith("#") or value == "data:,", (element.tag, name, value)
    assert not re.search(r"url\((?!#)|@import|https?:", re.sub(r"<pre.*?</pre>", "", page.source, flags=re.DOTALL))
    ids = [element.get("id") for element in page.root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    for reference in re.findall(r'(?:href="#|url\(#|aria-labelledby=")([\w-]+)', page.source):
        assert reference in ids


def test_every_drawing_has_marks_a_name_and_its_numbers_in_a_table(kind: tuple[str, Page]) -> None:
    for key, section in kind[1].sections.items():
        for figure in section.iterfind(".//figure"):
            drawing = figure.find("./svg")
            assert drawing.get("role") == "img"
            assert drawing.find("./title").text
            marks = [one for one in drawing.iter("g") if re.search(r"-(mark|line)-\d", one.get("id") or "")]
            assert marks, key
            assert not re.search(r"#0[ab]0\d0\d|#010101|#020202|#030303", kind[1].source)
            labels = " ".join("".join(one.itertext()) for one in drawing.iter("text"))
            assert re.search(r"better|share, %|minus", labels), labels
            assert section.find(".//table") is not None


def test_its_numbers_are_the_records(made: Run) -> None:
    run, page = made, Page(made.folder / "report.html")
    result = json.loads((run.folder / "final/result.json").read_text())
    gap = result["chosen_minus"]["proportional"]
    answer = page.sections["verdict"].find(".//p[@class='answer']").text_content()
    assert f"is {gap['verdict']} than the one trained on the proportional mixture" in answer
    assert [shown(part) for part in re.findall(r"[+−]\d\.\d+", answer)] == pytest.approx(
        [gap["difference"], gap["low"], gap["high"]], abs=5e-5
    )
    facts = page.text("verdict")
    assert f"{(1.96 + POWER) * gap['stderr']:.4f} bits/byte" in facts
    assert f"items were drawn ({gap['standard_errors']['items']:.4f})" in facts
    assert "Not measured, so the interval is too narrow by training seeds" in facts
    tokens = sum(stage["num_tokens"] for stage in json.loads((run.folder / "cost.json").read_text())["stages"].values())
    assert f"{tokens:,} tokens trained" in facts
    shares = page.table("mixture")
    for name, share in run.mixture["data_shares"].items():
        assert shown(shares[name]["chosen share"]) == pytest.approx(100 * share, abs=0.051)
        low, high = run.mixture["intervals"][name]["refits"]
        bounds = shares[name]["5 to 95 % of refits"].split(" to ")
        assert [shown(bound) for bound in bounds] == pytest.approx([100 * low, 100 * high], abs=0.051)
    assert shown(page.table("predictor")["math (capability)"]["rho (higher is better)"]) == pytest.approx(
        run.mixture["cross_validation"]["capability_rho"]["math"], abs=0.0051
    )
    trades = json.loads((run.folder / "search/pareto.json").read_text())["mixtures"]
    table = page.table("trades")
    assert len(table) == len(trades)
    assert shown(table["trade 1"]["math, bits/byte (lower is better)"]) == pytest.approx(
        trades[1]["predicted"]["math"], abs=5e-5
    )


def test_differences_of_benchmarks_are_paired_by_item(made: Run, tmp_path: Path) -> None:
    run = made
    items = [np.load(run.folder / f"scores/final_{name}.npy")[0] for name in ("mixture", "proportional")]
    facts = json.loads((run.folder / "scores/final_mixture.json").read_text())["items"]
    start = sum(facts[name]["num_items"] for name in list(facts)[: list(facts).index("benchmark/gsm8k:judged")])
    gaps = (items[0] - items[1])[start : start + facts["benchmark/gsm8k:judged"]["num_items"]]
    page = Page(run.folder / "report.html")
    row = page.table("losers")["gsm8k"]
    assert shown(row["difference, bits/byte"]) == pytest.approx(gaps.mean(), abs=5e-5)
    reach = 1.96 * gaps.std(ddof=1) / len(gaps) ** 0.5
    low, high = row["95 % interval"].split(" to ")
    assert [shown(low), shown(high)] == pytest.approx([gaps.mean() - reach, gaps.mean() + reach], abs=6e-5)
    assert "paired by item" in page.text("losers")
    assert "Held-out text, macro over capabilities: " in page.text("losers")
    shutil.copytree(run.folder, tmp_path / "made")
    (tmp_path / "made/scores/final_mixture.npy").unlink()
    unpaired = Page(report_stage(replace(run.config, runs_dir=str(tmp_path))))
    assert "not paired: the items of the models are not here" in unpaired.text("losers")
    low, high = unpaired.table("losers")["gsm8k"]["95 % interval"].split(" to ")
    assert shown(high) - shown(low) > 4 * reach


def test_names_stay_text(tmp_path: Path) -> None:
    run = whole_run(tmp_path, HOSTILE, name="<img src=x onerror=alert(1)> {{ 1 + 1 }}")
    page = Page(report_stage(run.config))
    seen = {re.sub("[\u202e\u2028]", lambda found: f"⟨U+{ord(found[0]):04X}⟩", name) for name in HOSTILE}
    assert set(page.table("mixture")) == set(page.table("effects")) == seen
    assert not re.search("[\u2028\u2029\u202a-\u202e\u2066-\u2069]", page.source)  # nothing turns round
    assert page.root.find(".//h1").text_content() == run.config.name
    assert [one.get("type") for one in page.root.iterfind(".//script")] == ["application/json", None]
    assert page.root.find(".//img") is None
    assert not [element for element in page.root.iter() if any(name.startswith("on") for name in element.attrib)]
    assert not page.missing.keys() - {"shape"}
    drawn = [one.text for one in page.sections["mixture"].find(".//svg").iter("text")]
    assert "a[/b] & \"q\" 'r' $x^2$…" not in drawn  # a shortened name keeps its end
    assert any(text.startswith('a[/b] & "q"') and text.endswith("`tick`") for text in drawn)


def test_the_same_records_give_the_same_bytes_and_others_another_page(tmp_path: Path) -> None:
    run = Run(tmp_path).prepared().trained(1).scored(12)
    first = report_stage(run.config).read_bytes()
    assert report_stage(run.config).read_bytes() == first
    run.trained()
    assert report_stage(run.config).read_bytes() != first
    assert [path.name for path in run.folder.iterdir() if "report" in path.name] == ["report.html"]


def test_a_run_that_has_moved_is_reported_by_its_saved_configuration(tmp_path: Path) -> None:
    run = Run(tmp_path / "cluster").prepared().trained().scored()
    (tmp_path / "laptop").mkdir()
    run.folder.rename(tmp_path / "laptop/copied")
    other = DemixConfig(name="copied", runs_dir=str(tmp_path / "laptop"))
    page = Page(report_stage(other))
    assert "seed: 0" in page.text("repeat")
    assert page.table("inputs", 0).keys() == {"base", *DATASETS}


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing: holds no run: expected datasets/manifest\.json"):
        report_stage(DemixConfig(name="nothing", runs_dir=str(tmp_path)))
    run = Run(tmp_path).prepared().trained(1)
    (run.folder / "search").mkdir()
    (run.folder / "search/mixture.json").write_text("{")
    with pytest.raises(DemixError, match=r"search/mixture.json: expected JSON"):
        report_stage(run.config)
    assert not (run.folder / "report.html").exists()


def test_a_run_outlives_its_page(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(tmp_path).prepared().trained(1)
    with caplog.at_level(logging.INFO, "nemo_demix"):
        _write_page(run.config)
        assert caplog.messages[-1] == f"report: {run.folder / 'report.html'}"
        (run.folder / "report.html").unlink()
        (run.folder / "cost.json").write_text("{")
        _write_page(run.config)
    assert "report: no page was written (DemixError: " in caplog.messages[-1]
    assert "cost.json" in caplog.messages[-1]
    assert "`nemo-demix report` tries again" in caplog.messages[-1]


def test_the_command_needs_nothing_of_models(made: Run, tmp_path: Path) -> None:
    shutil.copytree(made.folder, tmp_path / "made")
    used = imported_packages(tmp_path, "report", "--config-name", "smoke", f"runs_dir={tmp_path}", "name=made")
    assert {"matplotlib"} <= used <= {"matplotlib", "scipy"}
    assert set(Page(tmp_path / "made/report.html").missing) == set()


def test_the_study_is_judged_beside_nulls_and_a_ridge(tmp_path: Path) -> None:
    config = verified(tmp_path)
    page = Page(report_stage(config))
    report = json.loads((config.run_dir / "verify/fidelity.json").read_text())
    objective = report["benchmarks"]["objective"]
    row = page.table("proxies")["merged"]
    assert shown(row["rho (higher is better)"]) == pytest.approx(
        objective["proxies"]["merge"]["rho"]["value"], abs=0.0051
    )
    assert shown(row["regret, bits/byte"]) == pytest.approx(objective["proxies"]["merge"]["regret"]["value"], abs=5e-5)
    assert {"null: log data shares", "ridge on 3 references"} <= set(page.table("proxies"))
    titles = [one.text_content() for one in page.sections["proxies"].iterfind(".//figcaption")]
    assert titles[0] == "Trained references against merged proxies of the same mixtures"
    marks = page.sections["proxies"].find(".//svg").findall(".//g[@data-mark]")
    assert len(marks) == report["num_references"]
    rho = report["benchmarks"]["proxies"]["merge"]["rho"]
    by_capability = page.table("proxies", 2)["merged"]
    assert shown(by_capability["rho, math"]) == pytest.approx(rho["math"]["value"], abs=0.0051)
    assert shown(by_capability["rho, mean"]) == pytest.approx(rho["macro"]["value"], abs=0.0051)
    (verdict,) = page.sections["verdict"].iterfind("./p[@class='answer']")
    assert verdict.text_content().startswith(
        f"On the benchmarks, against 12 trained references: merged: rho {row_rho(row)}"
    )


def row_rho(row: dict[str, str]) -> str:
    return f"{row['rho (higher is better)']} ({row['95 % interval']})"


@pytest.mark.parametrize("repeated", [3, 12])
def test_a_study_says_what_datasets_do_by_its_references(tmp_path: Path, repeated: int) -> None:
    page = Page(report_stage(verified(tmp_path, repeated)))
    measured = study.make_measured(12, noise=0.05, repeated=repeated)
    first = [one for one in measured.references if one.name == one.mixture]
    weights_RC = np.array([list(one.data_shares.values()) for one in first])
    orders = ("", "_seed1") if repeated == 12 else ("",)  # those that all have
    for name in ("piqa", "gsm8k"):
        key = f"benchmark/{name}"
        scores = [np.mean([measured.scores[f"{one.name}{tail}"][key].score for tail in orders]) for one in first]
        found, _ = effects(weights_RC, np.array(scores)[:, None])
        table = page.table("effects")
        assert [shown(row[f"{name}, bits/byte"]) for row in table.values()] == pytest.approx(found[:, 0], abs=5e-5)
    assert ("12 trained references (means of 2 data orders)" in page.text("verdict")) == (repeated == 12)
    assert all("dataset" in row for row in table.values())
    assert "one on each of 12 mixtures: no proxy is in this" in page.text("effects")
    assert "12 mixtures drawn at random, a model trained on each" in page.text("noise")
    assert "No score here has a known error" in page.text("noise")
    assert "12 references trained" in page.text("verdict")
    assert "no record of it in this folder" in page.text("verdict")  # the cost: the models' records are elsewhere


def test_a_whole_run_ends_with_its_page(smoke_run: Path) -> None:
    page = Page(smoke_run / "report.html")
    assert list(page.sections) == KEYS
    assert set(page.missing) <= {"shape"}
    assert set(page.table("mixture")) == set(json.loads((smoke_run / "final/shares.json").read_text())["mixture"])
    assert page.root.find(".//h1").text_content() == "smoke"


def test_runs_stand_side_by_side(made: Run, tmp_path: Path) -> None:
    other = Run(tmp_path, name="<i>other").prepared().trained().scored().searched()
    half = Run(tmp_path, name="half").prepared().trained(1)
    folders = [str(run.folder) for run in (made, other, half)]
    output = tmp_path / "both.html"
    compare_command(["compare", *folders, "--output", str(output)])
    page = Page(output)
    assert list(page.sections) == ["verdict", "mixture", "scores", "evidence", "settings"]
    assert set(page.table("verdict")) == {"made", "<i>other", "half"}
    assert page.table("verdict")["half"]["its mixture is"] == "no comparison"
    shares = page.table("mixture")["math_1"]
    assert shown(shares["made"]) == pytest.approx(100 * made.mixture["data_shares"]["math_1"], abs=0.051)
    assert set(shares) == {"dataset", "made", "<i>other"}
    assert "made and <i>other: 0.0 %" in page.text("mixture")
    assert set(page.table("scores")["math"]) == {"capability", "made"}
    assert page.root.find(".//i") is None
    compare_command(["compare", *folders, "--output", str(output)])  # its own page is made anew
    output.write_text("notes")
    with pytest.raises(ConfigError, match="is there, and is no page of this command"):
        compare_command(["compare", *folders, "--output", str(output)])
    assert output.read_text() == "notes"
    with pytest.raises(ConfigError, match="expected two runs or more"):
        compare_command(["compare", folders[0]])


def test_the_verdict_names_who_loses_and_predictions_stand_beside_measurements(made: Run) -> None:
    page = Page(made.folder / "report.html")
    result = json.loads((made.folder / "final/result.json").read_text())["models"]
    worse = {
        name
        for name, one in result["mixture"]["capabilities"].items()
        if one["score"] > result["proportional"]["capabilities"][name]["score"]
    }
    fact = page.text("verdict").split("capabilities that lose against proportional")[1]
    assert all(name in fact for name in worse)
    kept = json.loads((made.folder / "search/out_of_fold.json").read_text())["capabilities"]
    for name, drawing in zip(kept, page.sections["predictor"].iterfind(".//svg"), strict=True):
        assert len(drawing.findall(".//g[@data-mark]")) == len(kept[name]["measured"]) == 20
    rmse = made.mixture["cross_validation"]["capability_rmse"]["math"]
    errors = np.subtract(kept["math"]["measured"], kept["math"]["predicted"])
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(rmse)  # one repeat
    left = page.table("predictor", 1)["math"]
    assert shown(left["mean (0 is true)"]) == pytest.approx(errors.mean(), abs=5e-5)
    best = errors[np.argsort(kept["math"]["predicted"])[:5]]
    assert shown(left["mean, predicted best quarter"]) == pytest.approx(best.mean(), abs=5e-5)
    rows = [row for row in made.rows if row.is_ok]
    macro = [np.mean([one.score for one in row.capabilities.values()]) for row in rows]
    last = list(page.table("progress", 1).values())[-1]
    for name, weight in rows[int(np.argmin(macro))].merge_weights.items():
        assert shown(last[name]) == pytest.approx(weight, abs=5.1e-4)


def test_what_floors_cost_is_beside_the_shares(tmp_path: Path) -> None:
    run = whole_run(tmp_path)
    path = run.folder / "search/mixture.json"
    rest = {"capabilities": {"general": 0.0, "math": -0.01, "code": 0.002}, "data_shares": run.mixture["data_shares"]}
    floors = [
        {"default_floor": 0.002, "heldout_floor": 0.0, "objective": -0.0027, "heldout": -0.0004, **rest},
        {"default_floor": None, "heldout_floor": None, "objective": -0.0181, "heldout": 0.0125, **rest},
    ]
    write_json(path, {**run.mixture, "notes": {"floors": floors}})
    table = Page(report_stage(run.config)).table("mixture", 1)
    assert list(table) == ["0.002, held-out 0 (this run's)", "none"]
    assert shown(table["none"]["objective"]) == -0.0181
    assert shown(table["none"]["held-out text"]) == 0.0125
    assert "math_1" in table["none"]["mixture"]


def test_limits_noise_and_inputs_are_the_records(made: Run) -> None:
    page = Page(made.folder / "report.html")
    epochs = page.table("mixture", 1)
    for name, count in made.mixture["epochs"].items():
        assert shown(epochs[name]["chosen"]) == pytest.approx(count, abs=0.0051)
    binding = made.mixture["constraints"]["binding"]
    assert (f"decided something: {', '.join(binding)}" if binding else "No constraint is binding") in page.text(
        "mixture"
    )
    drawn = [row for row in made.rows if row.is_ok and row.iteration == 0]
    scores = [row.scores["benchmark/gsm8k"] for row in drawn]
    signal = np.std([one.score for one in scores], ddof=1) / np.median([one.stderr for one in scores])
    assert shown(page.table("noise")["gsm8k"]["ratio (95 %; higher is better)"]) == pytest.approx(signal, abs=0.0051)
    assert page.table("inputs", 1)["code_1"]["gsm8k"] == "3 (1.50 %)"
    assert page.table("inputs", 2)["general"]["licence"] == "not stated"
    assert page.table("repeat", 1)["megatron-core"]["train"].startswith("0.15")
    assert made.manifest.fingerprint in page.text("repeat")
    assert "nemo-demix run --config-name ./repeat.yaml" in page.text("repeat")


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_what_is_behind_it(dark: bool) -> None:
    """By the 4.5 to 1 of WCAG's level AA, in both schemes."""
    style = (REPOSITORY / "nemo_demix/report/template/page.css").read_text()
    colours: dict[str, str] = {}
    for block in re.findall(r":root \{(.*?)\}", style.partition("@media print")[0], re.DOTALL)[: 2 if dark else 1]:
        colours |= dict(re.findall(r"--([a-z]+(?:-\d)?): (#[0-9a-f]{6})", block))
    for text in ("ink", "quiet", "link", "better", "worse"):
        for behind in ("paper", "band"):
            light, other = sorted((_luminance(colours[text]), _luminance(colours[behind])), reverse=True)
            assert (light + 0.05) / (other + 0.05) >= 4.5, (text, behind)


def _luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
