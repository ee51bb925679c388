"""What a search depends on, and what the scores of its proxies do besides their weights: see `ProxyIdentity`."""

from collections.abc import Mapping
from typing import Any

from nemo_demix.artifacts import fingerprint
from nemo_demix.errors import ScoreError
from nemo_demix.prepared import PreparedRun
from nemo_demix.scoring.identity import PROXY_USES, averaged_scores, judged_scores, score_fingerprints
from nemo_demix.search.score_log import ProxyIdentity
from nemo_demix.search.space import NOTHING_TO_SEE, search_settings, token_counts
from nemo_demix.search.strategies import strategy_of
from nemo_demix.training.jobs import proxy_settings

KINDS = ("merge", "predictions", "trained")


def proxy_identity(
    run: PreparedRun, kind: str, num_proxies: int | None = None, with_report: bool = False
) -> ProxyIdentity:
    """Return the identity of one kind of proxy of this run; of trained proxies, whose weights are over the datasets,
    too.

    Args:
        kind: merge | predictions | trained.
        num_proxies: How many trained proxies share the token budget; None for the other kinds.
        with_report: These proxies are scored on `report` benchmarks too: no search chooses by them.

    Raises:
        ScoreError: if there is no benchmark that a search may see.
    """
    assert kind in KINDS, kind
    config, manifest = run.config, run.manifest
    uses = None if with_report else PROXY_USES
    judged = judged_scores(config.suite, manifest, uses)
    if not judged:
        raise ScoreError(NOTHING_TO_SEE)
    if kind == "trained":
        fingerprints = {name: record.fingerprint for name, record in manifest.datasets.items()}
    else:
        fingerprints = {job.name: job.fingerprint for job in run.components}
    return ProxyIdentity(
        kind=kind,
        components=fingerprints,
        merge=fingerprint(precision=config.train.precision, how=_how_made(run, kind, num_proxies)),
        score_fingerprints=score_fingerprints(config.suite, manifest, uses),
        needed=tuple(judged),
        uses_all=kind == "merge" and config.merge.method != "linear",
        averaged=averaged_scores(judged),
    )


def search_fingerprint(run: PreparedRun) -> str:
    """Fingerprint all that can change the mixture; a strategy without component models does not depend on them."""
    config, manifest = run.config, run.manifest
    strategy = strategy_of(config.search)
    models: dict[str, str] = {}
    if strategy.mixes_components():
        models = {job.name: job.fingerprint for job in run.components}
    elif strategy.trains_proxies():
        models = {"base": run.base.fingerprint}
    return fingerprint(
        models=models,
        merge=(config.merge.method, config.merge.parameters, config.merge.seed, config.merge.base),
        precision=config.train.precision,
        groups=score_fingerprints(config.suite, manifest) if models else {},
        benchmarks={
            name: (score.capability, score.use, score.weight)
            for name, score in judged_scores(config.suite, manifest).items()
        },
        search=search_settings(config),
        seed=config.seed,
        final_tokens=config.final.num_tokens,
        tokens=token_counts(manifest),
    )


def merge_fingerprint(run: PreparedRun, weights: Mapping[str, float]) -> str:
    """Fingerprint a merge's weights: the components that matter, how they are merged, and their merge weights."""
    linear = run.config.merge.method == "linear"
    return fingerprint(
        components={job.name: job.fingerprint for job in run.components if weights.get(job.name) or not linear},
        precision=run.config.train.precision,
        how=_how_made(run, "merge", None),
        weights={name: weight for name, weight in weights.items() if weight},
    )


def _how_made(run: PreparedRun, kind: str, num_proxies: int | None) -> Any:
    """Return everything but the components that decides what a proxy of given weights is."""
    if kind == "predictions":
        return None  # mixed probabilities: nothing to set
    config, base = run.config, run.base.fingerprint
    if kind == "merge":
        settings = config.merge
        linear = settings.method == "linear"
        return [settings.method, settings.parameters, settings.seed, None if linear else settings.base or base]
    assert num_proxies is not None, "trained proxies share a budget"
    return {
        "base": base,
        "model": config.model,
        "train": [getattr(config.train, key) for key in ("global_batch_size", "seq_length")],
        "settings": proxy_settings(config, num_proxies),
        "seed": config.seed,
    }
