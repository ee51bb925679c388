"""What every predictor checks before it is fitted, and the order that it is fitted in.

Axes: M scored mixtures, C components.
"""

from collections.abc import Mapping

import numpy as np

from nemo_demix.errors import MixtureError, ScoreError
from nemo_demix.mixture import Array, check_rows


def check_scored(weights_MC: Array, scores: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
    """Return mixtures and their scores, as float64 and in one order that does not depend on the order given.

    Rows are sorted by weights and then by scores: whatever bins, folds or resamples rows by position gives the same
    bytes for the same set of rows.

    Raises:
        MixtureError: if the weights are not of shape (M, C), or a row is not on the simplex.
        ScoreError: if there is no benchmark, a column of another length or a non-finite score.
    """
    weights_MC = np.asarray(weights_MC, dtype=np.float64)
    if weights_MC.ndim != 2:
        raise MixtureError(f"predictor: expected merge weights of shape (M, C), found shape {weights_MC.shape}")
    if not scores:
        raise ScoreError("predictor: expected the scores of at least one benchmark, found none; name one to fit")
    num_rows = len(weights_MC)
    columns = {name: np.asarray(scores_M, dtype=np.float64) for name, scores_M in scores.items()}
    for name, scores_M in columns.items():
        if scores_M.shape != (num_rows,):
            raise ScoreError(
                f"predictor: {name}: expected {num_rows} scores, one a mixture, found shape {scores_M.shape}; "
                "leave out the mixtures without a score"
            )
        if not np.isfinite(scores_M).all():
            row = int(np.argmin(np.isfinite(scores_M)))
            raise ScoreError(
                f"predictor: {name}: expected finite scores, found {scores_M[row]} in row {row}; leave that row out"
            )
    weights_MC = check_rows(weights_MC, weights_MC.shape[1])
    by_name = [columns[name] for name in sorted(columns, reverse=True)]
    order_M = np.lexsort((*by_name, *weights_MC.T[::-1]))  # the last key is the first to sort by
    return weights_MC[order_M], {name: scores_M[order_M] for name, scores_M in columns.items()}


def check_enough(kind: str, weights_MC: Array, min_rows: int) -> int:
    """Return the number of distinct mixtures: a mixture scored twice says nothing of another one.

    Raises:
        ScoreError: if there are fewer than `min_rows`.
    """
    num_distinct = len(np.unique(weights_MC, axis=0))
    if num_distinct < min_rows:
        raise ScoreError(
            f"search.predictor.kind={kind}: expected {min_rows} distinct scored mixtures or more, found {num_distinct} "
            f"in {len(weights_MC)} rows; score more, or use another kind"
        )
    return num_distinct
