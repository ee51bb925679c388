"""How much of a score is the order of the training data: the same mixture trained with several seeds.

A data order shifts the scores of all mixtures alike besides scattering them. The shift changes no order of mixtures
and no difference between two that were trained in one order, so it is taken off: each seed's mean over the mixtures
that have several.

Axes: M mixtures that were trained with several seeds, E seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nemo_demix.fidelity.consistency import MACRO, correlations
from nemo_demix.mixture import Array
from nemo_demix.prediction.correlation import MIN_RANKED

_NO_SEEDS = "no mixture was trained with several seeds (verify.seeds)"
_ONE_MIXTURE = "1 mixture was trained with several seeds; a seed's common shift takes 2 (verify.seed_references)"


@dataclass(frozen=True)
class SeedNoise:
    """The noise between seeds, by capability and for the macro score; None where it was not measured."""

    num_mixtures: int
    num_models: int
    std: dict[str, float | None]  # of one model around its mixture's and its seed's mean; unit of the scores
    ceiling_rho: dict[str, float | None]  # between two seeds: no proxy can be expected to do better
    reason: str | None


def seed_noise(groups: Sequence[Sequence[Mapping[str, float]]], capabilities: Sequence[str]) -> SeedNoise:
    """Compute the standard deviation between seeds, centred within each seed, and rho between the seeds.

    Args:
        groups: Scores by capability of each mixture's models: of one seed, or of the same seeds in the same order.
        capabilities: Which scores there are; their mean is added as `macro`.
    """
    repeated = [[_with_macro(scores, capabilities) for scores in group] for group in groups if len(group) > 1]
    names = [*capabilities, MACRO]
    if not repeated:
        return SeedNoise(0, 0, dict.fromkeys(names), dict.fromkeys(names), _NO_SEEDS)
    if len(repeated) < 2:
        return SeedNoise(1, len(repeated[0]), dict.fromkeys(names), dict.fromkeys(names), _ONE_MIXTURE)
    std: dict[str, float | None] = {
        name: _centred_std(np.array([[scores[name] for scores in group] for group in repeated])) for name in names
    }
    ceiling: dict[str, float | None] = {name: _ceiling(repeated, name) for name in capabilities}
    known = [rho for rho in ceiling.values() if rho is not None]
    ceiling[MACRO] = float(np.mean(known)) if len(known) == len(capabilities) else None
    few = f"rho between seeds needs {MIN_RANKED} mixtures with several seeds" if len(repeated) < MIN_RANKED else None
    return SeedNoise(len(repeated), sum(map(len, repeated)), std, ceiling, few)


def _with_macro(scores: Mapping[str, float], capabilities: Sequence[str]) -> dict[str, float]:
    return {**scores, MACRO: float(np.mean([scores[name] for name in capabilities]))}


def _centred_std(scores_ME: Array) -> float:
    """Return the standard deviation without the means of mixtures and of seeds, by (M - 1)(E - 1) degrees of
    freedom.
    """
    left_ME = scores_ME - scores_ME.mean(axis=1, keepdims=True) - scores_ME.mean(axis=0) + scores_ME.mean()
    num_mixtures, num_seeds = scores_ME.shape
    return float(np.sqrt((left_ME**2).sum() / ((num_mixtures - 1) * (num_seeds - 1))))


def _ceiling(groups: Sequence[Sequence[Mapping[str, float]]], name: str) -> float | None:
    """Return the mean rho of the first seed with each other one."""
    columns = [np.array([group[seed][name] for group in groups]) for seed in range(len(groups[0]))]
    everyone_1M = np.arange(len(groups))[None, :]
    rhos = [float(correlations(columns[0], other_M, everyone_1M)[0]) for other_M in columns[1:]]
    return None if np.isnan(rhos).any() else float(np.mean(rhos))


def residual_std(reference: Mapping[str, Array], proxy: Mapping[str, Array]) -> dict[str, float]:
    """Return the standard deviation of the proxies around the references, by capability and macro; a common offset is
    left out.

    Both are scores by capability, shape (R,) each, in the same order of at least 2 references; the figures have their
    unit. A figure is what a difference of two proxies is wrong by, over the square root of 2, and holds one model's
    seed noise.
    """
    offsets = {name: proxy[name] - reference_R for name, reference_R in reference.items()}
    offsets[MACRO] = np.mean(list(offsets.values()), axis=0)
    return {name: float(offset_R.std(ddof=1)) for name, offset_R in offsets.items()}
