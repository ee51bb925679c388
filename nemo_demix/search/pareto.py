"""The trade-offs between capabilities: mixtures that no other one beats in every capability.

Axes: M mixtures of the pool, K capabilities, F mixtures of the front.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from nemo_demix.mixture import Array

FRONT_SIZE = 64  # kept of a longer front


def pareto_front(averages: Mapping[str, Array], higher_is_better: Mapping[str, bool]) -> npt.NDArray[np.intp]:
    """Return row numbers of the mixtures that no other one dominates.

    One mixture dominates another if it is at least as good in every capability and better in one. Of mixtures with the
    same averages only the first counts.

    Args:
        averages: Predicted average score by capability, each of shape (M,).
        higher_is_better: Whether higher is better, by capability.

    Returns:
        Row numbers, shape (F,), in the pool's order.
    """
    costs_MK = np.column_stack([-values if higher_is_better[name] else values for name, values in averages.items()])
    spread_K = np.ptp(costs_MK, axis=0)
    costs_MK = costs_MK / np.where(spread_K > 0, spread_K, 1.0)
    # A dominating row has a smaller sum, so each row has to be held only against those before it in this order.
    left_M = np.lexsort((np.arange(len(costs_MK)), costs_MK.sum(axis=1)))
    front: list[int] = []
    while left_M.size:
        best = left_M[0]
        front.append(int(best))
        left_M = left_M[(costs_MK[left_M] < costs_MK[best]).any(axis=1)]
    return np.sort(np.array(front, dtype=np.intp))


def thinned(
    front_F: npt.NDArray[np.intp], averages: Mapping[str, Array], higher_is_better: Mapping[str, bool], count: int
) -> npt.NDArray[np.intp]:
    """Keep at most `count` rows of a front: the best of each capability, then always the one farthest from those kept.

    Distances are between averages, each capability scaled to its span over the front.

    Returns:
        The kept rows' numbers in the pool, ascending, shape (N,), N at most `count`.
    """
    if len(front_F) <= count:
        return front_F
    costs_FK = np.column_stack(
        [-values[front_F] if higher_is_better[name] else values[front_F] for name, values in averages.items()]
    )
    spread_K = np.ptp(costs_FK, axis=0)
    costs_FK = costs_FK / np.where(spread_K > 0, spread_K, 1.0)
    kept = list(dict.fromkeys(int(row) for row in costs_FK.argmin(axis=0)))[:count]
    distance_F = np.min([np.linalg.norm(costs_FK - costs_FK[row], axis=1) for row in kept], axis=0)
    while len(kept) < count:
        kept.append(int(np.argmax(distance_F)))
        distance_F = np.minimum(distance_F, np.linalg.norm(costs_FK - costs_FK[kept[-1]], axis=1))
    return np.sort(front_F[kept])
