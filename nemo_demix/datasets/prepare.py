"""The prepare stage: text or .bin/.idx prefixes → candidate datasets, held-out splits, tokenizer, benchmarks and tasks.

Writes `<run>/datasets/`: tokenizer/, <dataset>/{train,heldout}.{bin,idx}, <dataset>/record.json, benchmarks/, tasks/,
and manifest.json last. Each part is redone only where its inputs changed.
"""

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nemo_demix.artifacts import DataManifest, DatasetRecord, TaskRecord, fingerprint, is_done, read_json, write_json
from nemo_demix.config import DemixConfig
from nemo_demix.datasets.benchmarks import read_items, scored_text, write_benchmark
from nemo_demix.datasets.build import DatasetBuilder, Scan, record_is_whole
from nemo_demix.datasets.identity import expected_fingerprint, known_files, tokenizer_inputs, tokenizer_record
from nemo_demix.datasets.inputs import Inputs
from nemo_demix.datasets.overlap import BenchmarkIndex
from nemo_demix.datasets.shards import LowestDocuments
from nemo_demix.datasets.tasks import task_texts, write_task
from nemo_demix.datasets.tokenizer_build import build_tokenizer
from nemo_demix.datasets.workers import Workers, workers
from nemo_demix.errors import ConfigError
from nemo_demix.progress import Progress, doing, tell

log = logging.getLogger(__name__)


def prepare(config: DemixConfig) -> DataManifest:
    """Make the candidate datasets of a run, or find them made.

    Returns:
        The manifest, as written to `<run>/datasets/manifest.json`.
    Raises:
        ConfigError: if the configuration is incomplete or contradicts itself.
        DatasetError: if a source, a tokenizer or a benchmark cannot be used.
    Memory: one document batch a worker, 24 bytes a document of one dataset, and the benchmarks' n-grams.
    """
    inputs = Inputs(config.run_dir)  # one for all: a file that was touched is read once
    expected = expected_fingerprint(config, inputs)
    before = known_files(config, inputs)
    folder = config.run_dir.absolute() / "datasets"
    manifest_path = folder / "manifest.json"
    if not config.force and is_done(manifest_path, expected):
        manifest = DataManifest.load(manifest_path)
        others = [manifest.tokenizer["path"]]
        others += [record.path for record in manifest.benchmarks.values()]
        others += [record.path for record in manifest.tasks.values()]
        if all(map(record_is_whole, manifest.datasets.values())) and all(Path(path).exists() for path in others):
            log.info("prepare: done already, %s", manifest_path)
            inputs.keep(before)
            return manifest
    manifest_path.unlink(missing_ok=True)
    work = folder / ".work"
    if config.force:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    with workers(config.prepare.workers) as pool:
        manifest = _Preparation(config, folder, work, pool, inputs).run(expected)
    shutil.rmtree(work)  # after a run that was cut off it has the parts that are done
    inputs.keep(before)
    write_json(manifest_path, manifest)
    return manifest


class _Preparation:
    """One run of the stage."""

    def __init__(self, config: DemixConfig, folder: Path, work: Path, pool: Workers, inputs: Inputs) -> None:
        self._config = config
        self._folder = folder
        self._work = work
        self._pool = pool
        self._scans: dict[str, Scan] = {}
        self._inputs = inputs

    def run(self, expected: str) -> DataManifest:
        """Make whatever is not done."""
        config = self._config
        doing(log, "prepare: reading the benchmarks")
        benchmarks = {
            name: write_benchmark(name, benchmark, self._folder / "benchmarks", config.force, self._inputs)
            for name, benchmark in config.suite.benchmarks.items()
        }
        tasks = self._tasks()
        texts = {name: list(scored_text(read_items(Path(record.path)))) for name, record in benchmarks.items()}
        texts |= {f"task/{name}": task_texts(name, config.suite, record) for name, record in tasks.items()}
        overlap = BenchmarkIndex.build(texts, config.prepare.overlap_ngram)
        overlap.save(self._work)
        builder = DatasetBuilder(config, self._folder, self._work, self._pool, overlap, self._inputs)
        doing(log, "prepare: the tokenizer")
        tokenizer = self._tokenizer(builder)
        datasets: dict[str, DatasetRecord] = {}
        for number, name in enumerate(config.datasets, start=1):
            tell(log, Progress(f"prepare: {name}", number - 1, len(config.datasets), "dataset", is_line=False))
            datasets[name] = builder.dataset(name, tokenizer, self._scans.pop(name, None))
            log.info("prepare: [%d/%d] %s", number, len(config.datasets), builder.progress(datasets[name]))
        return DataManifest(tokenizer, datasets, benchmarks, expected, tasks)

    def _tasks(self) -> dict[str, TaskRecord]:
        suite, records = self._config.suite, {}
        for number, name in enumerate(suite.tasks, start=1):
            records[name] = write_task(name, suite, self._folder / "tasks", self._config.force, self._inputs)
            log.info(
                "prepare: [%d/%d] task %s: %d documents", number, len(suite.tasks), name, records[name].num_documents
            )
        return records

    def _tokenizer(self, builder: DatasetBuilder) -> dict[str, Any]:
        """Return the tokenizer's info; with what it was made of beside it, so that a dataset of it can be dropped
        later.
        """
        config = self._config
        record_path = tokenizer_record(config)
        inputs = tokenizer_inputs(config, self._inputs)
        expected = fingerprint(tokenizer=inputs)
        info: dict[str, Any] | None = None
        if not config.force and is_done(record_path, expected):
            info = read_json(record_path)["tokenizer"]
        if info is None or not Path(info["path"]).exists():
            texts = self._sample(builder, inputs["texts"]) if config.tokenizer.kind == "train_bpe" else []
            info = build_tokenizer(config.tokenizer, texts, self._folder / "tokenizer")
            log.info("prepare: tokenizer %s, %d tokens, %s", info["kind"], info["vocab_size"], info["path"])
        write_json(record_path, {"tokenizer": info, "inputs": inputs, "fingerprint": expected})
        return info

    def _sample(self, builder: DatasetBuilder, names: Iterable[str]) -> list[str]:
        """Return text of these datasets for a BPE, in equal parts."""
        names = list(names)
        dropped = [name for name in names if name not in self._config.datasets]
        if dropped:
            raise ConfigError(
                f"tokenizer.datasets: {', '.join(dropped)}: no longer a dataset of the recipe: its tokenizer can be "
                "kept, but not trained again; put it back, or take it out (every model is then trained again)"
            )
        if tokenizer_record(self._config).exists():
            log.warning(
                "prepare: the tokenizer is trained anew, and so will every model be; tokenizer.datasets=[...] "
                "names the datasets it depends on, so that others can come and go"
            )
        samples = {name: LowestDocuments(self._config.tokenizer.sample_bytes // len(names)) for name in names}
        self._scans = builder.scan(names, samples)
        return [text for name in names for _, text in samples[name].texts()]
