"""The merge methods by name. A new one is a class, a line in `METHODS` and a line in tests/merging/oracles.py."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from nemo_demix.errors import ConfigError
from nemo_demix.merging.methods.base import Block, DeltaMethod, LinearMethod, Method, Statistics
from nemo_demix.merging.methods.geodesic import Karcher, MultiSlerp, NuSlerp, Slerp
from nemo_demix.merging.methods.linear import Linear, ModelStock, TaskArithmetic
from nemo_demix.merging.methods.sce import Sce
from nemo_demix.merging.methods.sparse import (
    Breadcrumbs,
    BreadcrumbsTies,
    DareLinear,
    DareTies,
    Della,
    DellaLinear,
    Ties,
)

__all__ = ["METHODS", "Block", "DeltaMethod", "LinearMethod", "Method", "Statistics", "build_method", "parameters_of"]

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        Linear,
        TaskArithmetic,
        Slerp,
        NuSlerp,
        MultiSlerp,
        Karcher,
        ModelStock,
        Ties,
        DareLinear,
        DareTies,
        DellaLinear,
        Della,
        Breadcrumbs,
        BreadcrumbsTies,
        Sce,
    )
}


def parameters_of(method: type[Method]) -> dict[str, bool | int | float]:
    """A method's own parameters with their defaults; the merge's seed is not one of them."""
    assert dataclasses.is_dataclass(method)
    return {field.name: field.default for field in dataclasses.fields(method) if field.name != "seed"}


def build_method(name: str, parameters: Mapping[str, Any], seed: int, num_components: int, has_base: bool) -> Method:
    """The method of that name with its parameters.

    Args:
        name: `merge.method`.
        parameters: `merge.parameters`; what is left out has its default.
        seed: `merge.seed`, for methods that drop elements at random.
        num_components: How many components are merged.
        has_base: Whether a base checkpoint is at hand.

    Raises:
        ConfigError: if the name or a parameter is unknown, a parameter is of another type or out of its range, the
            number of components does not fit, or the base is missing.
    """
    if name not in METHODS:
        raise ConfigError(f"merge.method: expected one of {list(METHODS)}, found {name!r}{_hint(name, METHODS)}")
    method_class = METHODS[name]
    defaults = parameters_of(method_class)
    for key in parameters:
        if key not in defaults:
            expected = f"one of {list(defaults)}" if defaults else "no parameters"
            hint = _hint(str(key), defaults) or "; remove it"
            raise ConfigError(f"merge.parameters.{key}: {name} has no such parameter; expected {expected}{hint}")
    values = {key: _typed(key, value, defaults[key]) for key, value in parameters.items()}
    if any(field.name == "seed" for field in dataclasses.fields(method_class)):  # type: ignore[arg-type]
        values["seed"] = seed
    method = method_class(**values)
    if num_components != (method.num_components or max(num_components, 2)):
        expected = f"exactly {method.num_components}" if method.num_components else "at least 2"
        raise ConfigError(
            f"merge.components: {name} merges {expected} components, found {num_components}; choose others or another "
            "merge.method"
        )
    if method.uses_base and not has_base:
        raise ConfigError(f"merge.base: {name} works on differences from a base, found none; name its checkpoint")
    return method


def _hint(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, list(known))
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _typed(key: str, value: Any, default: bool | int | float) -> Any:
    """The value in its default's type; an integer may stand for a number, nothing else is converted."""
    kinds: tuple[type, ...] = (int, float) if isinstance(default, float) else (type(default),)
    valid = isinstance(value, kinds) and isinstance(value, bool) == isinstance(default, bool)
    if not valid:
        what = {bool: "true or false", int: "an integer", float: "a number"}[type(default)]
        raise ConfigError(f"merge.parameters.{key}: expected {what} (default {default}), found {value!r}; correct it")
    return type(default)(value)
