"""What a strategy is: it asks for mixtures to be scored, is told their rows, and ends with a mixture.

A strategy never scores anything itself, and everything random in it comes from generators seeded by (seed, step): asked
and told the same, it ends in the same bytes, however often it was cut off in between.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from nemo_demix.config import SearchConfig
from nemo_demix.constraints import Constraints
from nemo_demix.mixture import Array
from nemo_demix.search.choose import Choice
from nemo_demix.search.convex import Limit, Optimum
from nemo_demix.search.ranking import Row
from nemo_demix.search.space import SearchSpace


@dataclass(frozen=True)
class Problem:
    """What every strategy is given.

    Attributes:
        prior_rows: Scored mixtures from an earlier search, e.g. before a dataset was added; used in every fit.
    """

    settings: SearchConfig
    space: SearchSpace
    seed: int
    prior_rows: tuple[Row, ...] = ()


class Strategy(Protocol):
    """One search. `ask` and `tell` take turns until `ask` has nothing more; then comes `result`."""

    @property
    def num_proxies(self) -> int:
        """How many mixtures it asks for in all."""

    def ask(self) -> list[Array]:
        """The next merge weights to be scored, each of shape (C,); none: done."""

    def tell(self, rows: Sequence[Row]) -> None:
        """The rows of the mixtures asked for last that could be scored."""

    def result(self) -> Choice:
        """The mixture.

        Raises:
            DemixError: if what was told does not suffice.
        """


class Screen(Protocol):
    """Scores of any number of mixtures at once, and their exact optimum: prediction proxies."""

    def scores_MB(self, weights_MC: Array, groups: Sequence[str]) -> dict[str, Array]:
        """Scores by name, each of shape (M,)."""

    def optimum(
        self, constraints: Constraints, objective: Mapping[str, float], limits: Sequence[Limit] = ()
    ) -> Optimum:
        """The mixture with the least weighted sum of scores, within limits of other such sums."""

    def resampled(self, rng: np.random.Generator) -> "Screen":
        """The same over items drawn with replacement: what other items like these would have said."""

    def portable(self, groups: Sequence[str], resampled: Sequence["Screen"]) -> dict[str, Any]:
        """What scores are worked out from, as plain values, with how often each resample has drawn each item."""
