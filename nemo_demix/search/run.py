"""The search on its ranks: rank 0 runs the loop, the others follow; then the mixture's own proxy is scored."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import DemixConfig
from nemo_demix.runtime.ranks import Ranks
from nemo_demix.scoring.scores import combined, compare, macro, score_report
from nemo_demix.scoring.suite import PROXY_USES, benchmark_use
from nemo_demix.search.choose import Choice
from nemo_demix.search.identity import proxy_identity
from nemo_demix.search.loop import SearchResult, run_loop, score_proxy
from nemo_demix.search.proxies import PredictionProxies, Proxies, open_proxies
from nemo_demix.search.record import Facts, mixture_record
from nemo_demix.search.score_log import ScoreLog, prior_points
from nemo_demix.search.space import (
    TRAINED,
    SearchSpace,
    search_fingerprint,
    search_folder,
    strategy_space,
    token_counts,
)
from nemo_demix.search.strategies import Problem, Screen, build_strategy
from nemo_demix.training.jobs import TrainJob

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Noise:
    """What references showed of a model's macro score; None and left out: not measured.

    Attributes:
        seeds_std: Between data orders.
        proxy_std: Of trained models around their proxies, by kind of proxy.
    """

    seeds_std: float | None = None
    proxy_std: dict[str, float] = field(default_factory=dict)


def run_search(
    config: DemixConfig, manifest: DataManifest, components: Sequence[TrainJob], ranks: Ranks, noise: Noise
) -> tuple[dict[str, Any], Choice] | None:
    """Search; on rank 0 the record of `search/mixture.json`, without `trust`, and the choice; None on the others.

    Benchmarks of use=report score nothing but the chosen mixture and the baselines, when the search is over.
    Collective: every rank.
    """
    kind, kinds = _kinds(config)
    proxies = open_proxies(config, manifest, components, ranks, kinds, PROXY_USES)
    group = proxies[kind]
    space = strategy_space(config, manifest)
    found: tuple[SearchResult, int] | None = None
    measured: dict[str, Any] = {}
    has_report = any(benchmark_use(config.suite, name) == "report" for name in manifest.benchmarks)
    if ranks.is_main:
        screen = proxies.get("predictions")
        assert screen is None or isinstance(screen, PredictionProxies)
        found = _search(config, manifest, components, space, group, screen)
        if kind != "trained" and not has_report:
            measured = _measured(space, found[0].choice, group, noise)
        group.close()
    else:
        group.serve()
    if kind != "trained" and has_report:
        proxies.clear()
        del group  # one model at a time
        group = open_proxies(config, manifest, components, ranks, (kind,), None)[kind]
        if found is not None:
            measured = _measured(space, found[0].choice, group, noise)
            group.close()
        else:
            group.serve()
    if found is None:
        return None
    result, num_prior = found
    facts = Facts(
        seed=config.seed,
        fingerprint=search_fingerprint(config, manifest, components),
        proxy="both" if config.search.proxy == "both" else kind,
        is_merge=kind != "trained",
        num_proxies=len(result.rows),
        num_failed=result.num_failed,
        num_prior=num_prior,
        component_epochs=component_epochs(manifest, components) if kind != "trained" else {},
        **measured,
    )
    return mixture_record(config.search, space, result.choice, facts), result.choice


def run_mixtures(
    config: DemixConfig,
    manifest: DataManifest,
    components: Sequence[TrainJob],
    mixtures: Mapping[str, dict[str, float]],
    kind: str,
    ranks: Ranks,
) -> None:
    """Score proxies of given mixtures on the whole suite into `scores/proxies.jsonl`. Collective: every rank.

    Args:
        kind: merge | predictions.
    """
    group = open_proxies(config, manifest, components, ranks, (kind,), None)[kind]
    if not ranks.is_main:
        group.serve()
        return
    identity = proxy_identity(config, manifest, components, kind, with_report=True)
    log = ScoreLog(config.run_dir / "scores" / "proxies.jsonl", identity)
    group.announce([dict(mixture) for mixture in mixtures.values() if log.find(mixture) is None])
    for name, merge_weights in mixtures.items():
        row = score_proxy(log, lambda weights: _report(group, weights), None, name, dict(merge_weights))
        if row["status"] == "OK":
            average = float(np.mean([score["score"] for score in row["capabilities"].values()]))
            logger.info("%s: %.4f bits/byte, macro over capabilities", name, average)
    group.close()


def component_epochs(manifest: DataManifest, components: Sequence[TrainJob]) -> dict[str, float]:
    """The most epochs that a component saw of each dataset."""
    tokens = token_counts(manifest)
    return {
        name: max(job.blend.get(name, 0.0) * job.num_tokens for job in components) / count
        for name, count in tokens.items()
        if count
    }


def _kinds(config: DemixConfig) -> tuple[str, tuple[str, ...]]:
    """The kind of proxy that the search asks for, and all kinds that it needs."""
    settings = config.search
    if settings.strategy in TRAINED:
        return "trained", ("trained",)
    if settings.proxy == "predictions":
        return "predictions", ("predictions",)
    if settings.proxy == "both" or settings.strategy == "mixmin":
        return "merge", ("merge", "predictions")
    return "merge", ("merge",)


def _search(
    config: DemixConfig,
    manifest: DataManifest,
    components: Sequence[TrainJob],
    space: SearchSpace,
    group: Proxies,
    screen: Screen | None,
) -> tuple[SearchResult, int]:
    """The result, and how many earlier proxies it rests on; on rank 0."""
    num_trained = sum(config.search.iterations) if group.kind == "trained" else None
    identity = proxy_identity(config, manifest, components, group.kind, num_trained)
    log = ScoreLog(search_folder(config) / "scores.jsonl", identity)
    expected = search_fingerprint(config, manifest, components)
    problem = Problem(config.search, space, config.seed, tuple(prior_points(search_folder(config), expected, log)))
    if problem.prior_rows:
        logger.info("search: %d earlier proxies serve as points to fit on", len(problem.prior_rows))
    strategy = build_strategy(problem, screen)
    result = run_loop(problem, strategy, log, lambda weights: _report(group, weights), group.announce)
    return result, len(problem.prior_rows)


def _report(group: Proxies, weights: Mapping[str, float]) -> dict[str, Any]:
    evaluation = group.evaluate(weights)
    report = {
        **score_report(group.suite, evaluation.bits_R),
        "merge_time_s": round(evaluation.merge_time_s, 4),
        "score_time_s": round(evaluation.score_time_s, 4),
    }
    if group.kind == "trained":
        report |= {"train_time_s": round(evaluation.train_time_s, 1), "num_tokens": evaluation.num_tokens}
    return report


def _measured(space: SearchSpace, choice: Choice, group: Proxies, noise: Noise) -> dict[str, Any]:
    """The choice's own proxy, and those of the baselines against it, as fields of `Facts`; on rank 0."""
    logger.info("search: scoring the mixture's own proxy and the baselines")
    chosen_R = group.evaluate(choice.merge_weights).bits_R
    capabilities = score_report(group.suite, chosen_R)["capabilities"]
    predictor_std = _predictor_std(choice, group.kind, noise)
    baselines = {}
    for name, shares in space.baselines.items():
        bits_R = group.evaluate(space.blend.merge_weights_for(shares)[0]).bits_R
        measured = score_report(group.suite, bits_R)["capabilities"]
        baselines[name] = {
            "measured": measured,
            "macro": macro(measured),
            "chosen_minus_this": combined(compare(group.suite, chosen_R, bits_R), noise.seeds_std, predictor_std),
        }
    return {"measured": capabilities, "measured_macro": macro(capabilities), "baselines": baselines}


def _predictor_std(choice: Choice, kind: str, noise: Noise) -> float | None:
    """How far a macro score is from what proxies say: as the references show it, else out of fold; None: unknown.

    What references show holds the noise of their training too, which is counted by itself where it is known.
    """
    shown = noise.proxy_std.get(kind)
    if shown is not None:
        return float(np.sqrt(max(0.0, shown**2 - (noise.seeds_std or 0.0) ** 2)))
    errors = [value["cv_rmse"] for value in choice.predicted.values()]
    known = [error for error in errors if error is not None]
    return float(np.mean(known)) if known and len(known) == len(errors) else None
