"""Where a task's definition is: ours, the harness's own, or a YAML file of the user's."""

import difflib
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nemo_demix.artifacts import file_sha256
from nemo_demix.errors import ConfigError
from nemo_demix.tasks.stock import folders_with, members, stock_folder, stock_names

DEFINITIONS = Path(__file__).parent / "definitions"
_STOCK = "lm_eval"  # how a folder of the harness's is recorded, so that a record fits another machine
_NEAR_NAMES = 4
_MAX_PATH = 4096


def own_tasks() -> list[str]:
    """Return the names of our tasks."""
    return sorted(path.stem for path in DEFINITIONS.glob("demix_*.yaml"))


def is_file(name: str) -> bool:
    """Return whether a task is named by its YAML file."""
    return name.endswith((".yaml", ".yml"))


def definition_identity(path: Path) -> dict[str, Any]:
    """Return what a YAML file of the user's defines: its content with what it includes, and the functions that it
    names.

    Raises:
        ConfigError: if it is absent or no definition.
    """
    definition = _definition(path)
    files: dict[str, str] = {}
    _function_files(definition, files)
    return {"definition": definition, "functions": files}


def find(key: str, name: str) -> Any:
    """Return the harness's `TaskManager` that knows the task.

    Args:
        key: Key in the configuration, for the message.
        name: Name of a task, a group or a tag, or the path of a YAML file.
    Raises:
        ConfigError: if there is no such task or file.
    Cost: a second, once in a process, where the harness's own definitions are looked through.
    """
    if is_file(name):
        return _file_manager(Path(name).absolute())
    if name in own_tasks():
        return manager((DEFINITIONS,))
    stock = _stock_manager(name)
    if name not in stock.task_index:
        near = difflib.get_close_matches(name, [*own_tasks(), *stock_names()], n=_NEAR_NAMES)
        raise ConfigError(
            f"{key}.task: {name!r} is no task, group or tag of lm_eval {_version()}, nor one of "
            f"{', '.join(own_tasks())}; near: {', '.join(near) or 'none'}"
        )
    return stock


@functools.lru_cache(maxsize=32)
def manager(folders: tuple[Path, ...]) -> Any:
    """Return a `TaskManager` of the definitions in some folders alone."""
    from lm_eval.tasks import TaskManager

    built = TaskManager(include_defaults=False, include_path=list(folders))
    for entry in list(built.task_index.values()):
        if entry.kind.name in ("TASK", "PY_TASK"):
            for tag in entry.tags:  # of a tag in several folders, the harness keeps those of the last alone
                built.task_index[tag].tags.add(entry.name)
    return built


def recorded_folders(folders: Iterable[Path]) -> list[str]:
    """Return folders as a record keeps them: those of the harness relative to where it is installed."""
    stock = stock_folder()
    return sorted(
        {
            f"{_STOCK}:{folder.relative_to(stock)}" if folder.is_relative_to(stock) else str(folder)
            for folder in map(Path, folders)
            if folder != DEFINITIONS
        }
    )


def folders_of(recorded: Iterable[str]) -> tuple[Path, ...]:
    """Return the folders of a record, here; ours are always among them."""
    stock = stock_folder()
    others = [
        stock / name.removeprefix(f"{_STOCK}:") if name.startswith(f"{_STOCK}:") else Path(name) for name in recorded
    ]
    return (DEFINITIONS, *others)


def definition_folders(manager: Any, built: Any) -> set[Path]:
    """Return the folders of all definitions that a built task, group or tag was put together from."""
    groups, tasks = built["groups"].values(), built["tasks"].values()
    sources = [(task.config.metadata or {}).get("config_source") for task in tasks if hasattr(task, "config")]
    entries = [manager.task_index.get(name) for name in (*built["tasks"], *(group.name for group in groups))]
    sources += [entry.yaml_path for entry in entries if entry is not None]
    return {Path(source).parent for source in sources if source and source != "inline"}


def spec(name: str) -> str:
    """Return what the harness's `TaskManager` is asked for; a group is asked for by its name, even where it
    is a file.
    """
    if not is_file(name):
        return name
    path = Path(name).absolute()
    return _definition(path).get("group") or str(path)


def _file_manager(path: Path) -> Any:
    """Make the `TaskManager` of a file; for a group it has the harness's own tasks only where it names any of them."""
    group = _definition(path).get("group")
    return manager((DEFINITIONS,)) if group is None else _stock_manager(group, path.parent)


@functools.lru_cache(maxsize=32)
def _stock_manager(name: str, *folders: Path) -> Any:
    """Make the `TaskManager` of some folders and of those of the harness's that a name leads to, by way of the groups
    and the tags.
    """
    names = {name}
    while True:
        # Of two definitions the harness takes the first by path; of two folders that are given to it, the last.
        built = manager((*folders_with(names)[::-1], DEFINITIONS, *folders))
        entries = [built.task_index[one] for one in names if one in built.task_index]
        more = set[str]().union(*map(members, entries)) - names
        if not more:
            return built
        names |= more


def _definition(path: Path) -> dict[str, Any]:
    """Read a definition with what it includes; functions are given by their names."""
    from lm_eval.tasks._yaml_loader import load_yaml

    if not path.is_file():
        raise ConfigError(f"suite.tasks: {path}: expected a YAML file, found none; correct the path")
    try:
        definition = load_yaml(path, resolve_func=False)
    except Exception as error:  # of yaml, of the harness's loader, of a file that it includes
        raise ConfigError(f"{path}: expected a task of lm-evaluation-harness, found: {error}; correct it") from error
    if not {"task", "group"} & set(definition):
        raise ConfigError(f"{path}: expected a key `task` or `group`, found {sorted(definition)}; add its name")
    return definition


def _function_files(value: Any, files: dict[str, str]) -> None:
    """Add the digest of every Python file whose functions a definition names."""
    if isinstance(value, dict):
        for item in value.values():
            _function_files(item, files)
    elif isinstance(value, list):
        for item in value:
            _function_files(item, files)
    elif isinstance(value, str) and "/" in value and len(value) < _MAX_PATH:
        path = Path(value.rpartition(".")[0] + ".py")
        if path.is_file():
            files[path.name] = file_sha256(path)


def _version() -> str:
    from importlib.metadata import version

    return version("lm_eval")
