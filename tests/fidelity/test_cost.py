"""The ledger of a real run, and of runs that lack parts."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import DemixConfig, load_resolved
from nemo_demix.fidelity.cost import cost_ledger
from nemo_demix.prepared import PreparedRun
from tests.helpers import fork_run


def parts(run: Path) -> tuple[DemixConfig, DataManifest]:
    config = replace(load_resolved(run / "config.yaml"), runs_dir=str(run.parent))
    return config, DataManifest.load(run / "datasets/manifest.json")


def test_the_ledger_adds_up_what_the_records_say(smoke_run: Path) -> None:
    config, manifest = parts(smoke_run)
    prepared = PreparedRun(config, manifest)
    ledger = cost_ledger(prepared, prepared.jobs("final"))
    stages = ledger["stages"]
    for stage, role in (("base", "base"), ("components", "component"), ("final", "final")):
        records = [json.loads(path.read_text()) for path in (smoke_run / "models" / role).glob("*/record.json")]
        assert stages[stage]["num_models"] == len(records)
        assert stages[stage]["num_tokens"] == sum(record["num_tokens"] for record in records)
        assert stages[stage]["device_s"] == pytest.approx(2 * sum(record["wall_time_s"] for record in records), abs=0.1)
    assert "references" not in stages
    num_proxies = len((smoke_run / "search/scores.jsonl").read_text().splitlines())
    assert stages["search"]["num_proxies"] == num_proxies
    assert ledger["if_proxies_were_trained"]["num_tokens"] == num_proxies * 16_384
    assert ledger["one_scoring_in_tokens"] > 0
    assert ledger["same_answer_by_trained_proxies"]["num_tokens"] is None
    assert "nemo-demix verify" in ledger["same_answer_by_trained_proxies"]["reason"]
    rows = ledger["growth"]["rows"]
    assert [row["num_datasets"] for row in rows] == [3, 7, 15, 30, 50]
    assert rows[1]["component_tokens"] == stages["components"]["num_tokens"]
    assert all(row["trained_proxy_tokens"] == 16 * row["component_tokens"] for row in rows)
    assert not ledger["growth"]["measured"]


def test_a_proxy_keeps_the_ranks_of_its_group_busy(smoke_run: Path) -> None:
    config, manifest = parts(smoke_run)

    def ledger(tensor: int) -> dict[str, Any]:
        prepared = PreparedRun(replace(config, search=replace(config.search, tensor=tensor)), manifest)
        return cost_ledger(prepared, prepared.jobs("final"))

    together, apart = ledger(2), ledger(1)
    assert apart["stages"]["search"]["device_s"] == pytest.approx(together["stages"]["search"]["device_s"] / 2, abs=0.1)
    assert apart["proxies_per_minute"] == pytest.approx(2 * together["proxies_per_minute"])
    assert apart["stages"]["final"] == together["stages"]["final"]


def test_a_run_without_components_or_scores_has_a_ledger(smoke_run: Path, tmp_path: Path) -> None:
    run = fork_run(smoke_run, tmp_path, "models/component", "search/scores.jsonl") / "smoke"
    config, manifest = parts(run)
    prepared = PreparedRun(config, manifest)
    ledger = cost_ledger(prepared, prepared.jobs("final"))
    assert set(ledger["stages"]) == {"base", "final"}
    assert ledger["if_proxies_were_trained"] is None
    assert ledger["break_even_proxies"] is None
    assert ledger["growth"] is None
    json.dumps(ledger, allow_nan=False)
