"""What these components cannot reach, and whether the answer lies there.

A merge stands for data shares between the least and the most that the components' own blends have: where each has 50 %
general data, every mixture has at least that. An answer on such an edge may be better beyond it.

Axes: X mixtures, C components, D datasets.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from nemo_demix.mixture import Array, BlendMatrix
from nemo_demix.prepared import PreparedRun
from nemo_demix.search.baselines import baseline_shares
from nemo_demix.search.space import SearchSpace
from nemo_demix.training.jobs import blend_matrix

NEAR = 1e-2  # of a share: so close to an edge is on it; the mean of a pool's top never comes quite there
WHOLE = 1e-3  # of a share: nearer to 0 or 1 is none of the components' doing
STEP = 1e-2  # of a share


def reach_warnings(run: PreparedRun) -> Iterator[str]:
    """Yield a warning for each mixture that the answer is compared with, or floors are counted from, and that no merge
    can stand for. It is known before any component is trained.
    """
    config = run.config
    blend, known = blend_matrix(config), baseline_shares(config, run.manifest)
    for name in dict.fromkeys(("proportional", config.search.floor_baseline, *config.final.baselines)):
        if name not in known or _is_reached(blend, known[name]):
            continue
        missed = blend.merge_weights_for(known[name])[1] / 2
        if missed <= WHOLE:
            continue
        general = known[name][config.components.general]
        advice = "components.blends"
        if general < config.components.beta and not config.components.blends:
            advice = f"components.beta={general / 2:.2g}, half of that share,"
        yield (
            f"{_why_beyond(blend, known[name], name)}. The nearest mixture that they can stand for differs by "
            f"{100 * missed:.1f} % of the data: proxies are compared with that one, floors are counted from it, and no "
            f"answer lies beyond it. Set {advice} before components are trained"
        )


def _is_reached(blend: BlendMatrix, shares: Mapping[str, float]) -> bool:
    """Return whether weights of the components plainly give these shares; scipy, which commands that only look would
    wait for, finds the others.
    """
    try:
        weights_C = np.linalg.solve(blend.rows_CD.T, [shares[name] for name in blend.datasets])
    except np.linalg.LinAlgError:
        return False
    return bool((weights_C >= -WHOLE).all())


def _why_beyond(blend: BlendMatrix, shares: Mapping[str, float], name: str) -> str:
    """Say which dataset the components have too much or too little of for a mixture."""
    least_D, most_D = blend.rows_CD.min(axis=0), blend.rows_CD.max(axis=0)
    for dataset, least, most in zip(blend.datasets, least_D, most_D, strict=True):
        share = shares[dataset]
        for word, limit, is_beyond in (("less", least, share < least - WHOLE), ("more", most, share > most + WHOLE)):
            if is_beyond:
                return (
                    f"{100 * share:.1f} % of the {name} mixture is {dataset}, and no component holds {word} of it than "
                    f"{100 * limit:.1f} %"
                )
    return f"the {name} mixture is beyond what the components' blends hold together"


def edges(space: SearchSpace, weights_C: Array, objective: Callable[[Array], Array] | None) -> list[dict[str, Any]]:
    """Return the datasets whose share is the least or the most that the components can stand for, though not 0 or 1.

    Args:
        weights_C: The chosen merge weights, shape (C,).
        objective: The objective, shape (X,), of mixtures of shape (X, C); lower is better; None: not known.

    Returns:
        A mapping an edge: `dataset`, `share`, `bound` (least | most), and `gain`: the objective's slope there, how much
        lower it would be for each further share of one hundredth, were it a straight line (null: not known). Where a
        gain is below 0, nothing is expected beyond.
    """
    rows_CD = space.blend.rows_CD
    shares_D = weights_C @ rows_CD
    found = []
    for column, name in enumerate(space.blend.datasets):
        least, most = float(rows_CD[:, column].min()), float(rows_CD[:, column].max())
        for bound, limit in (("least", least), ("most", most)):
            if abs(shares_D[column] - limit) <= NEAR and WHOLE < limit < 1 - WHOLE:
                gain = None if objective is None else _gain(space, weights_C, column, limit, objective)
                found.append({"dataset": name, "share": float(shares_D[column]), "bound": bound, "gain": gain})
    return found


def _gain(
    space: SearchSpace, weights_C: Array, column: int, limit: float, objective: Callable[[Array], Array]
) -> float:
    """Return how much the objective rises for a step back from the edge, towards the component that leads away
    from it.
    """
    rows_C = space.blend.rows_CD[:, column]
    away = int(np.abs(rows_C - limit).argmax())
    length = STEP / abs(rows_C[away] - limit)
    inside_C = weights_C + length * (np.eye(len(weights_C))[away] - weights_C)
    values_X = objective(np.array([weights_C, inside_C]))
    return float(values_X[1] - values_X[0])
