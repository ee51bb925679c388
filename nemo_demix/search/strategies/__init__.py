"""How a mixture is looked for: one class a strategy, which says of itself what it needs, in one registry.

A new one is a class and its place in `STRATEGIES`; the contract suite (tests/search/test_strategies.py) then runs it.
"""

from collections.abc import Iterator, Mapping

from nemo_demix.config import DemixConfig, SearchConfig
from nemo_demix.errors import ConfigError, DemixError, found_by, near, refuse
from nemo_demix.prediction.predictors import predictor_errors
from nemo_demix.search.choose import Choice
from nemo_demix.search.ranking import objective_errors
from nemo_demix.search.sample import sampler_errors
from nemo_demix.search.space import can_mix_predictions
from nemo_demix.search.strategies.base import Problem, ProxyPlan, Screen, Strategy, WithoutProxies, no_steps
from nemo_demix.search.strategies.bayes import Bayes
from nemo_demix.search.strategies.demix import Climb, Demix, RegMix
from nemo_demix.search.strategies.fixed import Equal, Heuristic, MixMin, Proportional, UniMax
from nemo_demix.search.strategies.mergemix import MergeMix
from nemo_demix.search.strategies.recommended import Recommended

__all__ = [
    "PROXIES",
    "STRATEGIES",
    "Problem",
    "ProxyPlan",
    "Screen",
    "Strategy",
    "build_strategy",
    "proxy_plan",
    "settings_errors",
    "strategy_of",
]

STRATEGIES: dict[str, type[Strategy]] = {
    strategy.name: strategy
    for strategy in (
        Recommended,
        Demix,
        MergeMix,
        Bayes,
        MixMin,
        RegMix,
        Climb,
        Proportional,
        Equal,
        UniMax,
        Heuristic,
    )
}
PROXIES = ("merge", "predictions", "both", "auto")  # values of search.proxy


class _Unknown(WithoutProxies):
    """What a name that is no strategy's stands for until `settings_errors` is told: it needs nothing."""

    name = "unknown"
    mixes = "datasets"
    proxies = ()

    def result(self) -> Choice:
        """Raise: it is never called."""
        raise NotImplementedError


def strategy_of(settings: SearchConfig) -> type[Strategy]:
    """Return the class that searches with these settings; one that needs nothing where the name is no strategy's."""
    return STRATEGIES.get(settings.strategy, _Unknown).variant(settings)


def proxy_plan(config: DemixConfig, shown_std: Mapping[str, float] | None = None) -> ProxyPlan:
    """Return which proxies this configuration's search is answered by.

    Args:
        shown_std: How far trained models were from their proxies, by kind of proxy, where `verify` measured it.
    """
    return strategy_of(config.search).plan(config.search, can_mix_predictions(config), shown_std)


def settings_errors(settings: SearchConfig) -> Iterator[DemixError]:
    """Yield what of `search` does not exist, is impossible, or does not go together, by the configuration alone."""
    yield from objective_errors(settings)
    yield from sampler_errors(settings.sampler)
    yield from predictor_errors(settings.predictor)
    for strategy in STRATEGIES.values():
        yield from strategy.section_errors(settings)
    known = settings.strategy in STRATEGIES
    if not known:
        yield ConfigError(
            f"search.strategy={settings.strategy}: expected one of {', '.join(STRATEGIES)}"
            f"{near(settings.strategy, STRATEGIES)}"
        )
    if settings.proxy not in PROXIES:
        yield ConfigError(
            f"search.proxy={settings.proxy}: expected one of {', '.join(PROXIES)}{near(settings.proxy, PROXIES)}"
        )
    chosen = strategy_of(settings)
    if any(count < 1 for count in settings.iterations) or (chosen.is_iterated and not settings.iterations):
        yield no_steps(settings)
    if known:
        yield from _proxy_errors(chosen, settings)
        if settings.heldout_floor is not None and not chosen.keeps_heldout:
            yield ConfigError(
                f"search.heldout_floor={settings.heldout_floor}: {settings.strategy} keeps no floor under held-out "
                "text; set it to null, or search.strategy=recommended"
            )
        yield from chosen.errors(settings)
        yield from found_by(lambda: chosen.parameters(settings))


def _proxy_errors(strategy: type[Strategy], settings: SearchConfig) -> Iterator[DemixError]:
    """Yield errors for a kind of proxy that exists, but not for this strategy."""
    given, name = settings.proxy, settings.strategy
    if given not in PROXIES or not strategy.proxies or given in strategy.proxies:
        return
    if not strategy.trains_proxies():
        *others, last = strategy.proxies
        takes = f"{', '.join(others)} or {last}" if others else last
        yield ConfigError(f"search.proxy={given}: {name} takes {takes}; set search.proxy={strategy.proxies[0]}")
    elif given != SearchConfig.proxy:
        yield ConfigError(f"search.proxy={given}: {name} trains its proxies; leave search.proxy out")


def build_strategy(problem: Problem, screen: Screen | None = None) -> Strategy:
    """Return the strategy that the settings ask for, checked as the command checks them.

    Args:
        screen: Prediction proxies, where the strategy's plan has them.

    Raises:
        ConfigError: if the settings are impossible, as `settings_errors`.
    """
    refuse(settings_errors(problem.settings))
    return strategy_of(problem.settings)(problem, screen)
