"""Fitted predictors as plain values, for the page of a run: `report/template/what_if.js` evaluates them.

Arrays are base64 of little-endian float64, so that the page works with the very numbers.

Axes: M mixtures it is fitted on, C components.
"""

import base64
from typing import Any

import numpy as np
import numpy.typing as npt

from nemo_demix.mixture import Array
from nemo_demix.prediction.base import Bootstrapped, Function, Model
from nemo_demix.prediction.ensembles import Stack
from nemo_demix.prediction.forest import Tree
from nemo_demix.prediction.gaussian_process import Process
from nemo_demix.prediction.gaussian_process import weights as plain_weights
from nemo_demix.prediction.lightgbm_model import Regressor
from nemo_demix.prediction.log_linear import Law
from nemo_demix.prediction.ridge import Linear

_DIGITS = 9  # by which a mixture is known again


def portable(model: Model | Function, weights_MC: Array) -> dict[str, Any] | None:
    """Return a fitted model's predictions, without their standard deviation; None: of a kind that the page cannot
    evaluate.

    Args:
        weights_MC: Scored mixtures, each once; a Gaussian process says what it has of each.
    """
    if isinstance(model, Stack):
        members = [portable(one, weights_MC) for one in model.models]
        if None in members:
            return None
        return {"kind": "sum", "weights": model.weights_K.tolist(), "models": members}
    if isinstance(model, Bootstrapped):
        return portable(model.function, weights_MC)
    if isinstance(model, Process):
        return _process(model, weights_MC)
    if isinstance(model, Linear):
        name = model.features.__name__
        return {"kind": "linear", "features": name, "level": float(model.level), "slopes": model.slopes_F.tolist()}
    if isinstance(model, Law):
        return {
            "kind": "law", "sign": model.sign, "constant": float(model.parameters_P[0]),
            "exponents": model.parameters_P[1:].tolist(), "mean": model.mean, "scale": model.scale,
            "bounds": list(model.bounds),
        }  # fmt: skip
    return _trees(model) if isinstance(model, Regressor) else None


def packed(values: npt.ArrayLike, dtype: str = "<f8") -> str:
    """Return an array's bytes as text."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=dtype).tobytes()).decode()


def _process(model: Process, weights_MC: Array) -> dict[str, Any]:
    """Let rows that a resample has drawn several times count by their sum, and those that it has not drawn as 0."""
    is_plain = model.features is plain_weights
    own = model.rows_MC * model.scale_C
    place = {row.tobytes(): index for index, row in enumerate(_rounded(weights_MC))}
    index = [place[row.tobytes()] for row in _rounded(own if is_plain else own**2)]
    solved_M = np.bincount(index, model.solved_M, len(weights_MC))
    return {
        "kind": "process", "features": "weights" if is_plain else "roots", "scale": model.scale_C.tolist(),
        "mean": model.mean, "unit": model.unit * model.variance, "solved": packed(solved_M),
    }  # fmt: skip


def _rounded(weights_MC: Array) -> Array:
    return np.round(weights_MC, _DIGITS) + 0.0  # no negative zero


def _trees(model: Regressor) -> dict[str, Any]:
    """Return all trees in a row: a tree's inner nodes and leaves follow those of the one before."""
    trees = [Tree.parsed(text) for text in model.booster.model_to_string().split("\nTree=")[1:]]
    return {
        "kind": "trees",
        "nodes": packed([len(tree.features) for tree in trees], "<i2"),
        "leaves": packed([len(tree.values) for tree in trees], "<i2"),
        "features": packed([one for tree in trees for one in tree.features], "<i2"),
        "left": packed([one for tree in trees for one in tree.left], "<i2"),
        "right": packed([one for tree in trees for one in tree.right], "<i2"),
        "thresholds": packed([one for tree in trees for one in tree.thresholds]),
        "values": packed([one for tree in trees for one in tree.values]),
    }
