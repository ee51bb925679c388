"""What a recipe asks of a search that its datasets, its suite or its merges do not allow."""

from collections.abc import Iterator

from nemo_demix.config import DemixConfig
from nemo_demix.constraints import constraint_errors
from nemo_demix.errors import DemixError, ScoreError, found_by
from nemo_demix.scoring.identity import PROXY_USES, declared_capabilities
from nemo_demix.search.baselines import baseline_errors
from nemo_demix.search.objective import capability_weights, floor_errors
from nemo_demix.search.space import NOTHING_TO_SEE, linear_errors
from nemo_demix.search.strategies import strategy_of


def space_errors(config: DemixConfig) -> Iterator[DemixError]:
    """Yield errors for names, shares and kinds of scores under `search` that the datasets and the suite do not have."""
    settings, datasets = config.search, list(config.datasets)
    strategy = strategy_of(settings)
    yield from constraint_errors(settings.constraints, datasets)
    capabilities = dict.fromkeys(declared_capabilities(config.suite, ("search",)).values(), True)
    if capabilities:
        yield from floor_errors(settings.floors, capabilities)
        yield from found_by(lambda: capability_weights(settings.capability_weights, capabilities))
    yield from baseline_errors(config, strategy.own_baselines)
    if not strategy.proxies:
        return
    if not declared_capabilities(config.suite, PROXY_USES):
        yield ScoreError(NOTHING_TO_SEE)
    if strategy.plan(settings, can_mix=False).needs_predictions:
        yield from linear_errors(config)
