"""The algebra of mixtures: merge weights and the data shares they stand for.

A proxy merged with weights alpha stands for the data shares alpha @ B, where row i of the blend matrix B is the
blend that component i was trained on. Every export speaks of the converted shares (DeMix §2; method notes §3).

Axes: M mixtures, C components, D datasets.
"""

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nemo_demix.artifacts import read_json
from nemo_demix.errors import MixtureError

Array = npt.NDArray[np.float64]

SUM_TOLERANCE = 1e-6  # on the sum of a mixture that a user or a file gives


def check_names(given: Collection[str], names: Collection[str], what: str) -> None:
    """Refuse names that are not known, and say which known names are near.

    Raises:
        MixtureError: if `given` holds a name that `names` does not.
    """
    unknown = [name for name in given if name not in names]
    if not unknown:
        return
    near = sorted({match for name in unknown for match in difflib.get_close_matches(str(name), list(names))})
    hint = f"did you mean {', '.join(near)}?" if near else "correct or remove it"
    raise MixtureError(f"{what}: unknown name {', '.join(map(repr, unknown))}; expected some of {list(names)}; {hint}")


def placed_otherwise(shares: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Return the share of the data, 0 to 1, that two mixtures place otherwise; a name left out has share 0."""
    return sum(abs(shares.get(name, 0.0) - other.get(name, 0.0)) for name in {*shares, *other}) / 2


def check_simplex(weights: Mapping[str, float], names: Sequence[str], what: str) -> dict[str, float]:
    """Return a mixture over all of `names`, in their order, from one that may leave zeros out.

    Args:
        weights: Shares by name; a name left out has share 0.
        names: All names that may occur.
        what: What the mixture is, for the message, e.g. "base.blend".

    Returns:
        Shares by name, each >= 0, summing to 1 within 1e-6; the given values, not renormalised.

    Raises:
        MixtureError: if a name is unknown, a share is not a finite number >= 0, or the sum is not 1.
    """
    _check_numbers(weights, names, what)
    for name, value in weights.items():
        if not math.isfinite(value) or value < 0:
            raise MixtureError(f"{what}: {name}: expected a finite share >= 0, found {value}")
    total = sum(weights.values())  # infinite where numbers near the largest there is are added
    if abs(total - 1) <= 2 * SUM_TOLERANCE:
        total = math.fsum(weights.values())
    if abs(total - 1) > SUM_TOLERANCE:
        raise MixtureError(f"{what}: expected shares that sum to 1, found {total:.6g}; divide each share by the sum")
    return {name: float(weights.get(name, 0.0)) for name in names}


def check_finite(weights: Mapping[str, float], names: Sequence[str], what: str) -> dict[str, float]:
    """Return finite numbers over all of `names`, in their order, from weights that may leave zeros out.

    Raises:
        MixtureError: if a name is unknown or a weight is not a finite number.
    """
    _check_numbers(weights, names, what)
    for name, value in weights.items():
        if not math.isfinite(value):
            raise MixtureError(f"{what}: {name}: expected a finite number, found {value}")
    return {name: float(weights.get(name, 0.0)) for name in names}


def _check_numbers(weights: Mapping[str, float], names: Sequence[str], what: str) -> None:
    check_names(weights, names, what)
    for name, value in weights.items():
        if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
            raise MixtureError(f"{what}: {name}: expected a number, found {value!r}")


def check_rows(weights_MC: Array, num_components: int) -> Array:
    """Return the rows as float64, each on the simplex within 1e-6.

    Raises:
        MixtureError: if the shape is not (M, `num_components`), or a row is not on the simplex.
    """
    weights_MC = np.asarray(weights_MC, dtype=np.float64)
    if weights_MC.ndim != 2 or weights_MC.shape[1] != num_components:
        raise MixtureError(f"merge weights: expected shape (M, {num_components}), found {weights_MC.shape}")
    valid_M = np.isfinite(weights_MC).all(axis=1) & (weights_MC >= 0).all(axis=1)
    valid_M &= np.abs(weights_MC.sum(axis=1) - 1) <= SUM_TOLERANCE
    if not valid_M.all():
        row = int(np.argmin(valid_M))
        raise MixtureError(f"merge weights: row {row} is not on the simplex: {weights_MC[row].tolist()}")
    return weights_MC


def token_proportional(tokens_by_dataset: Mapping[str, int]) -> dict[str, float]:
    """Return data shares in proportion to token counts: the prior, and DeMix's "uniform" baseline (Table 3).

    Raises:
        MixtureError: if a count is negative or all are 0.
    """
    negative = [name for name, count in tokens_by_dataset.items() if count < 0]
    total = sum(tokens_by_dataset.values())
    if negative or total <= 0:
        raise MixtureError(f"token counts: expected counts >= 0, not all 0; found {dict(tokens_by_dataset)}")
    return {name: count / total for name, count in tokens_by_dataset.items()}


def epochs(
    data_shares: Mapping[str, float], token_budget: int, tokens_by_dataset: Mapping[str, int]
) -> dict[str, float]:
    """Return how often the final run repeats each dataset: share x budget / tokens of the dataset.

    Args:
        data_shares: Converted shares by dataset (never merge weights).
        token_budget: Tokens the final run trains on.
        tokens_by_dataset: Training tokens of each dataset.

    Returns:
        Repetitions by dataset; 0 where the share is 0.

    Raises:
        MixtureError: if a dataset has a share above 0 and no tokens.
    """
    shares = check_simplex(data_shares, list(data_shares), "data shares")
    for name, share in shares.items():
        if share > 0 and tokens_by_dataset.get(name, 0) <= 0:
            raise MixtureError(
                f"data shares: {name} has share {share:.4g} and no training tokens; prepare it, or cap it at 0"
            )
    return {name: share * token_budget / tokens_by_dataset[name] if share else 0.0 for name, share in shares.items()}


def is_folder_name(name: str) -> bool:
    """Return whether an output may be called so: one plain and printable part of a path, not hidden."""
    plain = name != "" and not name.startswith(".") and "/" not in name and name.isprintable()
    return plain and len(name.encode()) <= 255


def load_mixtures(path: Path, names: Sequence[str], any_weights: bool = False) -> dict[str, dict[str, float]]:
    """Read merge weights by mixture name: {"mix_0": {"general": 0.5, ...}}, the DeMix authors' own shape.

    Args:
        any_weights: Take finite weights that need not be on the simplex.

    Raises:
        DemixError: if the file is absent or is not JSON.
        MixtureError: if it has another shape, or a mixture is not on the simplex over `names`.
    """
    value = read_json(path, is_ours=False)
    if not isinstance(value, dict) or not value or not all(isinstance(item, dict) for item in value.values()):
        raise MixtureError(f'{path}: expected {{"mix_0": {{"{names[0]}": 0.5, ...}}, ...}}, found {str(value)[:80]}')
    return checked_mixtures(value, names, str(path), any_weights)


def checked_mixtures(
    mixtures: Mapping[str, Mapping[str, float]], names: Sequence[str], what: str, any_weights: bool = False
) -> dict[str, dict[str, float]]:
    """Return mixtures by name, each with a weight of every component.

    Args:
        what: Where they are from, for the message.
        any_weights: Take finite weights that need not be on the simplex.

    Raises:
        MixtureError: if a mixture is not on the simplex over `names`.
    """
    check = check_finite if any_weights else check_simplex
    return {name: check(weights, names, f"{what}: {name}") for name, weights in mixtures.items()}


@dataclass(frozen=True, eq=False)
class BlendMatrix:
    """What each component was trained on.

    Attributes:
        components: Row names.
        datasets: Column names.
        rows_CD: Data shares, float64, shape (C, D), read-only; rows sum to 1 within 1e-6.
    """

    components: tuple[str, ...]
    datasets: tuple[str, ...]
    rows_CD: Array

    def __post_init__(self) -> None:
        rows_CD = np.array(self.rows_CD, dtype=np.float64)
        for what, names in (("components", self.components), ("datasets", self.datasets)):
            if not names or len(set(names)) != len(names):
                raise MixtureError(f"blend matrix: expected distinct {what}, at least one; found {list(names)}")
        if rows_CD.shape != (len(self.components), len(self.datasets)):
            expected = (len(self.components), len(self.datasets))
            raise MixtureError(f"blend matrix: expected shape {expected}, found {rows_CD.shape}")
        for component, row_D in zip(self.components, rows_CD.tolist(), strict=True):
            row = dict(zip(self.datasets, row_D, strict=True))
            check_simplex(row, self.datasets, f"blend of component {component}")
        rows_CD.setflags(write=False)
        object.__setattr__(self, "components", tuple(self.components))
        object.__setattr__(self, "datasets", tuple(self.datasets))
        object.__setattr__(self, "rows_CD", rows_CD)

    @classmethod
    def unmixed(cls, datasets: Sequence[str]) -> "BlendMatrix":
        """Return components that are the datasets themselves, so that merge weights are data shares.

        Raises:
            MixtureError: if a name stands twice, or there is none.
        """
        return cls(tuple(datasets), tuple(datasets), np.eye(len(datasets)))

    @classmethod
    def demix(cls, datasets: Sequence[str], general: str, beta: float) -> "BlendMatrix":
        """Return the paper's design: each component trains on `beta` general data and 1 - `beta` of its own dataset.

        Args:
            datasets: Candidate datasets; the components carry their names.
            general: The dataset that the others are mixed with.
            beta: Share of general data, 0 <= beta < 1.

        Raises:
            MixtureError: if `general` is not a dataset or `beta` is out of range.
        Source: DeMix §2.2 and §3.
        """
        check_names([general], datasets, "components.general")
        if not 0 <= beta < 1:
            raise MixtureError(
                f"components.beta: expected 0 <= beta < 1, found {beta}; at 1 all components are the same"
            )
        rows_CD = (1 - beta) * np.eye(len(datasets))
        rows_CD[:, list(datasets).index(general)] += beta
        return cls(tuple(datasets), tuple(datasets), rows_CD)

    @classmethod
    def from_blends(cls, blends: Mapping[str, Mapping[str, float]], datasets: Sequence[str]) -> "BlendMatrix":
        """Build it from the blend of each component, {component: {dataset: share}}.

        Raises:
            MixtureError: if a blend is not on the simplex over `datasets`.
        """
        full = {name: check_simplex(blend, datasets, f"blend of component {name}") for name, blend in blends.items()}
        rows_CD = np.array([list(blend.values()) for blend in full.values()], dtype=np.float64)
        return cls(tuple(full), tuple(datasets), rows_CD)

    def data_shares(self, merge_weights: Mapping[str, float]) -> dict[str, float]:
        """Return the data shares, by dataset, that merge weights by component stand for.

        Raises:
            MixtureError: if the merge weights are not on the simplex over the components.
        """
        weights_C = np.array(list(check_simplex(merge_weights, self.components, "merge weights").values()))
        return dict(zip(self.datasets, (weights_C @ self.rows_CD).tolist(), strict=True))

    def data_shares_MD(self, weights_MC: Array) -> Array:
        """Return data shares, float64, shape (M, D), of merge weights of shape (M, C)."""
        shares_MD: Array = np.asarray(weights_MC, dtype=np.float64) @ self.rows_CD
        return shares_MD

    def merge_weights_for(self, data_shares: Mapping[str, float]) -> tuple[dict[str, float], float]:
        """Return the merge weights whose data shares are nearest (least L2) to the given ones.

        The nearest point of the hull of B's rows is the shortest vector of the hull of the rows minus the shares,
        which one non-negative least-squares problem finds exactly.

        Returns:
            Merge weights by component, and the L1 distance left over (0 where the shares can be reached).
            Where B's rows are dependent, several merge weights are equally near and one of them is returned.

        Raises:
            MixtureError: if the data shares are not on the simplex over the datasets.
        Source: Lawson and Hanson, Solving Least Squares Problems, ch. 23 (least-distance programming).
        """
        from scipy.optimize import nnls  # most of a second of imports, which other stages need not pay

        shares_D = np.array(list(check_simplex(data_shares, self.datasets, "data shares").values()))
        offsets_DC = (self.rows_CD - shares_D).T
        solution_C, _ = nnls(np.vstack([offsets_DC, np.ones(len(self.components))]), np.append(0 * shares_D, 1.0))
        weights_C = solution_C / solution_C.sum()
        residual = float(np.abs(weights_C @ self.rows_CD - shares_D).sum())
        return dict(zip(self.components, weights_C.tolist(), strict=True)), residual
