"""Verification on models that are really trained: whole, killed, repeated, and what it means for the final run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import fork_run, is_half_trained, losses, run_cli, stop_when

pytestmark = pytest.mark.slow
SETTINGS = ["verify.references=4", "verify.seeds=[1]", "verify.seed_references=2", "verify.trained_shares=[0.25, 0.5]"]
MODELS = ["ref_000", "ref_000_seed1", "ref_001", "ref_001_seed1", "ref_002", "ref_003"]


@pytest.fixture(scope="module")
def verified(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the smoke run, verified with 4 references and killed on the way. Tests must not change it."""
    runs = fork_run(smoke_run, tmp_path_factory.mktemp("verified"))
    command = ["verify", "--config-name", "smoke", f"runs_dir={runs}", *SETTINGS]
    second = runs / "smoke/models/reference/ref_001"
    stop_when(command, lambda: is_half_trained(second), timeout=400)
    assert not (second / "record.json").exists()
    first = (runs / "smoke/models/reference/ref_000/record.json").stat().st_mtime_ns
    printed = run_cli(*command).stdout
    assert first == (runs / "smoke/models/reference/ref_000/record.json").stat().st_mtime_ns
    assert "resuming after step" in (runs / "smoke/logs/verify/rank_0.log").read_text()
    assert len(losses(second)) == 16
    for words in (
        "Would a proxy choose as 4 references do?",
        "Proxies against 4 references",
        "merged",
        "predictions",
        "null: own data share",
    ):
        assert words in printed
    return runs / "smoke"


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_the_references_are_what_was_asked_for(verified: Path) -> None:
    references = read(verified / "verify/references.json")
    assert [reference["name"] for reference in references] == MODELS
    assert references[0]["data_shares"] == references[1]["data_shares"]
    for reference in references:
        record = read(verified / "models/reference" / reference["name"] / "record.json")
        assert record["blend"] == {name: share for name, share in reference["data_shares"].items() if share > 0}
        assert set(record["checkpoints"]) == {"4096", "8192", "16384"}
    assert losses(verified / "models/reference/ref_000") != losses(verified / "models/reference/ref_000_seed1")


def test_the_report_is_of_the_scores_on_disk(verified: Path) -> None:
    report = read(verified / "verify/fidelity.json")
    assert (report["num_references"], report["num_models"], report["excluded"]) == (4, 6, {})
    kinds = {"merge", "predictions", "trained_4096", "trained_8192", "null"}
    names = [name for name in MODELS if "seed" not in name]
    ends = [read(verified / f"scores/reference_{name}.json")["capabilities"]["math"]["score"] for name in names]
    halves = [
        read(verified / f"scores/reference_{name}_at_8192.json")["capabilities"]["math"]["score"] for name in names
    ]
    for section in (report["benchmarks"], report["heldout"]):
        assert set(section["proxies"]) == kinds
        assert section["proxies"]["merge"]["rho_top"]["macro"]["value"] is None
        for estimate in section["proxies"]["merge"]["rho"].values():
            assert -1 <= estimate["low"] <= estimate["value"] <= estimate["high"] <= 1
            assert estimate["num_dropped"] > 0
        assert section["seed_noise"]["std"]["macro"] > 0
        assert section["tokens_to_match"]["merge"]["component_tokens"] == 7 * 16_384
        objective = section["objective"]
        assert set(objective["proxies"]) == kinds - {"null"} | {"null_share", "null_entropy"}
        for figures in objective["proxies"].values():
            assert 0 <= figures["pairs"]["value"] <= 1
            assert figures["regret"]["value"] >= 0
        assert "4, of which the components' cost takes 7" in objective["left_out"]["reason"]
    recovery = report["benchmarks"]["proxies"]["trained_8192"]["recovery"]["math"]["value"]
    assert recovery == pytest.approx(sum(halves) / sum(ends))
    assert section["proxies"]["merge"]["rho"]["macro"]["low"] < 0, "four references are no proof"
    ranks = [np.argsort(np.argsort(values)) for values in (halves, ends)]
    rho = report["benchmarks"]["proxies"]["trained_8192"]["rho"]["math"]["value"]
    assert rho == pytest.approx(np.corrcoef(*ranks)[0, 1])
    weights = read(verified / "verify/references.json")[0]["merge_weights"]
    expected = sum(weight * report["delta"][name] for name, weight in weights.items())
    assert report["spot_checks"][0]["mean_delta"] == pytest.approx(expected)


def test_a_second_call_does_nothing_and_more_references_reuse_the_first(verified: Path, tmp_path: Path) -> None:
    runs = fork_run(verified, tmp_path)
    base = ["--config-name", "smoke", f"runs_dir={runs}"]
    before = (runs / "smoke/verify/fidelity.json").read_bytes()
    result = run_cli("verify", *base, *SETTINGS)
    assert "verify: done already" in result.stderr
    assert "Proxies against 4 references" in result.stdout
    assert (runs / "smoke/verify/fidelity.json").read_bytes() == before
    # Another interval: scored already, so no ranks are started, and the figures themselves are the same.
    (runs / "smoke/logs/verify/task.json").unlink()
    run_cli("verify", *base, *SETTINGS, "verify.confidence=0.5")
    assert not (runs / "smoke/logs/verify/task.json").exists()
    assert "50 % interval" in (runs / "smoke/report.html").read_text(encoding="utf-8")  # it ends with the page
    old, new = json.loads(before), read(runs / "smoke/verify/fidelity.json")
    wide, narrow = (report["heldout"]["proxies"]["merge"]["rho"]["macro"] for report in (old, new))
    assert narrow["value"] == wide["value"]
    assert narrow["high"] - narrow["low"] <= wide["high"] - wide["low"]
    # A reference from other settings is not trained again unasked.
    result = run_cli("verify", *base, *SETTINGS[:-1], "verify.trained_shares=[0.125]", expect=2)
    assert "models/reference/ref_000/record.json: expected a reference of this run's base" in result.stderr


def test_the_final_run_refuses_what_failed_a_gate(verified: Path, tmp_path: Path) -> None:
    runs = fork_run(verified, tmp_path)
    base = ["--config-name", "smoke", f"runs_dir={runs}"]
    run_cli("search", *base)
    low = read(runs / "smoke/verify/fidelity.json")["benchmarks"]["objective"]["proxies"]["merge"]["rho"]["low"]
    loose = ["accept_untrusted=false", "trust.max_delta=1", "trust.min_cv_rho=-1"]
    result = run_cli("final", *base, *loose, f"trust.min_rho={low}", expect=2)
    assert "the mixture failed 1 of 3 trust gates: rho of the proxies with trained references" in result.stderr
    assert "Set accept_untrusted=true" in result.stderr
    result = run_cli("final", *base, "accept_untrusted=false", "trust.max_delta=0.0001", expect=2)
    assert "moved" in result.stderr
    assert "trust.max_delta=0.0001" in result.stderr
    result = run_cli("final", *base, *loose, f"trust.min_rho={low}", "accept_untrusted=true")
    assert "trust gates" in result.stderr
    comparison = read(runs / "smoke/final/result.json")["chosen_minus"]["proportional"]
    std = read(runs / "smoke/verify/fidelity.json")["benchmarks"]["seed_noise"]["std"]["macro"]
    assert comparison["standard_errors"]["seeds"] == pytest.approx(2**0.5 * std)
    assert comparison["unmeasured"] == []
    ledger = read(runs / "smoke/cost.json")
    assert ledger["stages"]["references"]["num_tokens"] == 6 * 16_384
    assert ledger["same_answer_by_trained_proxies"]["num_proxies"] == 28


def test_settings_that_cannot_be_measured_are_refused(verified: Path) -> None:
    base = ["--config-name", "smoke", f"runs_dir={verified.parent}"]
    for setting, message in (
        ("verify.references=2", "verify.references=2: expected at least 3"),
        ("verify.trained_shares=[1.0]", "a proxy with all of a reference's tokens is the reference"),
        ("verify.confidence=95", "verify.confidence=95"),
        ("reference.name=mine", "`verify` draws its own references"),
    ):
        assert message in run_cli("verify", *base, setting, expect=2).stderr
