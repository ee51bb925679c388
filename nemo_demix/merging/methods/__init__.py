"""The merge methods by name. A new one is a class, a line in `METHODS` and a line in tests/merging/oracles.py."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from nemo_demix.config.parameters import typed_parameters
from nemo_demix.errors import ConfigError, near
from nemo_demix.merging.methods.base import Block, BlockMethod, DeltaMethod, LinearMethod, Method, Statistics
from nemo_demix.merging.methods.fisher import Fisher
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

__all__ = ["METHODS", "Block", "BlockMethod", "DeltaMethod", "LinearMethod", "Method", "Statistics", "build_method"]

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
        Fisher,
    )
}


def build_method(name: str, parameters: Mapping[str, Any], seed: int, num_components: int, has_base: bool) -> Method:
    """Return the method of that name with its parameters.

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
        raise ConfigError(f"merge.method: expected one of {list(METHODS)}, found {name!r}{near(name, METHODS)}")
    method_class = METHODS[name]
    values = typed_parameters("merge.parameters", name, method_class, parameters)
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
