"""A configuration with its prepared data: found, refused, and worked out once."""

from dataclasses import replace
from pathlib import Path

import pytest

from nemo_demix.artifacts import write_json
from nemo_demix.errors import ConfigError, DemixError
from nemo_demix.prepared import PreparedRun
from tests.report.runs import Run


def test_a_run_is_opened_where_exactly_its_data_are_prepared(tmp_path: Path) -> None:
    made = Run(tmp_path)
    manifest = made.with_sources()
    assert PreparedRun.find(made.config) is None
    with pytest.raises(ConfigError, match=r"manifest\.json: does not exist yet; run `nemo-demix prepare`"):
        PreparedRun.open(made.config)
    write_json(made.folder / "datasets/manifest.json", manifest)
    assert PreparedRun.open(made.config).manifest == manifest
    dataset = replace(made.config.datasets["general"], capability="code")
    other = replace(made.config, datasets=made.config.datasets | {"general": dataset})
    assert PreparedRun.find(other) is None
    with pytest.raises(ConfigError, match=r"manifest\.json: was made from other sources or settings"):
        PreparedRun.open(other)


def test_jobs_are_worked_out_once_and_by_this_configuration(tmp_path: Path) -> None:
    made = Run(tmp_path)
    run = PreparedRun(made.config, made.manifest)
    assert run.folder == made.folder
    assert run.base is run.base
    assert run.components is run.components
    assert [job.name for job in run.components] == list(made.config.datasets)
    assert {job.start for job in run.components} == {run.base.checkpoint}
    shares = {"one": {"general": 0.5, "math_1": 0.5}}
    assert [job.seed for job in run.references(shares, {"one": 7})] == [7]
    assert run.proxy(shares["one"], 4).blend == run.finals(shares)[0].blend == shares["one"]
    longer = replace(made.config.base, num_tokens=2 * made.config.base.num_tokens)
    changed = replace(run, config=replace(made.config, base=longer))
    assert changed.base.num_tokens == 2 * run.base.num_tokens
    assert changed.components[0].fingerprint != run.components[0].fingerprint


def test_jobs_of_a_role_are_those_that_the_folder_has_mixtures_for(tmp_path: Path) -> None:
    made = Run(tmp_path)
    run = PreparedRun(made.config, made.manifest)
    assert run.jobs("base") == [run.base]
    assert run.jobs("component", ["math_1"]) == [job for job in run.components if job.name == "math_1"]
    with pytest.raises(DemixError, match=r"final/shares\.json: not found"):
        run.jobs("final")
    with pytest.raises(ConfigError, match=r"train role=reference: set reference\.name, reference\.shares"):
        run.jobs("reference")
    shares = {"general": 0.75, "code_1": 0.25}
    write_json(made.folder / "final/shares.json", {"mixture": shares, "equal": dict.fromkeys(made.names, 1 / 3)})
    write_json(made.folder / "verify/references.json", [{"name": "ref_000", "data_shares": shares, "seed": 3}])
    assert run.jobs("final", ["mixture"]) == run.finals({"mixture": shares})
    assert run.jobs("reference") == run.references({"ref_000": shares}, {"ref_000": 3})
