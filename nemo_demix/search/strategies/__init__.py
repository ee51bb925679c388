"""How a mixture is looked for: one module a family of strategies, behind one interface of ask and tell."""

from collections.abc import Callable, Iterator

from nemo_demix.config import SearchConfig
from nemo_demix.errors import ConfigError, DemixError, near
from nemo_demix.prediction.predictors import predictor_errors
from nemo_demix.search.objective import LINEAR, OBJECTIVES
from nemo_demix.search.ranking import objective_errors
from nemo_demix.search.sample import sampler_errors
from nemo_demix.search.space import PLAIN, STRATEGIES, TRAINED
from nemo_demix.search.strategies.base import Problem, Screen, Strategy
from nemo_demix.search.strategies.bayes import Bayes, bayes_errors
from nemo_demix.search.strategies.demix import climb, demix, regmix
from nemo_demix.search.strategies.fixed import MixMin, Plain, mixmin_errors, no_shares
from nemo_demix.search.strategies.mergemix import MergeMix
from nemo_demix.search.strategies.recommended import Recommended
from nemo_demix.search.strategies.screened import Screened

_SEARCHES: dict[str, Callable[[Problem], Strategy]] = {
    "demix": demix,
    "mergemix": MergeMix,
    "bayes": Bayes,
    "regmix": regmix,
    "climb": climb,
}
PROXIES = ("merge", "predictions", "both", "auto")
_ITERATED = ("recommended", "demix", "regmix", "climb")  # draw their proxies in search.iterations


def settings_errors(settings: SearchConfig) -> Iterator[DemixError]:
    """What of `search` does not exist, is impossible, or does not go together, by the configuration alone."""
    yield from objective_errors(settings)
    yield from sampler_errors(settings.sampler)
    yield from predictor_errors(settings.predictor)
    yield from bayes_errors(settings.bayes)
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
    if any(count < 1 for count in settings.iterations) or (settings.strategy in _ITERATED and not settings.iterations):
        yield ConfigError(f"search.iterations={settings.iterations}: expected numbers of proxies of at least 1")
    if not known:
        return
    yield from _proxy_errors(settings)
    if settings.strategy in PLAIN and (settings.floors or settings.default_floor is not None):
        yield ConfigError(f"search.floors: {settings.strategy} predicts nothing; take another search.strategy")
    if settings.strategy == "mixmin":
        yield from mixmin_errors(settings)
    if settings.strategy == "heuristic" and not settings.heuristic and settings.heuristic_from is None:
        yield no_shares("heuristic")


def _proxy_errors(settings: SearchConfig) -> Iterator[DemixError]:
    """Kinds of proxies and objectives that a strategy cannot use."""
    if settings.strategy == "recommended":
        if settings.proxy == "both":
            yield ConfigError("search.proxy=both: recommended asks for both kinds by itself; set search.proxy=auto")
        if settings.objective in OBJECTIVES and settings.objective not in LINEAR:
            yield ConfigError(
                f"search.objective={settings.objective}: recommended minimises, and ranks have no slope; expected one "
                f"of {', '.join(LINEAR)}"
            )
    elif settings.proxy == "auto":
        yield ConfigError(f"search.proxy=auto: {settings.strategy} asks for one kind of proxy; set search.proxy=merge")
    elif settings.proxy == "both" and settings.strategy not in ("demix", "mixmin"):
        yield ConfigError(
            f"search.proxy=both: {settings.strategy} asks for one kind of proxy; set search.proxy=merge, or "
            "search.strategy=demix"
        )
    elif settings.strategy in TRAINED and settings.proxy != "merge":
        yield ConfigError(
            f"search.proxy={settings.proxy}: {settings.strategy} trains its proxies; leave search.proxy out"
        )


def build_strategy(problem: Problem, screen: Screen | None = None) -> Strategy:
    """The strategy that checked settings ask for.

    Args:
        screen: Prediction proxies, which `mixmin` and `search.proxy=both` need; with them `recommended` goes by them.

    Raises:
        ConfigError: if the strategy's own settings are impossible.
    """
    settings = problem.settings
    if settings.strategy in PLAIN:
        return Plain(problem, settings.strategy)
    if settings.strategy == "recommended":
        return Recommended(problem, screen)
    if settings.strategy == "mixmin":
        assert screen is not None
        return MixMin(problem, screen)
    if settings.proxy == "both":
        assert screen is not None
        return Screened(problem, screen)
    return _SEARCHES[settings.strategy](problem)
