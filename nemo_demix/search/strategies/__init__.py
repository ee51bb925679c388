"""How a mixture is looked for: one module a family of strategies, behind one interface of ask and tell."""

from collections.abc import Callable

from nemo_demix.config import SearchConfig
from nemo_demix.errors import ConfigError
from nemo_demix.search.objective import LINEAR
from nemo_demix.search.ranking import check_objective
from nemo_demix.search.space import PLAIN, STRATEGIES, TRAINED
from nemo_demix.search.strategies.base import Problem, Screen, Strategy
from nemo_demix.search.strategies.bayes import Bayes
from nemo_demix.search.strategies.demix import climb, demix, regmix
from nemo_demix.search.strategies.fixed import MixMin, Plain
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


def check_settings(settings: SearchConfig) -> None:
    """Refuse what cannot be searched, before anything is started.

    Raises:
        ConfigError: if there is no such strategy, kind of proxy or objective, or they do not go together.
    """
    check_objective(settings)
    if settings.strategy not in STRATEGIES:
        raise ConfigError(f"search.strategy={settings.strategy}: expected one of {', '.join(STRATEGIES)}")
    if settings.proxy not in PROXIES:
        raise ConfigError(f"search.proxy={settings.proxy}: expected one of {', '.join(PROXIES)}")
    if settings.strategy == "recommended":
        if settings.proxy == "both":
            raise ConfigError("search.proxy=both: recommended asks for both kinds by itself; set search.proxy=auto")
        if settings.objective not in LINEAR:
            raise ConfigError(
                f"search.objective={settings.objective}: recommended minimises, and ranks have no slope; expected one "
                f"of {', '.join(LINEAR)}"
            )
    elif settings.proxy == "auto":
        raise ConfigError(f"search.proxy=auto: {settings.strategy} asks for one kind of proxy; set search.proxy=merge")
    if settings.proxy == "both" and settings.strategy not in ("demix", "mixmin"):
        raise ConfigError(
            f"search.proxy=both: {settings.strategy} asks for one kind of proxy; set search.proxy=merge, or "
            "search.strategy=demix"
        )
    if settings.strategy in TRAINED and settings.proxy != "merge":
        raise ConfigError(
            f"search.proxy={settings.proxy}: {settings.strategy} trains its proxies; leave search.proxy out"
        )
    if settings.strategy in PLAIN and (settings.floors or settings.default_floor is not None):
        raise ConfigError(f"search.floors: {settings.strategy} predicts nothing; take another search.strategy")


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
