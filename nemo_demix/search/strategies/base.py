"""What a strategy is: it says of itself what it mixes and is answered by, asks for mixtures, and ends with one.

A strategy never scores anything itself, and everything random in it comes from generators seeded by (seed, step): asked
and told the same, it ends in the same bytes, however often it was cut off in between.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from nemo_demix.config import SearchConfig
from nemo_demix.config.parameters import typed_parameters
from nemo_demix.constraints import Constraints
from nemo_demix.errors import ConfigError, DemixError
from nemo_demix.mixture import Array
from nemo_demix.search.choose import Choice
from nemo_demix.search.convex import Limit, Optimum
from nemo_demix.search.proxy_row import ProxyRow
from nemo_demix.search.space import SearchSpace

TRAINED = "trained"  # proxies that are models of their own


@dataclass(frozen=True)
class Problem:
    """What every strategy is given.

    Attributes:
        prior_rows: Scored mixtures from an earlier search, e.g. before a dataset was added; used in every fit.
    """

    settings: SearchConfig
    space: SearchSpace
    seed: int
    prior_rows: tuple[ProxyRow, ...] = ()


@dataclass(frozen=True)
class ProxyPlan:
    """Which kinds of proxies (merge | predictions | trained) a search has, and what for.

    Attributes:
        asked: Scored when the strategy asks; the chosen mixture's own proxy is of this kind too.
        chosen_by: What the mixture is chosen by, so what its trust is about.
        judged_by: What compares the mixture with the baselines, and is recorded; None: as `chosen_by`.
        screen: Whether mixed predictions are at the strategy's hand as a `Screen`.
    """

    asked: str
    chosen_by: str
    judged_by: str | None = None
    screen: bool = False

    @property
    def judge(self) -> str:
        """The kind that compares."""
        return self.judged_by or self.chosen_by

    @property
    def needs_predictions(self) -> bool:
        """Whether the components' predictions have to be mixed."""
        return "predictions" in self.kinds

    @property
    def kinds(self) -> tuple[str, ...]:
        """All kinds that are needed, each once."""
        return tuple(dict.fromkeys([self.asked, self.judge, *(["predictions"] if self.screen else [])]))


class Screen(Protocol):
    """Scores of any number of mixtures at once, and their exact optimum: prediction proxies."""

    def scores_MB(self, weights_MC: Array, names: Sequence[str]) -> dict[str, Array]:
        """Return scores by name, each of shape (M,)."""

    def optimum(
        self, constraints: Constraints, objective: Mapping[str, float], limits: Sequence[Limit] = ()
    ) -> Optimum:
        """Return the mixture with the least weighted sum of scores, within limits of other such sums."""

    def resampled(self, rng: np.random.Generator) -> "Screen":
        """Return the same over items drawn with replacement: what other items like these would have said."""

    def portable(self, names: Sequence[str], resampled: Sequence["Screen"]) -> dict[str, Any]:
        """Return what scores are worked out from, as plain values, with how often each resample has drawn each item."""


class FromRows(Protocol):
    """Chooses from scored mixtures alone, see `choose_from_rows`."""

    def __call__(self, settings: SearchConfig, space: SearchSpace, rows: Sequence[ProxyRow], seed: int) -> Choice:
        """Return the mixture."""


class Strategy(ABC):
    """What a strategy says of itself, as attributes of the class; and one search by it, as an instance.

    `ask` and `tell` take turns until `ask` has nothing more; then comes `result`.

    Attributes:
        name: What `search.strategy` calls it.
        mixes: `components`: its points are merge weights of component models, which are trained first. `datasets`: they
            are data shares.
        proxies: What can answer it. Over components, the values of `search.proxy` that it takes, the first of them
            advised; `("trained",)`: each mixture is trained; `()`: nothing is scored for it.
        is_iterated: It draws its proxies in the steps of `search.iterations`, which `mixture.json` names then.
        from_rows: Chooses from scores that cannot be added to, by (settings, space, rows, seed); None: it needs proxies
            of its own.
        own_baselines: What it puts beside the baselines in `mixture.json`, which `final.baselines` may name.
        keeps_heldout: It keeps `search.heldout_floor`, where held-out text is scored.
        Parameters: A frozen dataclass of numbers and truth values, read from `search.parameters`; None: it has none.
    """

    name: ClassVar[str]
    mixes: ClassVar[Literal["components", "datasets"]] = "components"
    proxies: ClassVar[tuple[str, ...]] = ("merge", "predictions")
    is_iterated: ClassVar[bool] = False
    from_rows: ClassVar["FromRows | None"] = None
    own_baselines: ClassVar[tuple[str, ...]] = ()
    keeps_heldout: ClassVar[bool] = False
    Parameters: ClassVar[type | None] = None

    def __init__(self, problem: Problem, screen: Screen | None = None) -> None:
        self._problem, self._screen = problem, screen
        self._rows: list[ProxyRow] = list(problem.prior_rows)

    @classmethod
    def variant(cls, settings: SearchConfig) -> "type[Strategy]":
        """Return the class that searches with these settings: another one where `search.proxy` asks for
        another search.
        """
        return cls

    @classmethod
    def section_errors(cls, settings: SearchConfig) -> Iterator[DemixError]:
        """Return what is impossible in a section of `search` that is its own, whichever strategy is chosen."""
        return iter(())

    @classmethod
    def errors(cls, settings: SearchConfig) -> Iterator[DemixError]:
        """Return what it cannot do with these settings."""
        return iter(())

    @classmethod
    def parameters(cls, settings: SearchConfig) -> Any:
        """Return its `Parameters` with what `search.parameters` gives; None where it has none.

        Raises:
            ConfigError: if a parameter is unknown or of another type.
        """
        values = typed_parameters("search.parameters", cls.name, cls.Parameters, settings.parameters)
        return None if cls.Parameters is None else cls.Parameters(**values)

    @classmethod
    @abstractmethod
    def num_proxies(cls, settings: SearchConfig) -> int:
        """Return how many mixtures it asks for in all."""

    @classmethod
    def plan(cls, settings: SearchConfig, can_mix: bool, shown_std: Mapping[str, float] | None = None) -> ProxyPlan:
        """Return which proxies it is answered by.

        Args:
            can_mix: Whether the scores of the objective can be had from mixed predictions.
            shown_std: How far trained models were from their proxies, by kind of proxy, where `verify` measured it.
        """
        kind = TRAINED if cls.trains_proxies() else "predictions" if settings.proxy == "predictions" else "merge"
        return ProxyPlan(kind, kind)

    @classmethod
    def mixes_components(cls) -> bool:
        """Return whether the component models have to be there."""
        return cls.mixes == "components"

    @classmethod
    def trains_proxies(cls) -> bool:
        """Return whether each of its proxies is trained."""
        return TRAINED in cls.proxies

    @abstractmethod
    def ask(self) -> list[Array]:
        """Return the next weights to be scored, each of shape (C,); none: the strategy is done."""

    def tell(self, rows: Sequence[ProxyRow]) -> None:
        """Take the rows of the mixtures asked for last that could be scored."""
        self._rows += rows

    @abstractmethod
    def result(self) -> Choice:
        """Return the mixture.

        Raises:
            DemixError: if what was told does not suffice.
        """


class WithoutProxies(Strategy):
    """A strategy for which nothing is scored on the way."""

    @classmethod
    def num_proxies(cls, settings: SearchConfig) -> int:
        """Return 0: no proxy is asked for."""
        return 0

    def ask(self) -> list[Array]:
        """Return no weights, which would be of shape (C,): no proxy is scored."""
        return []


def no_steps(settings: SearchConfig) -> ConfigError:
    """Make the error for steps without proxies, where there have to be some."""
    return ConfigError(f"search.iterations={settings.iterations}: expected numbers of proxies of at least 1")
