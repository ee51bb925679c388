import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import DatasetConfig, DemixConfig, SourceConfig, TokenizerConfig
from nemo_demix.datasets import shards
from nemo_demix.datasets.identity import expected_fingerprint
from nemo_demix.datasets.prepare import prepare
from nemo_demix.errors import ConfigError, DatasetError
from nemo_demix.tokenizer import load_tokenizer
from tests.datasets.helpers import make_config, sentence, with_benchmark, write_rows, write_texts
from tests.forked import CONTEXT


def indexed(prefix: str | None) -> Any:
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    return IndexedDataset(prefix)


def texts_of(manifest: DataManifest, name: str, split: str) -> list[str]:
    """The documents of a split, back from its tokens; each has to end in eos, and hold no other."""
    tokenizer = load_tokenizer(manifest.tokenizer)
    texts = []
    for sequence in indexed(getattr(manifest.datasets[name], f"{split}_prefix")):
        assert sequence[-1] == tokenizer.eos_id
        assert tokenizer.eos_id not in sequence[:-1]
        texts.append(tokenizer.decode(sequence[:-1].tolist()))
    return texts


def files_of(config: DemixConfig) -> dict[str, bytes]:
    folder = config.run_dir / "datasets"
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in {".bin", ".idx"} or path.name == "tokenizer.json"
    }


def times_of(config: DemixConfig) -> dict[str, int]:
    found = {path.parent.name: path.stat().st_mtime_ns for path in config.run_dir.absolute().rglob("train.bin")}
    assert found, "no dataset has been made"
    return found


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, list[SourceConfig]]:
    """Two datasets: rows in three files of which one repeats documents, and code beside a text file."""
    write_texts(tmp_path / "a0.jsonl", [sentence(number) for number in range(100)])
    write_texts(tmp_path / "a1.jsonl", [sentence(number) for number in range(80, 150)] + ["   "])
    write_texts(tmp_path / "a2.jsonl", [sentence(number) for number in range(150, 180)])
    code = tmp_path / "code"
    code.mkdir()
    for number in range(60):
        (code / f"m{number}.py").write_text(f"def f{number}(x):\n    return x + {number}\n")
    (code / "__init__.py").touch()
    shared = write_texts(tmp_path / "shared.jsonl", [sentence(number) for number in range(50)])
    return {
        "prose": [SourceConfig(path=f"{tmp_path}/a*.jsonl", licence="CC0-1.0", origin="made here")],
        "mixed": [SourceConfig(code=str(code)), SourceConfig(path=str(shared))],
    }


def test_every_document_arrives_once_and_the_record_counts_it(
    tmp_path: Path, sources: dict[str, list[SourceConfig]]
) -> None:
    manifest = prepare(make_config(tmp_path / "runs", sources))
    prose = manifest.datasets["prose"]
    train, heldout = texts_of(manifest, "prose", "train"), texts_of(manifest, "prose", "heldout")
    assert sorted(train + heldout) == sorted(sentence(number) for number in range(180))
    assert (prose.num_documents, prose.num_duplicates) == (180, 20)
    for split, texts in (("train", train), ("heldout", heldout)):
        data = indexed(getattr(prose, f"{split}_prefix"))
        assert len(data.document_indices) - 1 == len(texts) > 0
        assert data.index.sequence_lengths.sum() == getattr(prose, f"num_{split}_tokens")
        assert sum(len(text.encode()) for text in texts) == getattr(prose, f"num_{split}_bytes")
        assert data.index.dtype == np.uint16
    (source,) = prose.sources
    assert source["origin"] == "made here"
    assert source["licence"] == "CC0-1.0"
    assert (source["num_files"], source["num_documents"]) == (3, 180)
    assert DataManifest.load(tmp_path / "runs" / "run" / "datasets" / "manifest.json") == manifest
    assert not (tmp_path / "runs" / "run" / "datasets" / ".work").exists()


def test_a_document_is_held_out_of_every_dataset_or_of_none(
    tmp_path: Path, sources: dict[str, list[SourceConfig]]
) -> None:
    config = make_config(tmp_path / "runs", sources)
    config.prepare.heldout_share = 0.3
    manifest = prepare(config)
    for one, other in (("prose", "mixed"), ("mixed", "prose")):
        assert not set(texts_of(manifest, one, "train")) & set(texts_of(manifest, other, "heldout"))
    assert set(texts_of(manifest, "prose", "heldout")) & set(texts_of(manifest, "mixed", "heldout"))


def test_the_bytes_do_not_depend_on_the_number_of_workers(
    tmp_path: Path, sources: dict[str, list[SourceConfig]]
) -> None:
    found = []
    for workers in (1, 2):
        config = make_config(tmp_path / f"runs{workers}", sources, max_bytes=9000)
        config.prepare.workers = workers
        manifest = prepare(config)
        found.append((files_of(config), manifest.fingerprint))
    assert found[0] == found[1]
    assert len(found[0][0]) == 9


def test_the_split_of_a_document_stays_when_others_come_and_go(
    tmp_path: Path, sources: dict[str, list[SourceConfig]]
) -> None:
    config = make_config(tmp_path / "runs", {"prose": sources["prose"]})
    config.prepare.heldout_share = 0.2
    before = set(texts_of(prepare(config), "prose", "heldout"))
    write_texts(tmp_path / "a3.jsonl", [sentence(number) for number in range(300, 400)])
    after = set(texts_of(prepare(config), "prose", "heldout"))
    assert before < after


def test_a_cap_keeps_a_sample_of_all_files(tmp_path: Path, sources: dict[str, list[SourceConfig]]) -> None:
    manifest = prepare(make_config(tmp_path / "runs", {"prose": sources["prose"]}, max_bytes=5000))
    record = manifest.datasets["prose"]
    texts = texts_of(manifest, "prose", "train") + texts_of(manifest, "prose", "heldout")
    assert 5000 <= record.num_train_bytes + record.num_heldout_bytes < 5000 + 200
    numbers = [int(text.rstrip(".").split()[-1]) for text in texts]
    assert min(numbers) < 60
    assert max(numbers) >= 150


def test_what_is_done_is_not_done_again(tmp_path: Path, sources: dict[str, list[SourceConfig]]) -> None:
    config = make_config(tmp_path / "runs", sources)
    first = prepare(config)
    times = times_of(config)
    config.prepare.workers = 2
    assert prepare(config) == first
    assert times_of(config) == times
    config.prepare.workers, config.force = 1, True
    assert prepare(config) == first
    assert all(times_of(config)[name] > time for name, time in times.items())


def test_only_a_changed_dataset_is_made_again(
    tmp_path: Path, sources: dict[str, list[SourceConfig]], tokenizer_file: Path
) -> None:
    config = make_config(tmp_path / "runs", sources)
    config.tokenizer = TokenizerConfig(kind="tokenizers", path=str(tokenizer_file))
    first = prepare(config)
    times = times_of(config)
    os.utime(tmp_path / "shared.jsonl", (1, 1))
    assert prepare(config) == first, "a file that was only touched is the same"
    assert times_of(config) == times
    with open(tmp_path / "shared.jsonl", "a") as file:
        file.write("\n")
    second = prepare(config)
    assert times_of(config)["prose"] == times["prose"]
    assert times_of(config)["mixed"] > times["mixed"]
    assert second.fingerprint != first.fingerprint
    assert second.datasets["prose"] == first.datasets["prose"]


def test_new_words_about_a_source_change_the_record_but_not_the_data(
    tmp_path: Path, sources: dict[str, list[SourceConfig]]
) -> None:
    config = make_config(tmp_path / "runs", sources)
    first = prepare(config)
    times = times_of(config)
    config.datasets["prose"].sources[0].licence = "MIT"
    config.datasets["prose"].capability = "letters"
    second = prepare(config)
    assert times_of(config) == times
    assert second.datasets["prose"].sources[0]["licence"] == "MIT"
    assert second.datasets["prose"].capability == "letters"
    assert second.datasets["prose"].fingerprint == first.datasets["prose"].fingerprint


def test_lost_files_are_made_again(tmp_path: Path, sources: dict[str, list[SourceConfig]]) -> None:
    config = make_config(tmp_path / "runs", sources)
    first, files = prepare(config), files_of(config)
    Path(f"{first.datasets['prose'].train_prefix}.idx").unlink()
    assert prepare(config) == first
    assert files_of(config) == files


def test_a_failed_run_leaves_no_manifest_and_the_next_one_goes_on(
    tmp_path: Path, sources: dict[str, list[SourceConfig]], tokenizer_file: Path
) -> None:
    config = make_config(tmp_path / "runs", sources)
    config.tokenizer = TokenizerConfig(kind="tokenizers", path=str(tokenizer_file))
    good = (tmp_path / "shared.jsonl").read_text()
    (tmp_path / "shared.jsonl").write_text(good + "{broken\n")
    with pytest.raises(DatasetError, match=r"shared\.jsonl: line 51: expected a JSON object"):
        prepare(config)
    folder = config.run_dir / "datasets"
    assert not (folder / "manifest.json").exists()
    assert not (folder / "mixed").exists()
    times = times_of(config)
    (tmp_path / "shared.jsonl").write_text(good)
    prepare(config)
    assert times_of(config)["prose"] == times["prose"]


def prepare_until_the_third_file(config: DemixConfig) -> None:
    """Be killed as it is begun."""
    read = shards._chosen
    shards._chosen = lambda task: os.kill(os.getpid(), 9) if task.stem.name.endswith(".2") else read(task)
    prepare(config)


def test_a_killed_run_goes_on_inside_a_dataset(
    tmp_path: Path, sources: dict[str, list[SourceConfig]], tokenizer_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The parts that were written stay; the bytes are those of a run that was not cut off."""
    config = make_config(tmp_path / "whole", {"prose": sources["prose"]})
    config.tokenizer = TokenizerConfig(kind="tokenizers", path=str(tokenizer_file))
    prepare(config)
    whole = files_of(config)
    config.runs_dir = str(tmp_path / "cut")
    # Not a fork of this process: the tokenizer library has threads here, and where NeMo was imported, which sets
    # TOKENIZERS_PARALLELISM, a fork waits for them for ever.
    cut_off = CONTEXT.Process(target=prepare_until_the_third_file, args=(config,), daemon=True)
    cut_off.start()
    cut_off.join(120)
    assert cut_off.exitcode == -9
    assert not (config.run_dir / "datasets/prose").exists()
    done = {path: path.stat().st_mtime_ns for path in (config.run_dir / "datasets/.work").glob("prose.*/*.npz")}
    assert len(done) == 2
    caplog.set_level("INFO")
    prepare(config)
    assert "prose: 2 of 3 parts were done by a run that was cut off" in caplog.text
    assert files_of(config) == whole
    assert not (config.run_dir / "datasets/.work").exists()


def test_an_error_in_a_worker_process_arrives_whole(tmp_path: Path, sources: dict[str, list[SourceConfig]]) -> None:
    (tmp_path / "a1.jsonl").write_bytes(b'{"text": "\xff"}\n')
    config = make_config(tmp_path / "runs", sources)
    config.prepare.workers = 2
    with pytest.raises(DatasetError, match=r"a1\.jsonl: line 1: expected UTF-8"):
        prepare(config)


def test_a_planted_benchmark_item_is_reported(tmp_path: Path, sources: dict[str, list[SourceConfig]]) -> None:
    words = sentence(7).split()
    items = [
        {"id": "planted", "context": " ".join(words[:20]), "gold": " " + " ".join(words[20:])},
        {"id": "clean", "context": " ".join(f"word{number}" for number in range(20)), "gold": " end"},
    ]
    benchmark = write_rows(tmp_path / "bench.jsonl", items)
    config = with_benchmark(make_config(tmp_path / "runs", sources), "bench", benchmark)
    manifest = prepare(config)
    trained = sentence(7) in texts_of(manifest, "prose", "train")
    found = manifest.datasets["prose"].overlap["bench"]
    assert trained
    assert (found["num_items"], found["num_items_hit"], found["num_documents_hit"], found["ngram"]) == (2, 1, 1, 13)
    times = times_of(config)
    write_rows(benchmark, items[1:])
    again = prepare(config)
    assert again.datasets["prose"].overlap["bench"]["num_items_hit"] == 0
    assert again.datasets["prose"].fingerprint == manifest.datasets["prose"].fingerprint
    assert all(times_of(config)[name] > time for name, time in times.items())


def test_a_benchmark_that_goes_and_comes_back_costs_no_text_read_again(
    tmp_path: Path, sources: dict[str, list[SourceConfig]]
) -> None:
    """What was measured stays known; the record that a run reads has the suite's benchmarks alone."""
    words = sentence(7).split()
    rows = [{"id": "planted", "context": " ".join(words[:20]), "gold": " " + " ".join(words[20:])}]
    config = with_benchmark(make_config(tmp_path / "runs", sources), "bench", write_rows(tmp_path / "b.jsonl", rows))
    before = prepare(config).datasets["prose"].overlap
    times = times_of(config)
    bench = config.suite.benchmarks.pop("bench")
    assert prepare(config).datasets["prose"].overlap == {}
    config.suite.benchmarks["bench"] = bench
    assert prepare(config).datasets["prose"].overlap == before
    assert times_of(config) == times


@pytest.fixture
def tokenizer_file(tmp_path: Path) -> Path:
    from tests.test_tokenizer import write_backend

    return write_backend(tmp_path / "tokenizer.json", "</s>")


@pytest.fixture
def prefixed(tmp_path: Path, sources: dict[str, list[SourceConfig]], tokenizer_file: Path) -> DemixConfig:
    """A configuration with a .bin/.idx prefix that an earlier run wrote."""
    config = make_config(tmp_path / "earlier", {"prose": sources["prose"]})
    config.tokenizer = TokenizerConfig(kind="tokenizers", path=str(tokenizer_file))
    record = prepare(config).datasets["prose"]
    brought = SourceConfig(megatron=record.train_prefix, heldout=record.heldout_prefix, origin="earlier run")
    config.runs_dir = str(tmp_path / "runs")
    config.datasets = {"brought": DatasetConfig(capability="general", sources=[brought])}
    return config


def test_a_prefix_is_used_where_it_is(prefixed: DemixConfig) -> None:
    record = prepare(prefixed).datasets["brought"]
    source = prefixed.datasets["brought"].sources[0]
    assert (record.train_prefix, record.heldout_prefix) == (source.megatron, source.heldout)
    train, heldout = indexed(source.megatron), indexed(source.heldout)
    assert record.num_documents == len(train) + len(heldout) == 180
    assert record.num_train_tokens == train.index.sequence_lengths.sum()
    assert record.num_heldout_tokens == heldout.index.sequence_lengths.sum()
    assert record.num_train_bytes == 0
    assert not list(prefixed.run_dir.rglob("*.bin"))


def test_a_prefix_may_come_without_held_out_data(prefixed: DemixConfig) -> None:
    source = prefixed.datasets["brought"].sources[0]
    prefixed.datasets["brought"].sources = [replace(source, heldout=None)]
    record = prepare(prefixed).datasets["brought"]
    assert record.heldout_prefix is None
    assert record.num_heldout_tokens == 0


def test_a_bad_prefix_is_named(tmp_path: Path, prefixed: DemixConfig) -> None:
    source = prefixed.datasets["brought"].sources[0]

    def use(prefix: str) -> None:
        prefixed.datasets["brought"].sources = [SourceConfig(megatron=prefix)]
        prepare(prefixed)

    with pytest.raises(DatasetError, match=r"gone\.bin: expected a file"):
        use(str(tmp_path / "gone"))
    copy = tmp_path / "copy"
    for suffix in (".bin", ".idx"):
        shutil.copyfile(f"{source.megatron}{suffix}", f"{copy}{suffix}")
    with open(f"{copy}.bin", "ab") as file:
        file.write(b"\0\0")
    with pytest.raises(DatasetError, match=r"copy\.bin: expected \d+ bytes as in the index, found \d+"):
        use(str(copy))
    np.full(os.path.getsize(f"{source.megatron}.bin") // 2, 9999, np.uint16).tofile(f"{copy}.bin")
    with pytest.raises(DatasetError, match=r"expected token ids below the tokenizer's 300, found 9999 in document 0"):
        use(str(copy))
    for content in (b"no index", Path(f"{source.megatron}.idx").read_bytes()[:40]):
        Path(f"{copy}.idx").write_bytes(content)
        with pytest.raises(DatasetError, match=r"copy\.idx: expected Megatron's index"):
            use(str(copy))


def test_a_trained_tokenizer_does_not_fit_a_prefix(prefixed: DemixConfig) -> None:
    prefixed.tokenizer = TokenizerConfig(kind="train_bpe", vocab_size=300)
    with pytest.raises(ConfigError, match=r"train_bpe does not fit datasets\.brought"):
        prepare(prefixed)


def test_a_dataset_without_training_documents_is_refused(tmp_path: Path) -> None:
    path = write_texts(tmp_path / "one.jsonl", ["only one document", "only one document", " "])
    config = make_config(tmp_path / "runs", {"lone": [SourceConfig(path=str(path))]})
    with pytest.raises(DatasetError, match=r"datasets\.lone: expected training tokens, found none in 2 documents"):
        prepare(config)
    assert not (config.run_dir / "datasets" / "lone").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("heldout_share", 0.0, r"prepare\.heldout_share: expected a share between 0 and 1, found 0\.0"),
        ("heldout_share", 1.0, "found 1.0"),
        ("workers", 0, r"prepare\.workers: expected at least 1, found 0"),
        ("overlap_ngram", 0, r"prepare\.overlap_ngram: expected at least 1"),
    ],
)
def test_impossible_settings_are_refused(tmp_path: Path, key: str, value: float, message: str) -> None:
    config = make_config(tmp_path, {"d": [SourceConfig(registry="codeio_high")]})
    setattr(config.prepare, key, value)
    with pytest.raises(ConfigError, match=message):
        expected_fingerprint(config)


@pytest.mark.parametrize("name", ["a/b", "tokenizer", "", ".work"])
def test_a_dataset_name_has_to_be_a_folder_name_of_its_own(tmp_path: Path, name: str) -> None:
    config = make_config(tmp_path, {name: [SourceConfig(registry="codeio_high")]})
    with pytest.raises(ConfigError, match="expected a name of letters"):
        prepare(config)
    config.datasets = {}
    with pytest.raises(ConfigError, match="datasets: expected at least one dataset"):
        prepare(config)
