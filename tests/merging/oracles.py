"""Every merge method once more, written plainly: whole tensors, float64, sorts.

`ORACLES[name](thetas_KRC, base_RC, weights_K, parameters, uniforms_KRC)` is the merged tensor, float64. A new
method gets a line here; the contract suite finds it in the registry.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[np.float64]
Oracle = Callable[[Array, Array, Array, Mapping[str, Any], Array], Array]


def linear(thetas, base, weights, parameters, uniforms):
    return np.tensordot(weights / weights.sum(), thetas, 1)


def task_arithmetic(thetas, base, weights, parameters, uniforms):
    return base + parameters.get("scale", 1.0) * np.tensordot(weights, thetas - base, 1)


def _vectors(thetas, base, parameters):
    return (thetas - base, base) if parameters.get("task_vectors") else (thetas, 0.0)


def _angle(a, b):
    return np.arccos(np.clip(np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))


def slerp(thetas, base, weights, parameters, uniforms):
    (one, two), origin = _vectors(thetas, base, parameters)
    t, angle = weights[1] / weights.sum(), _angle(one, two)
    return origin + (np.sin((1 - t) * angle) * one + np.sin(t * angle) * two) / np.sin(angle)


def multislerp(thetas, base, weights, parameters, uniforms):
    vectors, origin = _vectors(thetas, base, parameters)
    lengths = np.array([np.linalg.norm(vector) for vector in vectors])
    mean = np.tensordot(weights / lengths, vectors, 1)
    return origin + (weights / weights.sum() @ lengths) * mean / np.linalg.norm(mean)


def karcher(thetas, base, weights, parameters, uniforms):
    """Gradient steps on whole vectors until they no longer move."""
    vectors, origin = _vectors(thetas, base, parameters)
    weights = weights / weights.sum()
    lengths = np.array([np.linalg.norm(vector) for vector in vectors])
    units = vectors / lengths[:, None, None]
    point = np.tensordot(weights, units, 1)
    point /= np.linalg.norm(point)
    for _ in range(200):
        step = np.zeros_like(point)
        for weight, unit in zip(weights, units, strict=True):
            angle = _angle(point, unit)
            tangent = unit - np.sum(unit * point) * point
            if np.linalg.norm(tangent) > 0:
                step += weight * angle * tangent / np.linalg.norm(tangent)
        size = np.linalg.norm(step)
        point = np.cos(size) * point + (np.sin(size) * step / size if size > 0 else 0)
        point /= np.linalg.norm(point)
    return origin + (weights @ lengths) * point


def model_stock(thetas, base, weights, parameters, uniforms):
    deltas, count = thetas - base, len(thetas)
    cosine = np.mean([np.cos(_angle(deltas[i], deltas[j])) for i in range(count) for j in range(i)])
    cosine = max(cosine, 0.0)
    t = count * cosine / (1 + (count - 1) * cosine)
    return t * np.tensordot(weights / weights.sum(), thetas, 1) + (1 - t) * base


def _sum(deltas, base, weights, parameters):
    return base + parameters.get("scale", 1.0) * np.tensordot(weights, deltas, 1)


def _elect(deltas, base, weights, parameters, votes=None):
    votes = weights if votes is None else votes
    sign = np.sign(np.tensordot(votes, deltas, 1))
    agree = np.sign(deltas * votes[:, None, None]) == sign
    agree &= deltas != 0
    total = np.sum(np.where(agree, weights[:, None, None] * deltas, 0), axis=0)
    divisor = np.sum(np.where(agree, weights[:, None, None], 0), axis=0)
    mean = total / np.where(divisor == 0, 1, divisor) if parameters.get("normalize", True) else total
    return base + parameters.get("scale", 1.0) * mean


def _between(magnitudes, top, bottom):
    """Where a magnitude is between those of two ranks, 1 the largest, ties included."""
    ordered = np.sort(magnitudes, axis=None)[::-1]
    return (magnitudes <= ordered[top - 1]) & (magnitudes >= ordered[bottom - 1])


def _float32_deltas(thetas, base):
    """Magnitudes are ranked as the merge sees them."""
    return (thetas.astype(np.float32) - base.astype(np.float32)).astype(np.float64)


def _trimmed(thetas, base, parameters):
    kept = max(1, int(parameters.get("density", 0.9) * base.size))
    return np.array([np.where(_between(abs(d), 1, kept), d, 0) for d in _float32_deltas(thetas, base)])


def _crumbs(thetas, base, parameters):
    density, gamma = parameters.get("density", 0.9), parameters.get("gamma", 0.01)
    top, kept = int(gamma * base.size), max(1, int(density * base.size))
    return np.array([np.where(_between(abs(d), top + 1, top + kept), d, 0) for d in _float32_deltas(thetas, base)])


def _dropped(thetas, base, parameters, uniforms):
    density = parameters.get("density", 0.9)
    return np.where(uniforms < np.float32(density), (thetas - base) / density, 0)


def _ranked(thetas, base, parameters, uniforms):
    density, epsilon = parameters.get("density", 0.9), parameters.get("epsilon", 0.01)
    if density == 1:
        return thetas - base
    deltas = _float32_deltas(thetas, base)
    ranks = np.argsort(np.argsort(abs(deltas), axis=2, kind="stable"), axis=2, kind="stable")
    columns = base.shape[1]
    p = density - epsilon + 2 * epsilon * ranks / (columns - 1) if columns > 1 else np.full(deltas.shape, density)
    return np.where(uniforms < p.astype(np.float32), deltas / p, 0)


def sce(thetas, base, weights, parameters, uniforms):
    deltas, share = _float32_deltas(thetas, base), parameters.get("select_topk", 1.0)
    if share < 1:
        kept = _between(np.var(deltas, axis=0), 1, max(1, int(share * base.size)))
        deltas = np.where(kept, deltas, 0)
    energies = np.sum(deltas**2, axis=(1, 2))
    return _elect(deltas, base, weights * energies / max((weights * energies).sum(), 1e-300), {}, votes=weights)


def second_moments(thetas_KRC: torch.Tensor) -> torch.Tensor:
    """Some for any tensors, as large as Adam's are: fp32, shape (K, R, C), the same for the same values anywhere."""
    return (30 * thetas_KRC).sin().square() * 1e-7


def fisher(thetas, base, weights, parameters, uniforms):
    moments = second_moments(torch.from_numpy(thetas).float())
    mean = moments.double().mean().item()
    factors = moments.bfloat16().double().numpy() / mean + parameters.get("damping", 1e-3)
    if mean < 1e-30:
        factors = np.ones_like(thetas)
    shares = weights[:, None, None] * factors
    return (shares * thetas).sum(axis=0) / shares.sum(axis=0)


ORACLES: dict[str, Oracle] = {
    "fisher": fisher,
    "linear": linear,
    "task_arithmetic": task_arithmetic,
    "slerp": slerp,
    "nuslerp": slerp,
    "multislerp": multislerp,
    "karcher": karcher,
    "model_stock": model_stock,
    "ties": lambda t, b, w, p, u: _elect(_trimmed(t, b, p), b, w, p),
    "dare_linear": lambda t, b, w, p, u: _sum(_dropped(t, b, p, u), b, w, p),
    "dare_ties": lambda t, b, w, p, u: _elect(_dropped(t, b, p, u), b, w, p),
    "della_linear": lambda t, b, w, p, u: _sum(_ranked(t, b, p, u), b, w, p),
    "della": lambda t, b, w, p, u: _elect(_ranked(t, b, p, u), b, w, p),
    "breadcrumbs": lambda t, b, w, p, u: _sum(_crumbs(t, b, p), b, w, p),
    "breadcrumbs_ties": lambda t, b, w, p, u: _elect(_crumbs(t, b, p), b, w, p),
    "sce": sce,
}
