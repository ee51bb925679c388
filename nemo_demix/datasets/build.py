"""One candidate dataset: scan its text, select documents, tokenize them, merge the shards, and write its record."""

import logging
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_demix.artifacts import DatasetRecord, fingerprint, is_done, load_record, write_json
from nemo_demix.config import DemixConfig, SourceConfig
from nemo_demix.datasets.benchmarks import benchmark_identity
from nemo_demix.datasets.inputs import Inputs
from nemo_demix.datasets.megatron import PrefixCounts, read_prefix, token_type, write_prefix
from nemo_demix.datasets.overlap import BenchmarkIndex
from nemo_demix.datasets.registry import corpus
from nemo_demix.datasets.shards import (
    DROP,
    HELDOUT,
    SPLITS,
    TRAIN,
    LowestDocuments,
    ScanTask,
    ShardTask,
    scan_unit,
    select,
    write_shard,
)
from nemo_demix.datasets.sources import Unit, dataset_identity, dataset_units, is_megatron, source_kind
from nemo_demix.datasets.tasks import task_identity
from nemo_demix.datasets.workers import Workers
from nemo_demix.errors import DatasetError

log = logging.getLogger(__name__)

_REVISION = 1  # raised whenever the same inputs give other bytes
_NO_SAMPLES: Mapping[str, LowestDocuments] = {}


@dataclass(frozen=True)
class Scan:
    """A dataset's units as read: where each one's digests are, and its number of documents."""

    units: list[Unit]
    stems: list[Path]
    num_documents: list[int]
    num_blank: int


class DatasetBuilder:
    """Builds the datasets of one run, one after the other, over the same workers."""

    def __init__(
        self,
        config: DemixConfig,
        folder: Path,
        work: Path,
        pool: Workers,
        overlap: BenchmarkIndex,
        inputs: Inputs,
    ) -> None:
        """Build under `folder`, with temporary files under `work` on the same file system."""
        self._config = config
        self._folder = folder
        self._work = work
        self._pool = pool
        self._overlap = overlap
        self._seconds: dict[str, float] = {}
        self._inputs = inputs
        self._shards: Path | None = None  # of the dataset under way: kept until its record is written

    def scan(self, names: Iterable[str], samples: Mapping[str, LowestDocuments] = _NO_SAMPLES) -> dict[str, Scan]:
        """Read text datasets once, all at the same time: one that is a single unit keeps a single worker busy.

        Args:
            samples: What is filled with training documents for a tokenizer, by dataset.
        Raises:
            DatasetError: if a source cannot be read.
        """
        started = time.monotonic()
        share = self._config.prepare.heldout_share
        begun = []
        for name in names:
            units = dataset_units(self._config.datasets[name], f"datasets.{name}")
            stems = [self._work / f"{name}.{number}" for number in range(len(units))]
            sample_bytes = samples[name].max_bytes if name in samples else 0
            tasks = [ScanTask(unit, stem, sample_bytes, share) for unit, stem in zip(units, stems, strict=True)]
            begun.append((name, units, stems, self._pool.run(scan_unit, tasks)))
        scans = {}
        for name, units, stems, results in begun:
            num_documents, num_blank = [], 0
            for result in results:
                num_documents.append(result.num_documents)
                num_blank += result.num_blank
                for order, text in result.sample:
                    samples[name].add(order, text)
            self._seconds[name], started = time.monotonic() - started, time.monotonic()
            scans[name] = Scan(units, stems, num_documents, num_blank)
        return scans

    def dataset(self, name: str, tokenizer: dict[str, Any], scan: Scan | None) -> DatasetRecord:
        """Make a dataset, or find it made.

        Args:
            tokenizer: The tokenizer's info.
            scan: The dataset's scan where there is one already.
        Raises:
            DatasetError: if a source cannot be used, or no training tokens come out.
        """
        started, scanned_s = time.monotonic(), self._seconds.get(name, 0.0)
        key, record_path = f"datasets.{name}", self._folder / name / "record.json"
        expected = fingerprint(
            revision=_REVISION,
            sources=dataset_identity(self._config.datasets[name], key, self._inputs),
            max_bytes=self._config.datasets[name].max_bytes,
            heldout_share=self._config.prepare.heldout_share,
            tokenizer=tokenizer["fingerprint"],
        )
        earlier = self._found(record_path, expected)
        record = None if self._config.force or earlier is None or self._lacks_overlap(earlier) else earlier
        if record is None:
            record_path.unlink(missing_ok=True)
            if is_megatron(self._config.datasets[name], key):
                record = self._in_place(name, tokenizer, expected)
            else:
                record = self._from_text(name, tokenizer, scan or self.scan([name])[name], expected)
            self._seconds[name] = scanned_s + time.monotonic() - started
        record = replace(
            record,
            capability=self._config.datasets[name].capability,
            sources=self._described(name, record),
            overlap={**(earlier.overlap if earlier else {}), **record.overlap},
        )
        write_json(record_path, record)  # with what left the suite: it may come back
        if self._shards is not None:
            shutil.rmtree(self._shards)
            self._shards = None
        asked = self._overlap_fingerprints
        return replace(record, overlap={name: record.overlap[name] for name in asked if name in record.overlap})

    def progress(self, record: DatasetRecord) -> str:
        """Return one line about a finished dataset: documents, MB of text, tokens, and the rate where it was
        made now.
        """
        megabytes = (record.num_train_bytes + record.num_heldout_bytes) / 1e6
        seconds = self._seconds.get(record.name)
        rate = "found done" if seconds is None else f"{seconds:.1f} s, {megabytes / max(seconds, 1e-9):.1f} MB/s"
        return (
            f"{record.name}: {record.num_documents} documents ({record.num_duplicates} duplicates dropped), "
            f"{megabytes:.2f} MB, {record.num_train_tokens} training and {record.num_heldout_tokens} held-out tokens, "
            f"{rate}"
        )

    def _found(self, record_path: Path, expected: str) -> DatasetRecord | None:
        """Return the record of the same dataset, if its files are there."""
        if not is_done(record_path, expected):
            return None
        record = load_record(record_path, DatasetRecord)
        return record if record_is_whole(record) else None

    def _lacks_overlap(self, record: DatasetRecord) -> bool:
        """Return whether the overlap of a dataset's text with a benchmark or task of the suite is not in its record."""
        measured = {name: entry["fingerprint"] for name, entry in record.overlap.items()}
        asked = self._overlap_fingerprints
        return record.num_train_bytes > 0 and any(measured.get(name) != asked[name] for name in asked)

    def _in_place(self, name: str, tokenizer: dict[str, Any], expected: str) -> DatasetRecord:
        source = self._config.datasets[name].sources[0]
        assert source.megatron is not None
        key = f"datasets.{name}.sources[0]"
        train_prefix = str(Path(source.megatron).absolute())
        train = read_prefix(train_prefix, tokenizer["vocab_size"], f"{key}.megatron")
        if train.num_tokens == 0:
            raise _no_training_tokens(name, train.num_documents)
        heldout, heldout_prefix = PrefixCounts(0, 0), None
        if source.heldout is not None:
            heldout_prefix = str(Path(source.heldout).absolute())
            heldout = read_prefix(heldout_prefix, tokenizer["vocab_size"], f"{key}.heldout")
        return DatasetRecord(
            name=name,
            capability="",
            train_prefix=train_prefix,
            heldout_prefix=heldout_prefix,
            num_documents=train.num_documents + heldout.num_documents,
            num_duplicates=0,
            num_train_tokens=train.num_tokens,
            num_heldout_tokens=heldout.num_tokens,
            num_train_bytes=0,
            num_heldout_bytes=0,
            sources=[{"num_files": 2 if heldout_prefix is None else 4, "num_documents": train.num_documents}],
            overlap={},
            fingerprint=expected,
        )

    def _shards_folder(self, name: str, scan: Scan, expected: str) -> Path:
        """Return where the shards of a dataset are while it is made, by all that they depend on."""
        overlap = list(self._overlap_fingerprints.items())  # hits are counted by position
        units = [(unit.names, unit.part) for unit in scan.units]
        return self._work / f"{name}.{fingerprint(dataset=expected, overlap=overlap, units=units)}"

    def _from_text(self, name: str, tokenizer: dict[str, Any], scan: Scan, expected: str) -> DatasetRecord:
        dataset = self._config.datasets[name]
        documents = np.concatenate([np.load(f"{stem}.scan.npy") for stem in scan.stems])
        choice, num_duplicates = select(documents, dataset.max_bytes, self._config.prepare.heldout_share)
        if not (choice == TRAIN).any():
            raise _no_training_tokens(name, len(documents))
        if scan.num_blank:
            log.info("prepare: %s: %d blank documents passed over", name, scan.num_blank)
        prefixes = self._tokenize(name, tokenizer, scan, choice, self._shards_folder(name, scan, expected))
        sizes = documents["size"]
        return DatasetRecord(
            name=name,
            capability="",
            train_prefix=str(self._folder / name / "train"),
            heldout_prefix=str(self._folder / name / "heldout"),
            num_documents=int((choice != DROP).sum()),
            num_duplicates=num_duplicates,
            num_train_tokens=prefixes.train.num_tokens,
            num_heldout_tokens=prefixes.heldout.num_tokens,
            num_train_bytes=int(sizes[choice == TRAIN].sum()),
            num_heldout_bytes=int(sizes[choice == HELDOUT].sum()),
            sources=_source_counts(scan, choice, sizes, len(dataset.sources)),
            overlap=prefixes.overlap,
            fingerprint=expected,
        )

    def _tokenize(
        self, name: str, tokenizer: dict[str, Any], scan: Scan, choice: NDArray[np.int8], folder: Path
    ) -> "_Written":
        """Tokenize the selected documents by unit, and merge the shards in the units' order."""
        stored_as, ngram = token_type(tokenizer["vocab_size"]), self._config.prepare.overlap_ngram
        folder.mkdir(exist_ok=True)
        self._shards = folder
        tasks = []
        for number, (unit, stem, part) in enumerate(zip(scan.units, scan.stems, _parts(choice, scan), strict=True)):
            np.save(f"{stem}.choice.npy", part)
            choice_path, shard = Path(f"{stem}.choice.npy"), folder / str(number)
            tasks.append(ShardTask(unit, stem, shard, choice_path, tokenizer, stored_as, self._work, ngram))
        hit_grams = np.empty(0, np.int64)
        documents_B = np.zeros(len(self._overlap.names), np.int64)
        num_found = 0
        for result in self._pool.run(write_shard, tasks):
            hit_grams = np.union1d(hit_grams, result.hit_grams)
            documents_B += result.documents_B
            num_found += result.found
        if num_found:
            log.info("prepare: %s: %d of %d parts were done by a run that was cut off", name, num_found, len(tasks))
        counts = {}
        for split in SPLITS:
            shards = [Path(f"{task.shard}.{split}") for task in tasks]
            counts[split] = write_prefix(shards, stored_as, self._work / f"{name}.{split}", self._folder / name / split)
        for stem in scan.stems:
            for suffix in (".jsonl", ".scan.npy", ".choice.npy"):
                Path(f"{stem}{suffix}").unlink(missing_ok=True)
        overlap = self._overlap.report(hit_grams, documents_B)
        for benchmark, print_ in self._overlap_fingerprints.items():
            overlap[benchmark].update(ngram=ngram, fingerprint=print_)
        return _Written(counts["train"], counts["heldout"], overlap)

    @cached_property
    def _overlap_fingerprints(self) -> dict[str, str]:
        """Fingerprint what the overlap with each benchmark and each task depends on beside the dataset, by name."""
        suite, ngram = self._config.suite, self._config.prepare.overlap_ngram
        prints = {
            name: fingerprint(benchmark=benchmark_identity(name, benchmark, self._inputs), ngram=ngram)
            for name, benchmark in suite.benchmarks.items()
        }
        prints |= {
            f"task/{name}": fingerprint(task=task_identity(name, task, self._inputs), ngram=ngram)
            for name, task in suite.tasks.items()
        }
        return prints

    def _described(self, name: str, record: DatasetRecord) -> list[dict[str, Any]]:
        """Return the record's counts by source, with what each source is, its origin and its licence."""
        sources = self._config.datasets[name].sources
        return [{**counts, **_description(source)} for source, counts in zip(sources, record.sources, strict=True)]


@dataclass(frozen=True)
class _Written:
    """What `_tokenize` wrote."""

    train: PrefixCounts
    heldout: PrefixCounts
    overlap: dict[str, Any]


def record_is_whole(record: DatasetRecord) -> bool:
    """Return whether the files a record describes are where it says."""
    prefixes = [prefix for prefix in (record.train_prefix, record.heldout_prefix) if prefix is not None]
    return all(Path(prefix + suffix).is_file() for prefix in prefixes for suffix in (".bin", ".idx"))


def _no_training_tokens(name: str, num_documents: int) -> DatasetError:
    return DatasetError(
        f"datasets.{name}: expected training tokens, found none in {num_documents} documents; add documents: one at "
        f"least is held out, and equal ones count once"
    )


def _parts(values: NDArray[Any], scan: Scan) -> list[NDArray[Any]]:
    """Return an array over a dataset's documents, cut into its units."""
    return np.split(values, np.cumsum(scan.num_documents)[:-1])


def _source_counts(
    scan: Scan, choice: NDArray[np.int8], sizes: NDArray[np.int64], num_sources: int
) -> list[dict[str, Any]]:
    """Count each source's files, its kept documents and their UTF-8 bytes, in the order of the sources."""
    counts = [{"num_files": 0, "num_documents": 0, "num_bytes": 0} for _ in range(num_sources)]
    for unit, part, size in zip(scan.units, _parts(choice, scan), _parts(sizes, scan), strict=True):
        count = counts[unit.source]
        count["num_files"] += unit.num_files
        count["num_documents"] += int((part != DROP).sum())
        count["num_bytes"] += int(size[part != DROP].sum())
    return counts


def _description(source: SourceConfig) -> dict[str, Any]:
    kind = source_kind(source, "sources")
    origin, licence = source.origin, source.licence
    if source.registry is not None:
        entry = corpus(source.registry)
        origin, licence = origin or entry.origin, licence or entry.licence
    return {"kind": kind, "name": getattr(source, kind), "origin": origin, "licence": licence}
