"""`search.*` for programs: a strategy's own defaults, as `search=NAME` on the command line, and what is given."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from nemo_demix.config import SearchConfig
from nemo_demix.config.values import fitted
from nemo_demix.errors import DemixError, refuse

_CHOICES = Path(__file__).parent.parent / "conf" / "search"


def search_settings(strategy: str, given: Mapping[str, Any] | SearchConfig) -> SearchConfig:
    """Return the settings of a search.

    Args:
        strategy: A name among `nemo_demix.search.strategies.STRATEGIES`.
        given: Keys below `search`, nested as in a recipe, which win over the strategy's defaults; or all of them.

    Raises:
        ConfigError: if a key does not exist or a value is of another type.
    """
    if isinstance(given, SearchConfig):
        return replace(given, strategy=strategy)
    path = _CHOICES / f"{strategy}.yaml"
    chosen = OmegaConf.load(path) if path.is_file() else OmegaConf.create()
    errors: list[DemixError] = []
    content = fitted(given, errors, SearchConfig, "search")
    refuse(errors)
    merged = OmegaConf.merge(OmegaConf.structured(SearchConfig), chosen, content, {"strategy": strategy})
    settings = OmegaConf.to_object(merged)
    assert isinstance(settings, SearchConfig)
    return settings
