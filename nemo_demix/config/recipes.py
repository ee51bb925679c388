"""How recipes are read: a block of the user's own names replaces what the recipes above it have there.

`datasets:`, `suite.tasks:`, `search.floors:` and the other mappings whose keys are the user's own names say what there
is. Hydra would merge such a block with those of the recipes and groups named in `defaults`, so that an example's
datasets, and its limits, would go on in the user's run. So they are replaced whole. Sections of fixed keys are merged
key by key, as Hydra does; so is a block whose group the recipe itself names in its `defaults` (`override datasets:
quickstart`): that is how to change some of a group's entries.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any, get_args, get_origin

import hydra._internal.core_plugins.file_config_source as files
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf

from nemo_demix.config.demix import DemixConfig
from nemo_demix.config.recorded import drop_retired
from nemo_demix.config.values import fitted, hints_of, kind_at
from nemo_demix.errors import DemixError


@dataclass
class Reading:
    """One command's recipes, while Hydra loads them from the last to the first."""

    first: str = ""  # the recipe that was asked for
    errors: list[DemixError] = field(default_factory=list)  # keys and values that the schema does not have
    chosen: set[str] = field(default_factory=set)  # groups that a recipe or the command line names: merged with
    replaced: dict[str, set[str]] = field(default_factory=dict)  # of each recipe: keys that those below it replace
    in_groups: set[str] = field(default_factory=set)  # keys that are replaced in groups
    names: dict[str, set[str]] = field(default_factory=dict)  # the user's own, by the mapping that they stand in


READING = Reading()


class RecipeSource(files.FileConfigSource):
    """A folder of recipes and groups, read by the rule above."""

    @staticmethod
    def scheme() -> str:
        """Return what its entries in Hydra's search path begin with."""
        return "recipe"

    def load_config(self, config_path: str) -> ConfigResult:
        """Return a file's content, without what others replace and what the schema does not have."""
        loaded = super().load_config(config_path)
        content = OmegaConf.to_container(loaded.config, resolve=False)
        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        if isinstance(content, dict):
            read = _group(content, group) if group else _recipe(content, name)
            loaded.config = OmegaConf.create(read)
        return loaded


def _recipe(content: dict[Any, Any], name: str) -> dict[Any, Any]:
    """Return a recipe's content; what it replaces is noted for those that it names."""
    apart = {key: content.pop(key) for key in ("defaults", "hydra") if key in content}
    drop_retired(content)
    READING.first = READING.first or name
    if name == READING.first:  # also one that was written by an earlier release, or by hand and whole
        apart.setdefault("defaults", ["demix_schema", "_self_"])
    replaced = READING.replaced.get(name, set())
    for key in replaced:
        _drop(content, key.split("."))
    recipes, groups = _named(apart.get("defaults") or [])
    own = {key for key in named_mappings() if _has(content, key.split("."))}
    own = {key for key in own if key.partition(".")[0] not in groups}
    for other in recipes:
        READING.replaced.setdefault(other, set()).update(own | replaced)
    READING.in_groups |= {key for key in own if key.partition(".")[0] not in READING.chosen}
    READING.chosen |= groups
    _note_names(content)
    return {**apart, **fitted(content, READING.errors)}


def _group(content: dict[Any, Any], group: str) -> dict[Any, Any]:
    """Return the content of a group's file; a group that is no section of the schema is Hydra's to judge."""
    key = group.replace("/", ".")
    kind = kind_at(key)
    if kind is None:
        return content
    apart = {name: content.pop(name) for name in ("defaults",) if name in content}
    for one in READING.in_groups:
        if one == key:
            content.clear()
        elif one.startswith(f"{key}."):
            _drop(content, one.removeprefix(f"{key}.").split("."))
    nested: Any = content
    for part in reversed(key.split(".")):
        nested = {part: nested}
    _note_names(nested)
    return {**apart, **fitted(content, READING.errors, kind, key)}


def _named(defaults: list[Any]) -> tuple[list[str], set[str]]:
    """Return recipes and groups that a defaults list names."""
    recipes, groups = [], set()
    for entry in defaults:
        if isinstance(entry, str):
            recipes.append(entry.lstrip("/"))
        elif isinstance(entry, Mapping):
            groups |= {str(one).split()[-1].partition("@")[0].lstrip("/") for one in entry}
    return recipes, groups


def named_mappings(section: Any = DemixConfig, key: str = "") -> Iterator[str]:
    """Yield keys of the schema under which the user's own names stand; free settings of other programs are none of
    them.
    """
    for name, kind in hints_of(section).items():
        here = f"{key}.{name}".lstrip(".")
        if is_dataclass(kind):
            yield from named_mappings(kind, here)
        elif get_origin(kind) is dict and get_args(kind)[1] is not Any:
            yield here


def _note_names(content: Any) -> None:
    for key in named_mappings():
        found = content
        for part in key.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        if isinstance(found, Mapping):
            READING.names.setdefault(key, set()).update(map(str, found))


def _has(content: Any, path: list[str]) -> bool:
    for part in path:
        if not isinstance(content, Mapping) or part not in content:
            return False
        content = content[part]
    return isinstance(content, Mapping)


def _drop(content: Any, path: list[str]) -> None:
    for part in path[:-1]:
        content = content.get(part)
        if not isinstance(content, dict):
            return
    content.pop(path[-1], None)
