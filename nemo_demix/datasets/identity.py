"""What `prepare` makes a run's data of, and the fingerprint of it all: known without reading a document."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from nemo_demix.artifacts import fingerprint, read_json
from nemo_demix.config import DemixConfig
from nemo_demix.config.demix import PLAIN_NAME
from nemo_demix.datasets.benchmarks import BENCHMARK_USES, benchmark_identity
from nemo_demix.datasets.files import absolute
from nemo_demix.datasets.inputs import Identity, Inputs
from nemo_demix.datasets.sources import dataset_errors, dataset_identity, input_files
from nemo_demix.datasets.task_files import data_files
from nemo_demix.datasets.tasks import task_errors, task_identity
from nemo_demix.datasets.tokenizer_build import check_place, check_tokenizer, tokenizer_identity
from nemo_demix.errors import ConfigError, DemixError, found_by, near, refuse

_RESERVED = ("tokenizer", "benchmarks", "tasks", "manifest.json")


def expected_fingerprint(config: DemixConfig, inputs: Inputs | None = None) -> str:
    """Return the fingerprint a finished prepare stage of this configuration carries.

    It covers the datasets, the tokenizer, the split, the overlap, the benchmarks and the tasks: package versions of
    registry sources; of user files path, size and when they were first read (see `inputs`). It does not depend on the
    number of workers.

    Args:
        inputs: What the run knows of its files; None: read from its folder.

    Raises:
        ConfigError, DatasetError: if the configuration is not valid, or a source is missing.
    """
    refuse(data_errors(config))
    inputs = inputs or Inputs(config.run_dir)
    tasks = {name: [task.capability, task_identity(name, task, inputs)] for name, task in config.suite.tasks.items()}
    return fingerprint(
        **({"tasks": tasks} if tasks else {}),  # what was prepared without any stays done
        tokenizer=tokenizer_inputs(config, inputs),
        datasets={
            name: {
                "config": [dataset.capability, dataset.max_bytes, [[s.origin, s.licence] for s in dataset.sources]],
                "sources": dataset_identity(dataset, f"datasets.{name}", inputs),
            }
            for name, dataset in config.datasets.items()
        },
        heldout_share=config.prepare.heldout_share,
        overlap_ngram=config.prepare.overlap_ngram,
        benchmarks={
            name: [benchmark.capability, benchmark_identity(name, benchmark, inputs)]
            for name, benchmark in config.suite.benchmarks.items()
        },
    )


def known_files(config: DemixConfig, inputs: Inputs) -> dict[str, Identity]:
    """Return the user's files that a run's data are made of, and what stands for each.

    Raises:
        ConfigError, DatasetError: if a source is not valid, or is missing.
    """
    places = [
        place
        for name, dataset in config.datasets.items()
        for number, source in enumerate(dataset.sources)
        for place in input_files(source, f"datasets.{name}.sources[{number}]")
    ]
    places += [absolute(one.path) for one in config.suite.benchmarks.values() if one.path is not None]
    for name, task in config.suite.tasks.items():
        files = data_files(f"suite.tasks.{name}", task.data) if task.data is not None else []
        places += [str(path.absolute()) for path in files]
    return {place: inputs.identity(place) for place in dict.fromkeys(places)}


def data_errors(config: DemixConfig) -> Iterator[DemixError]:
    """Yield what is wrong with the data and the suite by the configuration alone: values, and names that are no
    folders.
    """
    if not config.datasets:
        yield ConfigError("datasets: expected at least one dataset, found none; add one, or datasets=quickstart")
    suite = config.suite
    named = (("datasets", config.datasets), ("suite.benchmarks", suite.benchmarks), ("suite.tasks", suite.tasks))
    for section, names in named:
        for name in names:
            if not PLAIN_NAME.fullmatch(name) or name in _RESERVED:
                yield ConfigError(
                    f"{section}.{name}: expected a name of letters, digits, '_', '-' and '.', none of {_RESERVED}"
                )
    settings = config.prepare
    if not 0 < settings.heldout_share < 1:
        yield ConfigError(f"prepare.heldout_share: expected a share between 0 and 1, found {settings.heldout_share}")
    for key, value in (("workers", settings.workers), ("overlap_ngram", settings.overlap_ngram)):
        if value < 1:
            yield ConfigError(f"prepare.{key}: expected at least 1, found {value}")
    for name, benchmark in config.suite.benchmarks.items():
        if benchmark.use not in BENCHMARK_USES:
            yield ConfigError(
                f"suite.benchmarks.{name}.use: expected one of {', '.join(BENCHMARK_USES)}, found {benchmark.use!r}"
                f"{near(benchmark.use, BENCHMARK_USES)}"
            )
    for name, task in config.suite.tasks.items():
        yield from task_errors(name, task, BENCHMARK_USES)
    for name, dataset in config.datasets.items():
        yield from dataset_errors(dataset, f"datasets.{name}")
        if config.tokenizer.kind == "train_bpe" and any(source.megatron for source in dataset.sources):
            yield ConfigError(
                f"tokenizer.kind: train_bpe does not fit datasets.{name}, whose tokens are already made; "
                f"name the tokenizer they were made with"
            )


def tokenizer_errors(config: DemixConfig) -> Iterator[DemixError]:
    """Yield what is wrong with the tokenizer: how it is described, the files of one that is brought, the text
    of a BPE.
    """
    settings = config.tokenizer
    for error in found_by(lambda: check_tokenizer(settings)):
        yield error
        return
    if settings.kind == "train_bpe":
        for name in settings.datasets:
            if name not in config.datasets:
                yield from found_by(partial(_dropped_text, config, name))
        return
    for error in found_by(lambda: check_place(settings)):
        yield error


def tokenizer_record(config: DemixConfig) -> Path:
    """Return where the run's tokenizer and what it was made of are recorded."""
    return config.run_dir.absolute() / "datasets" / "tokenizer" / "record.json"


def tokenizer_inputs(config: DemixConfig, inputs: Inputs) -> dict[str, Any]:
    """Return what the tokenizer depends on: for a BPE, the text of `tokenizer.datasets`, in the recipe's order.

    Raises:
        ConfigError: if one of these is no dataset, and the run's tokenizer was not trained on it either.
    """
    identity = tokenizer_identity(config.tokenizer)
    if config.tokenizer.kind != "train_bpe":
        return identity
    chosen = config.tokenizer.datasets or list(config.datasets)
    texts = {
        name: dataset_identity(dataset, f"datasets.{name}", inputs)
        for name, dataset in config.datasets.items()
        if name in chosen
    }
    texts |= {name: _dropped_text(config, name) for name in chosen if name not in config.datasets}
    return {**identity, "texts": texts, "heldout_share": config.prepare.heldout_share}


def _dropped_text(config: DemixConfig, name: str) -> Any:
    """Return the text of a dataset that the recipe has dropped and the run's tokenizer was trained on."""
    path = tokenizer_record(config)
    texts = read_json(path).get("inputs", {}).get("texts", {}) if path.exists() else {}
    if name not in texts:
        raise ConfigError(
            f"tokenizer.datasets: {name}: expected a dataset of the recipe ({', '.join(config.datasets)}), or one that "
            f"the run's tokenizer was trained on, found neither in {path}{near(name, config.datasets)}; correct or "
            "remove it"
        )
    return texts[name]
