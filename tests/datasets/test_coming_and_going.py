"""Datasets come and go; the tokenizer and the others stay as they are, where the recipe says whose text it is of."""

import logging
from pathlib import Path

import pytest

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import BenchmarkConfig, DatasetConfig, DemixConfig, SourceConfig
from nemo_demix.datasets.identity import expected_fingerprint
from nemo_demix.datasets.prepare import prepare
from nemo_demix.errors import ConfigError
from tests.datasets.helpers import make_config, sentence, write_texts

NAMES = ("general", "math", "code")


@pytest.fixture
def config(tmp_path: Path) -> DemixConfig:
    sources = {}
    for number, name in enumerate(NAMES):
        texts = (sentence(1000 * number + i) for i in range(80))
        sources[name] = [SourceConfig(path=str(write_texts(tmp_path / f"{name}.jsonl", texts)))]
    return make_config(tmp_path / "runs", sources)


def add(config: DemixConfig, folder: Path) -> None:
    path = write_texts(folder / "new.jsonl", (f"entirely other words {i} zebra quartz" for i in range(80)))
    config.datasets["new"] = DatasetConfig(capability="general", sources=[SourceConfig(path=str(path))])


def kept(before: DataManifest, after: DataManifest) -> bool:
    shared = set(before.datasets) & set(after.datasets)
    assert len(shared) >= 2
    return before.tokenizer == after.tokenizer and all(before.datasets[name] == after.datasets[name] for name in shared)


def test_naming_all_datasets_is_the_same_as_naming_none(config: DemixConfig) -> None:
    expected = expected_fingerprint(config)
    config.tokenizer.datasets = ["code", "general", "math"]
    assert expected_fingerprint(config) == expected
    config.tokenizer.datasets = ["code", "general"]
    assert expected_fingerprint(config) != expected


def test_an_added_dataset_changes_no_other_and_not_the_tokenizer(
    config: DemixConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = prepare(config)
    add(config, tmp_path)
    config.tokenizer.datasets = list(NAMES)
    after = prepare(config)
    assert set(after.datasets) == {*NAMES, "new"}
    assert kept(before, after)
    config.tokenizer.datasets = []
    with caplog.at_level(logging.WARNING):
        assert not kept(before, prepare(config))
    assert "the tokenizer is trained anew, and so will every model be; tokenizer.datasets=[...]" in caplog.text


def test_a_dataset_that_the_tokenizer_was_trained_on_can_go(config: DemixConfig, tmp_path: Path) -> None:
    before = prepare(config)
    del config.datasets["math"]
    config.tokenizer.datasets = list(NAMES)
    after = prepare(config)
    assert set(after.datasets) == {"general", "code"}
    assert kept(before, after)
    config.force = True
    with pytest.raises(ConfigError, match=r"tokenizer.datasets: math: no longer a dataset of the recipe"):
        prepare(config)


def test_a_tokenizer_of_some_datasets_does_not_see_the_others(config: DemixConfig, tmp_path: Path) -> None:
    config.tokenizer.datasets = ["general"]
    before = prepare(config)
    add(config, tmp_path)
    del config.datasets["code"]
    assert kept(before, prepare(config))


def test_unknown_names_and_uses_are_refused(config: DemixConfig) -> None:
    config.tokenizer.datasets = ["general", "maths"]
    with pytest.raises(ConfigError, match=r"tokenizer.datasets: maths: expected a dataset of the recipe \(general, "):
        prepare(config)
    config.tokenizer.datasets = []
    config.suite.benchmarks["arc"] = BenchmarkConfig(capability="general", registry="arc_easy", use="reports")
    with pytest.raises(ConfigError, match=r"arc\.use: expected one of search, fit, report, found 'reports'"):
        prepare(config)
