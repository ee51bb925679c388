"""A configuration with its prepared data: found, refused, and worked out once."""

from dataclasses import replace
from pathlib import Path

import pytest

from nemo_demix.artifacts import write_json
from nemo_demix.errors import ConfigError
from nemo_demix.prepared import PreparedRun
from nemo_demix.training.jobs import base_job, component_jobs
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
    assert run.base == base_job(made.config, made.manifest)
    assert list(run.components) == component_jobs(made.config, made.manifest)
    assert run.base is run.base
    assert run.components is run.components
    longer = replace(made.config.base, num_tokens=2 * made.config.base.num_tokens)
    changed = replace(run, config=replace(made.config, base=longer))
    assert changed.base.num_tokens == 2 * run.base.num_tokens
    assert changed.components[0].fingerprint != run.components[0].fingerprint
