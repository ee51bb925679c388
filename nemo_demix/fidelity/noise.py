"""How much of a score is the order of the training data: the same mixture trained with several seeds.

Axes: M mixtures that were trained with several seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nemo_demix.fidelity.consistency import MACRO, correlations
from nemo_demix.mixture import Array
from nemo_demix.prediction.correlation import MIN_RANKED

_NO_SEEDS = "no mixture was trained with several seeds (verify.seeds)"


@dataclass(frozen=True)
class SeedNoise:
    """By capability, and for the macro score; None where it was not measured."""

    num_mixtures: int
    num_models: int
    std: dict[str, float | None]  # between seeds of one mixture, pooled over the mixtures; unit of the scores
    ceiling_rho: dict[str, float | None]  # between two seeds: no proxy can be expected to do better
    reason: str | None


def seed_noise(groups: Sequence[Sequence[Mapping[str, float]]], capabilities: Sequence[str]) -> SeedNoise:
    """Standard deviation between seeds, and rho between the seeds.

    Args:
        groups: Of each mixture, the scores by capability of its models, in the same order of seeds.
        capabilities: Which scores there are; their mean is added as `macro`.
    """
    repeated = [[_with_macro(scores, capabilities) for scores in group] for group in groups if len(group) > 1]
    names = [*capabilities, MACRO]
    if not repeated:
        return SeedNoise(0, 0, dict.fromkeys(names), dict.fromkeys(names), _NO_SEEDS)
    std: dict[str, float | None] = {
        name: _pooled_std([np.array([scores[name] for scores in group]) for group in repeated]) for name in names
    }
    ceiling: dict[str, float | None] = {name: _ceiling(repeated, name) for name in capabilities}
    known = [rho for rho in ceiling.values() if rho is not None]
    ceiling[MACRO] = float(np.mean(known)) if len(known) == len(capabilities) else None
    few = f"rho between seeds needs {MIN_RANKED} mixtures with several seeds" if len(repeated) < MIN_RANKED else None
    return SeedNoise(len(repeated), sum(map(len, repeated)), std, ceiling, few)


def _with_macro(scores: Mapping[str, float], capabilities: Sequence[str]) -> dict[str, float]:
    return {**scores, MACRO: float(np.mean([scores[name] for name in capabilities]))}


def _pooled_std(groups: Sequence[Array]) -> float:
    squares = sum(float(((values - values.mean()) ** 2).sum()) for values in groups)
    return float(np.sqrt(squares / sum(len(values) - 1 for values in groups)))


def _ceiling(groups: Sequence[Sequence[Mapping[str, float]]], name: str) -> float | None:
    """The mean rho of the first seed with each other one."""
    num_seeds = min(map(len, groups))
    columns = [np.array([group[seed][name] for group in groups]) for seed in range(num_seeds)]
    everyone_1M = np.arange(len(groups))[None, :]
    rhos = [float(correlations(columns[0], other_M, everyone_1M)[0]) for other_M in columns[1:]]
    return None if np.isnan(rhos).any() else float(np.mean(rhos))


def residual_std(reference: Mapping[str, Array], proxy: Mapping[str, Array]) -> dict[str, float]:
    """How far proxies scatter around the references, by capability and macro; a common offset is no scatter.

    It is what a difference of two proxies is wrong by, over the square root of 2, and holds one model's seed noise.
    Needs at least 2 references.
    """
    offsets = {name: proxy[name] - reference_R for name, reference_R in reference.items()}
    offsets[MACRO] = np.mean(list(offsets.values()), axis=0)
    return {name: float(offset_R.std(ddof=1)) for name, offset_R in offsets.items()}
