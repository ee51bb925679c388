"""The whole pipeline as a user runs it: whole, skipped, changed, and killed."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from nemo_demix.artifacts import DataManifest
from tests.conftest import TEMPORARIES
from tests.helpers import fork_run, is_half_trained, losses, run_cli, stop_when
from tests.report.html import Page


def test_a_run_leaves_everything_it_promises(smoke_run: Path) -> None:
    manifest = DataManifest.load(smoke_run / "datasets/manifest.json")
    assert list(manifest.datasets) == ["general", "math_1", "math_2", "math_3", "code_1", "code_2", "code_3"]
    assert len(manifest.benchmarks) == 9
    mixture = json.loads((smoke_run / "search/mixture.json").read_text())
    assert mixture["num_proxies"] == 28 == sum(mixture["iterations"])
    assert abs(sum(mixture["merge_weights"].values()) - 1) < 1e-9
    assert abs(sum(mixture["data_shares"].values()) - 1) < 1e-9
    for name, share in mixture["data_shares"].items():
        weight = mixture["merge_weights"][name]
        assert share == pytest.approx(weight + 0.25 * (1 - weight) if name == "general" else 0.75 * weight)
        tokens = manifest.datasets[name].num_train_tokens
        assert mixture["epochs"][name] == pytest.approx(share * 16_384 / tokens)
    assert set(mixture["predicted"]) == set(mixture["measured"]) == {"general", "math", "code"}
    rows = [json.loads(line) for line in (smoke_run / "search/scores.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [0] * 16 + [1] * 8 + [2] * 4
    assert {row["status"] for row in rows} == {"OK"}
    assert len({row["name"] for row in rows}) == 28


def test_it_leaves_no_temporary_file(smoke_run: Path) -> None:
    assert list((smoke_run.parent / TEMPORARIES).iterdir()) == []


def test_the_blend_files_are_the_converted_shares(smoke_run: Path) -> None:
    mixture = json.loads((smoke_run / "search/mixture.json").read_text())
    words = (smoke_run / "final/blend.txt").read_text().split()
    blend = {Path(prefix).parent.name: float(weight) for weight, prefix in zip(words[::2], words[1::2], strict=True)}
    assert blend == {name: share for name, share in mixture["data_shares"].items() if share > 0}
    assert json.loads((smoke_run / "final/blend.json").read_text())["train"] == words
    assert all(Path(f"{prefix}.idx").exists() for prefix in words[1::2])


def test_the_comparison_is_of_the_models_beside_it(smoke_run: Path) -> None:
    result = json.loads((smoke_run / "final/result.json").read_text())
    assert set(result["models"]) == {"mixture", "proportional"}
    comparison = result["chosen_minus"]["proportional"]
    difference = result["models"]["mixture"]["macro"] - result["models"]["proportional"]["macro"]
    assert comparison["difference"] == pytest.approx(difference)
    half = (comparison["high"] - comparison["low"]) / 2
    assert half > 0
    assert half == pytest.approx(1.96 * comparison["stderr"])
    assert comparison["low"] == pytest.approx(difference - half)
    scores = {name: model["capabilities"] for name, model in result["models"].items()}
    assert set(comparison["capabilities"]) == {"general", "math", "code"}
    for name, one in comparison["capabilities"].items():
        apart = scores["mixture"][name]["score"] - scores["proportional"][name]["score"]
        assert one["difference"] == pytest.approx(apart)
        assert one["low"] < one["difference"] < one["high"]


@pytest.mark.slow
def test_more_data_orders_are_trained_beside_the_first_and_all_are_in_the_verdict(
    smoke_run: Path, tmp_path: Path
) -> None:
    runs = fork_run(smoke_run, tmp_path)
    run = runs / "smoke"
    first = json.loads((run / "final/result.json").read_text())["chosen_minus"]["proportional"]
    trained = (run / "models/final/mixture/record.json").stat().st_mtime_ns
    said = run_cli(
        "final", "--config-name", "smoke", f"runs_dir={runs}", "final.seeds=[1,0]"
    ).stdout  # 0: the run's own
    assert (run / "models/final/mixture/record.json").stat().st_mtime_ns == trained
    assert {path.name for path in (run / "models/final").iterdir()} == {
        "mixture", "mixture_seed1", "proportional", "proportional_seed1"
    }  # fmt: skip
    scores = {
        name: json.loads((run / f"scores/final_{name}.json").read_text())["capabilities"]
        for name in ("mixture", "mixture_seed1", "proportional", "proportional_seed1")
    }
    result = json.loads((run / "final/result.json").read_text())
    found = result["chosen_minus"]["proportional"]
    macros = {name: np.mean([one["score"] for one in given.values()]) for name, given in scores.items()}
    second = macros["mixture_seed1"] - macros["proportional_seed1"]
    assert result["seeds"] == [0, 1]
    assert found["orders"] == pytest.approx([first["difference"], second])
    assert found["difference"] == pytest.approx((first["difference"] + second) / 2)
    assert result["models"]["mixture"]["macro"] == pytest.approx((macros["mixture"] + macros["mixture_seed1"]) / 2)
    assert found["standard_errors"]["seeds"] == pytest.approx(abs(first["difference"] - second) / 2)
    assert found["unmeasured"] == []
    words = " ".join(said.split())
    assert f"mean of 2 data orders: {first['difference']:+.4f}, {second:+.4f}." in words
    assert "By capability, by the sampled items and data orders" in words
    verdict = Page(run / "report.html").text("verdict")
    assert "training seeds (" in verdict
    assert "By data order:" in verdict
    alone = run_cli(
        "final", "--config-name", "smoke", f"runs_dir={runs}", "final.seeds=[1]", "final.baselines=[]", expect=2
    )
    assert "final.seeds=[1]: more data orders are for a comparison, and final.baselines is empty" in alone.stderr


@pytest.mark.slow
def test_a_baseline_that_is_the_chosen_mixture_is_not_trained_beside_it(smoke_run: Path, tmp_path: Path) -> None:
    """As where floors leave nothing better: a final run is dear, and its twin shows nothing."""
    runs = fork_run(smoke_run, tmp_path)
    run, base = runs / "smoke", ["--config-name", "smoke", f"runs_dir={runs}", "search=proportional"]
    shutil.rmtree(run / "models/final")
    run_cli("search", *base)
    said = run_cli("final", *base)
    assert {path.name for path in (run / "models/final").iterdir()} == {"mixture"}
    assert "the proportional mixture is the chosen one" in said.stderr
    assert "The proportional mixture is the chosen one: one model was trained for both." in " ".join(
        said.stdout.split()
    )
    result = json.loads((run / "final/result.json").read_text())
    assert (list(result["models"]), result["chosen_minus"]) == (["mixture"], {})
    assert result["same_as_chosen"] == ["proportional"]
    assert "Keep the proportional mixture" in Page(run / "report.html").text("verdict")
    assert "final: done already" in run_cli("final", *base).stderr


@pytest.mark.slow
def test_the_mixtures_own_merge_is_a_proxy_like_any_other(smoke_run: Path, tmp_path: Path) -> None:
    """Scored again in other ranks, from the file of mixtures: the very same numbers."""
    runs = fork_run(smoke_run, tmp_path)
    mixture = json.loads((smoke_run / "search/mixture.json").read_text())
    mixtures = {"again": mixture["merge_weights"], "one_hot": {"code_1": 1.0}}
    (tmp_path / "mixtures.json").write_text(json.dumps(mixtures))
    base = ["--config-name", "smoke", f"runs_dir={runs}"]
    run_cli("score", *base, f"score.mixtures={tmp_path / 'mixtures.json'}")
    rows = [json.loads(line) for line in (runs / "smoke/scores/proxies.jsonl").read_text().splitlines()]
    assert rows[0]["capabilities"] == mixture["measured"]
    run_cli("score", *base)
    component = json.loads((runs / "smoke/scores/component_code_1.json").read_text())
    assert rows[1]["scores"] == component["scores"]


@pytest.mark.slow
def test_a_second_run_does_nothing_and_a_changed_input_redoes_what_depends_on_it(
    smoke_run: Path, tmp_path: Path
) -> None:
    runs = fork_run(smoke_run, tmp_path)
    run = runs / "smoke"
    base = ["--config-name", "smoke", f"runs_dir={runs}"]
    before = {path: path.stat().st_mtime_ns for path in run.rglob("record.json")}
    scores = (run / "search/scores.jsonl").read_text()
    result = run_cli("run", *base)
    assert result.stderr.count("done already") == 4
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("record.json")}
    # Another number of proxies in the last iteration: the models stay, and so does every proxy scored before.
    run_cli("search", *base, "search.iterations=[16,8,5]")
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("record.json")}
    after = (run / "search/scores.jsonl").read_text()
    assert after.startswith(scores)
    assert 0 < len(after.splitlines()) - len(scores.splitlines()) <= 5
    # `final` of the old configuration refuses the new mixture rather than training on it.
    assert "run `nemo-demix search` first" in run_cli("final", *base, expect=2).stderr


@pytest.mark.slow
def test_killed_in_training_in_the_search_and_in_the_final_run_the_mixture_is_the_same(
    smoke_run: Path, tmp_path: Path
) -> None:
    """And told to stop in the search, it says so."""
    runs = fork_run(
        smoke_run, tmp_path, "models/component/code_3", "models/final", "search", "final", "scores", "cost.json"
    )
    run = runs / "smoke"
    command = ["run", "--config-name", "smoke", f"runs_dir={runs}"]
    component = run / "models/component/code_3"
    stop_when(command, lambda: is_half_trained(component))
    stop_when(command, lambda: _lines(run / "search/scores.jsonl") >= 10)
    with open(run / "search/scores.jsonl", "a") as file:
        file.write('{"iteration": 0, "name": "mix_')  # a row that a kill cut off
    code, output = stop_when(command, lambda: _lines(run / "search/scores.jsonl") >= 16, signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    assert "stopped by SIGTERM; the same command goes on from here" in output
    assert 16 <= _lines(run / "search/scores.jsonl") < 28
    stop_when(command, lambda: _lines(run / "models/final/mixture/losses.jsonl") >= 6)
    run_cli(*command)
    assert "resuming after step" in (run / "logs/train/rank_0.log").read_text()
    assert losses(component) == losses(smoke_run / "models/component/code_3")
    assert (run / "search/mixture.json").read_bytes() == (smoke_run / "search/mixture.json").read_bytes()
    assert _lines(run / "search/scores.jsonl") == 28
    assert losses(run / "models/final/mixture") == losses(smoke_run / "models/final/mixture")
    old, new = (json.loads((path / "final/result.json").read_text()) for path in (smoke_run, run))
    assert old == new


def test_stages_refuse_datasets_of_another_configuration(smoke_run: Path, tmp_path: Path) -> None:
    runs = fork_run(smoke_run, tmp_path)
    base = ["--config-name", "smoke", f"runs_dir={runs}"]
    result = run_cli("search", *base, "datasets.math_1.max_bytes=200000", expect=2)
    assert "was made from other sources or settings; run `nemo-demix prepare`" in result.stderr
    result = run_cli("search", *base, "search.objective=best", expect=2)
    assert "search.objective=best: expected one of percentile_rank, mean" in result.stderr


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
