"""Files that users keep, as the program of 23 November 2026 wrote them (commit 5523bbb, by its own code): all are read.

`tests/data/finished/first` has its recipes, a run (a search over `scores.csv` and a study of references that its own
test made up), and a merge of two tiny checkpoints. `tests/data/finished/quickstart` is of a week later; see
`tests/api/test_run.py` and `tests/search/test_proxy_row.py`.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

import nemo_demix
from nemo_demix.artifacts import read_json
from nemo_demix.checkpoints.inspect import describe
from nemo_demix.checkpoints.reader import CheckpointReader
from nemo_demix.config import DemixConfig, register_schema, to_dataclasses
from nemo_demix.config.limits import limit_errors
from nemo_demix.fidelity.trust import trust_report
from nemo_demix.merging.verify import verify
from nemo_demix.report.page import report_stage
from nemo_demix.search.baselines import heuristic_shares
from nemo_demix.search.strategies import settings_errors
from nemo_demix.stages.fidelity_tables import print_fidelity
from tests.helpers import REPOSITORY, merge_checkpoints

FIRST = REPOSITORY / "tests/data/finished/first"
MIXTURE = FIRST / "run/search/mixture.json"


@pytest.mark.parametrize("name", sorted(path.stem for path in (FIRST / "recipes").glob("*.yaml")))
def test_its_recipes_compose(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMIX_DATA", "/data")
    register_schema()
    with initialize_config_dir(str(FIRST / "recipes"), version_base="1.3"):
        config = to_dataclasses(compose(name, overrides=["hydra.searchpath=[pkg://nemo_demix.conf]"]))
    assert config.name == name
    assert len(config.datasets) == 7
    assert not list(limit_errors(config))
    assert not list(settings_errors(config.search))


def test_its_run_is_loaded_and_has_a_page(tmp_path: Path) -> None:
    folder = shutil.copytree(FIRST / "run", tmp_path / "first")
    record = read_json(MIXTURE)
    assert "reach" not in record
    run = nemo_demix.Run.load(folder)
    assert run.result is not None
    assert run.result.data_shares == record["data_shares"]
    assert [row["dataset"] for row in run.table("mixture")] == list(record["data_shares"])
    assert run.config.search.imported.scores == "scores.csv"
    page = report_stage(DemixConfig(name="first", runs_dir=str(tmp_path))).read_text(encoding="utf-8")
    assert "The macro score of the benchmarks was not measured" in page
    assert "No constraint is binding" in page


def test_its_mixture_may_be_the_next_runs_own(tmp_path: Path) -> None:
    config = DemixConfig(name="next")
    config.search.heuristic_from = str(MIXTURE)
    shares = read_json(MIXTURE)["data_shares"]
    assert heuristic_shares(config, list(shares)) == pytest.approx(shares)


def test_its_study_is_shown_and_judged_by_what_it_measured(capsys: pytest.CaptureFixture[str]) -> None:
    study = read_json(FIRST / "run/verify/fidelity.json")
    assert "objective" not in study["benchmarks"]
    gate = trust_report(DemixConfig(name="next"), {}, None, study)["gates"][2]
    assert gate["value"] == study["benchmarks"]["proxies"]["merge"]["rho"]["macro"]["low"]
    assert "the macro score was not measured: run `nemo-demix verify` again" in gate["reason"]
    print_fidelity(study)
    assert "Proxies against 8 references: gold answers of the benchmarks" in capsys.readouterr().out


def test_its_merge_is_shown_verified_and_merged_again(tmp_path: Path) -> None:
    assert "reusable" in json.loads((FIRST / "merged/mix/merge.json").read_text())
    assert describe(FIRST / "merged/mix").merge["method"] == "linear"
    found = verify(FIRST / "merged/mix")
    assert found.num_files > 3
    assert found.not_compared is not None  # the checkpoints that it was made of are not kept
    merge_checkpoints({"a": FIRST / "merged/mix", "b": FIRST / "merged/mix"}, tmp_path, {"m": {"a": 0.25, "b": 0.75}})
    name = "module.decoder.final_layernorm.weight"
    assert torch.equal(CheckpointReader(tmp_path / "m").read_tensor(name), torch.full((4,), 1.5))
