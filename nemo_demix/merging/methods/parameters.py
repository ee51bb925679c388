"""Checks of a merge method's parameters and weights; the messages name the key a user wrote."""

import math

from nemo_demix.errors import ConfigError, MixtureError
from nemo_demix.merging.methods.base import Array


def check_parameter(name: str, value: float, valid: bool, expected: str) -> None:
    """Refuse a parameter out of its range.

    Raises:
        ConfigError: if not `valid`.
    """
    if not valid:
        raise ConfigError(f"merge.parameters.{name}: expected {expected}, found {value}; correct or remove it")


def check_density(density: float, name: str = "density") -> None:
    """Refuse a share of elements to keep that is not above 0 and at most 1.

    Raises:
        ConfigError: naming `merge.parameters.<name>`.
    """
    check_parameter(name, density, 0 < density <= 1, "0 < value <= 1")


def check_scale(scale: float) -> None:
    """Refuse a scale that is not a finite number.

    Raises:
        ConfigError: naming `merge.parameters.scale`.
    """
    check_parameter("scale", scale, math.isfinite(scale), "a finite number")


def normalised(weights_MK: Array) -> Array:
    """Return each row divided by its sum, shape (M, K); a row that sums to 1 is kept as it is, bit for bit.

    Raises:
        MixtureError: if a row sums to 0.
    """
    rows_MK = weights_MK.copy()
    for row, weights_K in enumerate(rows_MK):
        total = math.fsum(weights_K)
        if total == 0:
            raise MixtureError(
                f"merge weights: row {row}: expected a sum other than 0, found {weights_K.tolist()}; this method "
                "divides by the sum, choose other weights or a method that does not"
            )
        weights_K /= total
    return rows_MK


def check_not_negative(weights_MK: Array) -> None:
    """Refuse weights below 0, and a row of nothing but 0.

    Raises:
        MixtureError: naming the row.
    """
    for row, weights_K in enumerate(weights_MK):
        if (weights_K < 0).any() or not weights_K.any():
            raise MixtureError(
                f"merge weights: row {row}: expected weights >= 0 with a sum above 0, found {weights_K.tolist()}; "
                "choose other weights or another merge.method"
            )
