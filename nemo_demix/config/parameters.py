"""Parameters of a method or a strategy of somebody's own: fields of a dataclass, given as a mapping in a recipe."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from nemo_demix.errors import ConfigError, near

Parameter = bool | int | float


def parameters_of(owner: type | None) -> dict[str, Any]:
    """Return the fields of a dataclass with their defaults, but for a seed, which has a key of its own; None: no
    fields.
    """
    if owner is None:
        return {}
    assert dataclasses.is_dataclass(owner)
    return {field.name: field.default for field in dataclasses.fields(owner) if field.name != "seed"}


def typed_parameters(key: str, name: str, owner: type | None, given: Mapping[str, Any]) -> dict[str, Parameter]:
    """Return what is given, in the types of the defaults.

    Args:
        key: Key of the mapping in the configuration.
        name: Name of the method or the strategy, for messages.
        owner: The dataclass whose fields the parameters are.

    Raises:
        ConfigError: if a parameter is unknown or of another type.
    """
    defaults = parameters_of(owner)
    for one in given:
        if one not in defaults:
            expected = f"one of {list(defaults)}" if defaults else "no parameters"
            hint = near(one, defaults) or "; remove it"
            raise ConfigError(f"{key}.{one}: {name} has no such parameter; expected {expected}{hint}")
    return {one: _typed(f"{key}.{one}", value, defaults[one]) for one, value in given.items()}


def _typed(key: str, value: Any, default: Any) -> Any:
    """Return the value in its default's type; an integer may stand for a number, nothing else is converted."""
    kinds: tuple[type, ...] = (int, float) if isinstance(default, float) else (type(default),)
    if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool):
        what = {bool: "true or false", int: "an integer", float: "a number"}[type(default)]
        raise ConfigError(f"{key}: expected {what} (default {default}), found {value!r}; correct it")
    return type(default)(value)
