"""Values as people write them, brought to the schema's types; what does not fit is told with its key, all at once.

Hydra stops at the first key that does not exist or has another type. Here a recipe is read through: wrong parts are
left out, so that composing goes on and every other rule has its say too.
"""

import re
from collections.abc import Hashable, Mapping
from dataclasses import is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from omegaconf import BooleanNode, FloatNode, IntegerNode, StringNode
from omegaconf.errors import OmegaConfBaseException

from nemo_demix.config.demix import DemixConfig
from nemo_demix.errors import ConfigError, DemixError, near

_NODES: dict[Any, Any] = {int: IntegerNode, float: FloatNode, bool: BooleanNode, str: StringNode}
_EXPECTED = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}
_COUNT = re.compile(r"([0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][+]?[0-9]+)?)\s*([KMBGT]?)", re.IGNORECASE)
_LEFT_OUT = object()


def count_of(value: Any) -> int | None:
    """Return tokens or bytes from `1B`, `300M`, `2.5e9` or `1_000_000`; None where it is no whole number of them."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    match = _COUNT.fullmatch(str(value).strip())
    if match is None:
        return None
    number = float(match[1]) * _UNITS[match[2].upper()]
    return int(match[1].replace("_", "")) if match[1].isdigit() and not match[2] else _whole(number)


def _whole(number: float) -> int | None:
    return round(number) if abs(number - round(number)) < 1e-6 * max(1.0, number) and number >= 1 else None


def fitted(content: Mapping[str, Any], errors: list[DemixError], section: Any = DemixConfig, key: str = "") -> Any:
    """Return what of a section's values fits the schema, with counts as numbers.

    Args:
        content: The section as YAML has it; interpolations are taken as they are.
        errors: Gets one for each key that does not exist, and each value of another type.
        section: The section's type.
        key: Where it stands; empty: the whole configuration.
    """
    result = _fitted(dict(content), section, key, errors)
    return {} if result is _LEFT_OUT else result


def kind_at(key: str) -> Any:
    """Return the type that the schema has at a dotted key; None where there is no such key."""
    kind: Any = DemixConfig
    for part in key.split("."):
        kind = _required(kind)
        if is_dataclass(kind):
            kind = hints_of(kind).get(part)
        elif get_origin(kind) is dict:
            kind = get_args(kind)[1]
        elif kind is not Any:
            return None
        if kind is None:
            return None
    return kind


def is_section(key: str) -> bool:
    """Return whether keys stand under a key of the schema: then a word given to it chooses from a group."""
    kind = _required(kind_at(key))
    return is_dataclass(kind) or get_origin(kind) is dict


def unknown_key(key: str, section: Any) -> ConfigError:
    """Make the error for a key that its section does not have; it names those that are near, else all known ones."""
    known = list(hints_of(section)) if is_dataclass(section) else []
    name = key.rpartition(".")[2]
    hint = near(name, known) or f"; expected one of {', '.join(known)}"
    return ConfigError(f"{key}: no such key{hint}")


def hints_of(section: Any) -> dict[str, Any]:
    """Return types of a section's keys."""
    return _hints(section)


@cache
def _hints(section: Hashable) -> dict[str, Any]:
    return get_type_hints(section)


def _required(kind: Any) -> Any:
    """Return a kind without its `| None`."""
    if get_origin(kind) in (Union, UnionType):
        return next(one for one in get_args(kind) if one is not NoneType)
    return kind


def _fitted(value: Any, kind: Any, key: str, errors: list[DemixError]) -> Any:
    wanted = _required(kind)
    if kind is Any or (isinstance(value, str) and ("${" in value or value == "???")):
        return value
    if value is None and wanted is not kind:
        return None
    if is_dataclass(wanted) or get_origin(wanted) is dict:
        if not isinstance(value, Mapping):
            return _odd(value, "a section of keys", key, errors)
        return _section(value, wanted, key, errors)
    if get_origin(wanted) is list:
        if not isinstance(value, list):
            return _odd(value, "a list", key, errors)
        items = [_fitted(item, get_args(wanted)[0], f"{key}[{place}]", errors) for place, item in enumerate(value)]
        return [item for item in items if item is not _LEFT_OUT]
    if wanted is int and is_count(key) and (count := count_of(value)) is not None:
        return count
    try:
        if value is None or isinstance(value, (Mapping, list)):
            raise ValueError
        return _NODES[wanted](value)._value()
    except (OmegaConfBaseException, ValueError):
        more = ", as 1_000_000, 300M, 1B or 2.5e9" if wanted is int and is_count(key) else ""
        return _odd(value, f"{_EXPECTED[wanted]}{more}", key, errors)


def is_count(key: str) -> bool:
    """Return whether a key counts tokens or bytes."""
    return key.rpartition(".")[2].partition("[")[0].endswith(("_tokens", "_bytes"))


def _section(value: Mapping[str, Any], wanted: Any, key: str, errors: list[DemixError]) -> dict[str, Any]:
    result = {}
    for name, item in value.items():
        here = f"{key}.{name}".lstrip(".")
        kind = hints_of(wanted).get(name) if is_dataclass(wanted) else get_args(wanted)[1]
        if kind is None:
            errors.append(unknown_key(here, wanted))
            continue
        found = _fitted(item, kind, here, errors)
        if found is not _LEFT_OUT:
            result[name] = found
    return result


def _odd(value: Any, expected: str, key: str, errors: list[DemixError]) -> Any:
    found = "null" if value is None else repr(value) if not isinstance(value, (Mapping, list)) else str(value)[:60]
    errors.append(ConfigError(f"{key}: found {found}, expected {expected}"))
    return _LEFT_OUT
