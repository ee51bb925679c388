"""Stand-ins for models trained on mixtures: merged, mixed by their predictions, or really trained."""

from collections.abc import Collection, Sequence

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import DemixConfig
from nemo_demix.runtime.ranks import Ranks
from nemo_demix.search.proxies.base import Evaluation, LiveModel, Proxies
from nemo_demix.search.proxies.merged import MergedProxies
from nemo_demix.search.proxies.predictions import PredictionProxies
from nemo_demix.search.proxies.trained import TrainedProxies
from nemo_demix.training.jobs import TrainJob

__all__ = [
    "Evaluation",
    "LiveModel",
    "MergedProxies",
    "PredictionProxies",
    "Proxies",
    "TrainedProxies",
    "open_proxies",
]


def open_proxies(
    config: DemixConfig,
    manifest: DataManifest,
    components: Sequence[TrainJob],
    ranks: Ranks,
    kinds: Collection[str],
    uses: Collection[str] | None = None,
) -> dict[str, Proxies]:
    """Proxies of several kinds on the same ranks, over one live model, by kind.

    One `serve` and one `close` are for all of them.

    Args:
        kinds: Of merge, predictions and trained. Trained proxies share `search.iterations`' budget.
        uses: Of the benchmarks that proxies are scored on, see `build_suite`; None: all.
    Raises:
        ConfigError: if a component is not trained yet, or predictions are asked for where merges are not linear.
    Collective: every rank.
    """
    live = LiveModel(config, manifest, ranks, uses)
    found: dict[str, Proxies] = {}
    if "predictions" in kinds:
        found["predictions"] = PredictionProxies(config, manifest, components, live)
    if "merge" in kinds:
        found["merge"] = MergedProxies(config, manifest, components, live)
    if "trained" in kinds:
        found["trained"] = TrainedProxies(config, manifest, sum(config.search.iterations), live)
    return found
