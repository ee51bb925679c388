"""Stand-ins for models trained on mixtures: merged, mixed by their predictions, or really trained.

`merged`, `trained` and `serve` are the ranks' side; what is exported here is the search's.
"""

from collections.abc import Collection, Sequence

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import DemixConfig
from nemo_demix.scoring.suite import build_suite
from nemo_demix.search.proxies.base import Evaluation, Proxies
from nemo_demix.search.proxies.groups import GroupProxies, Groups, score_components_by
from nemo_demix.search.proxies.predictions import PredictionProxies, are_scored, check_linear
from nemo_demix.training.jobs import TrainJob

__all__ = [
    "Evaluation",
    "GroupProxies",
    "Groups",
    "PredictionProxies",
    "Proxies",
    "open_proxies",
]


def open_proxies(
    config: DemixConfig,
    manifest: DataManifest,
    components: Sequence[TrainJob],
    groups: Groups,
    kinds: Collection[str],
    uses: Collection[str] | None = None,
) -> dict[str, Proxies]:
    """Proxies of several kinds, by kind.

    Args:
        groups: Of ranks. They are asked for nothing that is stored already.
        kinds: Of merge, predictions and trained. Trained proxies share `search.iterations`' budget.
        uses: Of the benchmarks that proxies are scored on, see `build_suite`; None: all.
    Raises:
        ConfigError: if predictions are asked for where merges are not linear.
        ScoreError: if a component cannot be scored for predictions.
    """
    suite = build_suite(config.suite, manifest, uses)
    found: dict[str, Proxies] = {}
    if "predictions" in kinds:
        check_linear(config)
        if not are_scored(config, manifest, components, uses):
            score_components_by(groups, uses)
        found["predictions"] = PredictionProxies(config, manifest, components, suite, uses)
    if "merge" in kinds:
        found["merge"] = GroupProxies("merge", suite, uses, groups, max(1, config.search.merge_batch))
    if "trained" in kinds:
        found["trained"] = GroupProxies("trained", suite, uses, groups, 0)  # all trained, then all scored
    return found
