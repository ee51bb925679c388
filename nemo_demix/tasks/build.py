"""Tasks of the harness, built from a definition and documents, with the settings of the configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_demix.artifacts import TaskRecord, file_sha256
from nemo_demix.config import TaskConfig
from nemo_demix.errors import ConfigError, DatasetError
from nemo_demix.tasks import catalogue
from nemo_demix.tasks.documents import read_documents, task_label
from nemo_demix.tasks.environment import documents_from

_GENERATE = "generate_until"


@dataclass(frozen=True)
class BuiltTask:
    """What one key of `suite.tasks` names.

    Attributes:
        leaves: The harness's `Task` objects by name; several where a group or a tag is named.
        groups: The harness's `Group` objects by name: the named one and those in it; none for a task or a tag.
        top: The name of the group that was named, if it is one.
        folders: Where its definitions are.
    """

    leaves: dict[str, Any]
    groups: dict[str, Any] = field(default_factory=dict)
    top: str | None = None
    folders: frozenset[Path] = frozenset()


def build(key: str, config: TaskConfig, allow_code: bool, folders: tuple[Path, ...] | None = None) -> BuiltTask:
    """Build a task, group or tag inside `environment.harness()` and `environment.documents_from(...)`.

    Args:
        key: Key in the configuration, for messages.
        config: The task's configuration.
        allow_code: Whether programs that a model wrote may be run.
        folders: Folders of the definitions, where they are known: nothing else is read then. None: they are looked for.
    Raises:
        ConfigError: if there is no such task, or it cannot be run as the configuration says.
    """
    manager = catalogue.find(key, config.task) if folders is None else catalogue.manager(folders)
    loaded = _load(key, manager, catalogue.spec(config.task))
    leaves: dict[str, Any] = loaded["tasks"]
    _check_kinds(key, leaves, allow_code)
    for leaf in leaves.values():
        _set_shots(key, leaf, config)
        if config.generation:
            if leaf.OUTPUT_TYPE != _GENERATE:
                raise ConfigError(
                    f"{key}.generation: {leaf.task_name} generates nothing ({leaf.OUTPUT_TYPE}); remove it"
                )
            leaf.set_config("generation_kwargs", {**leaf.config.generation_kwargs, **config.generation})
    groups = loaded["groups"]
    top = next((name for name in groups if not any(name in group.child_names for group in groups.values())), None)
    is_single_file = catalogue.is_file(config.task) and top is None
    used = frozenset() if is_single_file else frozenset(catalogue.definition_folders(manager, loaded))
    return BuiltTask(leaves, groups, top, used)


def build_saved(key: str, config: TaskConfig, allow_code: bool, record: TaskRecord) -> BuiltTask:
    """Return a task, group or tag on the documents that `prepare` wrote, inside `environment.harness()`; no network is
    used.

    Raises:
        ConfigError: as `build`.
        DatasetError: if the documents are not there, or are others than were written.
    """
    path = Path(record.path)
    documents = read_documents(path)
    if file_sha256(path) != record.sha256:
        raise DatasetError(f"{path}: it is not what `prepare` wrote any more; run `nemo-demix prepare force=true`")

    def read(leaf: Any, download: Any) -> Any:
        label = task_label(leaf)
        if label not in documents:
            raise DatasetError(
                f"{path}: expected documents of {label}, found those of {', '.join(documents)}; run "
                "`nemo-demix prepare` with this configuration"
            )
        return documents[label]

    with documents_from(read):
        return build(key, config, allow_code, catalogue.folders_of(record.source["folders"]))


def scored_split(task: Any) -> str | None:
    """Return the split whose documents are scored; None: a class of its own decides."""
    return task.config.test_split or task.config.validation_split


def shots_split(task: Any) -> str | None:
    """Return the split that few-shot examples come from; None: none, or they are part of the definition."""
    if not task.config.num_fewshot or task.fewshot_cfg.samples is not None:
        return None
    return task.fewshot_cfg.split or task.config.training_split or task.config.validation_split


def document_text(task: Any, doc: Mapping[str, Any]) -> str:
    """Return a document's question and right answer as one text, for the overlap with training data; without shots."""
    question, answer = task.doc_to_text(doc), task.doc_to_target(doc)
    choices = task.doc_to_choice(doc) if getattr(task.config, "doc_to_choice", None) is not None else None
    if isinstance(question, int) and choices is not None:
        question = choices[question]
    if isinstance(answer, list):
        answer = answer[0] if answer else ""
    if isinstance(answer, int) and choices is not None and 0 <= answer < len(choices):
        answer = choices[answer]
    return f"{question} {answer}"


def _load(key: str, manager: Any, spec: str) -> Any:
    """Return a task, a group or a tag; the harness's own complaints name no key of the configuration."""
    try:
        return manager.load([spec])
    except (KeyError, ValueError, TypeError, AttributeError, ImportError, AssertionError) as error:
        raise ConfigError(
            f"{key}.task: {spec}: lm-evaluation-harness cannot build it: {type(error).__name__}: {error}; correct its "
            "definition, its documents (data=...) or install what it asks for"
        ) from error


def _check_kinds(key: str, leaves: Mapping[str, Any], allow_code: bool) -> None:
    if not leaves:
        raise ConfigError(f"{key}.task: a group without tasks; name another")
    for name, leaf in leaves.items():
        if getattr(leaf, "MULTIMODAL", False):
            raise ConfigError(
                f"{key}.task: {name} asks about pictures or sound, a language model reads text; remove it"
            )
        if getattr(leaf, "UNSAFE_CODE", False) and not allow_code:
            raise ConfigError(
                f"{key}.task: {name} runs programs that the model wrote; they run in a sandbox (see "
                "`nemo-demix doctor`), but only if you say so: suite.allow_code_execution=true, or take the task out"
            )


def _set_shots(key: str, leaf: Any, config: TaskConfig) -> None:
    """Set the few-shot examples as the harness's `simple_evaluate` does; a number that it would ignore is refused."""
    own = leaf.get_config("num_fewshot")
    if config.num_fewshot is not None and own == 0 != config.num_fewshot:
        raise ConfigError(
            f"{key}.num_fewshot={config.num_fewshot}: {leaf.task_name} is defined without shots, and the harness would "
            "ignore the number; remove it"
        )
    shots = own or 0 if config.num_fewshot is None else config.num_fewshot
    leaf.set_config("num_fewshot", shots)
    leaf.set_fewshot_seed(config.fewshot_seed)
    sampler = getattr(leaf, "sampler", None)
    if shots and sampler is not None and len(sampler.df) < shots:
        raise ConfigError(
            f"{key}.num_fewshot={shots}: {leaf.task_name} has {len(sampler.df)} examples to show; ask for at most so "
            "many, or give a folder of dataset files that holds the split they come from (data=...)"
        )
