"""Capability averages of scores, measured or predicted.

Axes: X mixtures.
"""

from collections.abc import Mapping

import numpy as np

from nemo_demix.errors import ScoreError
from nemo_demix.mixture import Array


def capability_averages(
    scores: Mapping[str, Array], capability_of: Mapping[str, str], weights: Mapping[str, float] | None = None
) -> dict[str, Array]:
    """Return the mean over each capability's benchmarks, in the order in which the capabilities first occur.

    Args:
        scores: Scores by benchmark, each of shape (X,), in one unit.
        capability_of: The capability that each benchmark belongs to.
        weights: Weights of benchmarks in their capability's mean; one left out weighs 1.

    Returns:
        Averages by capability, float64, shape (X,), unit and direction of the scores.

    Raises:
        ScoreError: if a benchmark has no capability.
    """
    missing = [name for name in scores if name not in capability_of]
    if missing:
        raise ScoreError(f"no capability for benchmark {', '.join(missing)}; known: {sorted(capability_of)}")
    members: dict[str, list[str]] = {}
    for name in scores:
        members.setdefault(capability_of[name], []).append(name)
    given = weights or {}
    return {
        capability: np.average(
            [scores[name] for name in names], axis=0, weights=[given.get(name, 1.0) for name in names]
        )
        for capability, names in members.items()
    }
