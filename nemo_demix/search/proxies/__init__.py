"""Stand-ins for models trained on mixtures: merged, mixed by their predictions, or really trained.

`merged`, `trained` and `serve` are the ranks' side; what is exported here is the search's.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from nemo_demix.errors import ScoreError, refuse
from nemo_demix.prepared import PreparedRun
from nemo_demix.scoring.external import ExternalScorer
from nemo_demix.scoring.identity import judged_scores
from nemo_demix.scoring.suite import build_suite
from nemo_demix.search.proxies.base import Evaluation, Proxies
from nemo_demix.search.proxies.external import (
    WithExternal,
    external_folder,
    folder_maker,
    kept_formats,
    merged_models,
    trained_models,
)
from nemo_demix.search.proxies.groups import GroupProxies, Groups, score_components_by
from nemo_demix.search.proxies.predictions import PredictionProxies, unscored
from nemo_demix.search.space import linear_errors

__all__ = [
    "Evaluation",
    "GroupProxies",
    "Groups",
    "PredictionProxies",
    "Proxies",
    "open_proxies",
]


@contextmanager
def open_proxies(
    run: PreparedRun, groups: Groups, kinds: Collection[str], uses: Collection[str] | None = None
) -> Iterator[dict[str, Proxies]]:
    """Open proxies of several kinds, by kind; no external command of theirs runs any more when this is left.

    Args:
        groups: Groups of ranks. They are asked for nothing that is stored already.
        kinds: Kinds to open, of merge, predictions and trained. Trained proxies share `search.iterations`' budget.
        uses: Uses of the benchmarks that proxies are scored on, see `build_suite`; None: all.
    Raises:
        ConfigError: if predictions are asked for where merges are not linear, or an external command cannot be run.
        ScoreError: if a component cannot be scored for predictions, or predictions alone cannot serve the suite.
    """
    config = run.config
    suite = build_suite(config.suite, run.manifest, uses)
    found: dict[str, Proxies] = {}
    if "predictions" in kinds:
        refuse(linear_errors(config))
        if "merge" not in kinds:
            _check_likelihoods(run)
        if missing := unscored(run, uses):
            score_components_by(groups, uses, missing)
        found["predictions"] = PredictionProxies(run, suite, uses)
    if "merge" in kinds:
        found["merge"] = GroupProxies("merge", suite, uses, groups, max(1, config.search.merge_batch))
    if "trained" in kinds:
        found["trained"] = GroupProxies("trained", suite, uses, groups, 0)  # all trained, then all scored
    external = [name for name in suite.judged if name.startswith("external/")]
    if not external:
        yield found
        return
    with ExternalScorer(config, uses) as scorer, folder_maker(config, external_folder(config)) as maker:
        for kind in ("merge", "trained"):
            if kind in found:
                model = merged_models(run, maker) if kind == "merge" else trained_models(run, maker)
                ranks = found[kind] if suite.on_ranks or kind == "trained" else None
                found[kind] = WithExternal(kind, suite, ranks, scorer, model, kept_formats(config))
        yield found


def _check_likelihoods(run: PreparedRun) -> None:
    """Refuse scores that mixed predictions cannot have, the report's too: a search would find out when it is over."""
    for name in judged_scores(run.config.suite, run.manifest):
        if not name.startswith("benchmark/"):
            raise ScoreError(
                f"{name}: mixed predictions have scores in bits per byte only: no model is there to generate text, or "
                "to be given to a command; use search.proxy=merge, or take this score out of the suite"
            )
