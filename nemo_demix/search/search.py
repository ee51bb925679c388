"""The whole search, in one process: groups of ranks make and score its proxies; then the mixture's own is scored."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nemo_demix.errors import ScoreError
from nemo_demix.prepared import PreparedRun
from nemo_demix.progress import doing
from nemo_demix.scoring.identity import PROXY_USES, judged_scores
from nemo_demix.scoring.items import ModelItems, is_guessed
from nemo_demix.scoring.scores import combined, compare, describe_macro, macro, score_report
from nemo_demix.search.choose import Choice
from nemo_demix.search.identity import proxy_identity, search_fingerprint
from nemo_demix.search.loop import SearchResult, run_loop, score_proxies
from nemo_demix.search.objective import OBJECTIVES
from nemo_demix.search.proxies import Evaluation, Groups, PredictionProxies, Proxies, open_proxies
from nemo_demix.search.proxy_row import ProxyRow
from nemo_demix.search.reach import edges
from nemo_demix.search.record import Facts, mixture_record, with_published
from nemo_demix.search.score_log import ScoreLog, prior_points
from nemo_demix.search.space import SearchSpace, search_folder, search_space, token_counts
from nemo_demix.search.strategies import Problem, Screen, build_strategy, proxy_plan, strategy_of
from nemo_demix.training.jobs import TrainJob

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Noise:
    """What references showed of a model's macro score; None and left out: not measured.

    Attributes:
        seeds_std: Standard deviation between data orders.
        proxy_std: Standard deviation of trained models around their proxies, by kind of proxy.
    """

    seeds_std: float | None = None
    proxy_std: dict[str, float] = field(default_factory=dict)


def run_search(run: PreparedRun, groups: Groups, noise: Noise) -> tuple[dict[str, Any], Choice]:
    """Search, and return the record of `search/mixture.json`, without `trust`, and the choice.

    Benchmarks of use=report score nothing but the chosen mixture and the baselines, when the search is over.
    """
    config, manifest = run.config, run.manifest
    strategy = strategy_of(config.search)
    plan = proxy_plan(config, noise.proxy_std)
    kind, judge_kind = plan.asked, plan.judge
    space = search_space(config, manifest, strategy.mixes)
    if OBJECTIVES[config.search.objective].is_rank and all(
        name.startswith("benchmark/") for name in space.objective_capabilities
    ):
        logger.warning(
            "search: percentile ranks give away a capability whose scores have a long tail: on the quickstart they led "
            "to a mixture .018 bits/byte worse than the token-proportional one (docs/results.md); for scores of "
            "one unit, as here, set search.objective=mean"
        )
    has_report = len(judged_scores(config.suite, manifest)) > len(judged_scores(config.suite, manifest, PROXY_USES))
    measured: dict[str, Any] = {}
    with open_proxies(run, groups, plan.kinds, PROXY_USES) as proxies:
        screen = proxies.get("predictions")
        assert screen is None or isinstance(screen, PredictionProxies)
        result, num_prior = _search(run, space, proxies[kind], screen)
        for name in guessed_by_all(result.rows):
            logger.warning(
                "search: %s: no proxy is better or worse than guessing: it adds noise, no signal; take another metric "
                "(bpb), or use=fit",
                name,
            )
        space = with_published(space, result.choice)
        if kind != "trained" and not has_report:
            measured = _measured(space, result.choice, proxies[kind], proxies[judge_kind], noise)
    if kind != "trained" and has_report:
        # Mixed predictions generate no text.
        has_all = all(name.startswith("benchmark/") for name in judged_scores(config.suite, manifest))
        judge = judge_kind if has_all else kind
        with open_proxies(run, groups, tuple({kind, judge}), None) as judged:
            measured = _measured(space, result.choice, judged[kind], judged[judge], noise)
    tokens = max((job.num_tokens for job in run.components), default=0)
    chosen_C = space.as_array(result.choice.merge_weights)
    reach = [{**edge, "component_tokens": tokens} for edge in result.choice.reach or edges(space, chosen_C, None)]
    choice = replace(result.choice, reach=reach)
    facts = Facts(
        seed=config.seed,
        fingerprint=search_fingerprint(run),
        proxy="both" if config.search.proxy == "both" else judge_kind,
        is_merge=kind != "trained",
        num_proxies=len(result.rows),
        num_failed=result.num_failed,
        num_prior=num_prior,
        component_epochs=component_epochs(run) if kind != "trained" else {},
        **measured,
    )
    return mixture_record(config.search, space, choice, facts), choice


def run_mixtures(run: PreparedRun, mixtures: Mapping[str, dict[str, float]], kind: str, groups: Groups) -> None:
    """Score proxies of given mixtures on the whole suite into `scores/proxies.jsonl`.

    Args:
        kind: merge | predictions.
    """
    identity = proxy_identity(run, kind, with_report=True)
    log = ScoreLog(run.folder / "scores" / "proxies.jsonl", identity)

    def tell(row: ProxyRow) -> None:
        if row.is_ok:
            logger.info("%s: %s", row.name, describe_macro(row.capabilities))

    with open_proxies(run, groups, (kind,), None) as proxies:
        score_proxies(log, proxies[kind], None, mixtures, tell)


def component_epochs(run: PreparedRun) -> dict[str, float]:
    """Return the most epochs that a component saw of each dataset."""

    def seen(job: TrainJob, name: str, count: int) -> float:
        shown = job.parts[name].num_tokens if name in job.parts else count
        return job.blend.get(name, 0.0) * job.num_tokens / shown

    tokens = token_counts(run.manifest)
    return {name: max(seen(job, name, count) for job in run.components) for name, count in tokens.items() if count}


def guessed_by_all(rows: Sequence[ProxyRow]) -> list[str]:
    """Return scores on which every proxy is at the level of guessing."""
    rows = [row for row in rows if row.is_ok]
    names = list(rows[0].scores) if rows else []
    return [name for name in names if all(is_guessed(row.scores[name]) for row in rows)]


def _search(run: PreparedRun, space: SearchSpace, proxies: Proxies, screen: Screen | None) -> tuple[SearchResult, int]:
    """Search, and return the result and how many earlier proxies it rests on."""
    config = run.config
    num_trained = sum(config.search.iterations) if proxies.kind == "trained" else None
    identity = proxy_identity(run, proxies.kind, num_trained)
    log = ScoreLog(search_folder(config) / "scores.jsonl", identity)
    expected = search_fingerprint(run)
    problem = Problem(config.search, space, config.seed, tuple(prior_points(search_folder(config), expected, log)))
    if problem.prior_rows:
        logger.info("search: %d earlier proxies serve as points to fit on", len(problem.prior_rows))
    result = run_loop(problem, build_strategy(problem, screen), log, proxies)
    return result, len(problem.prior_rows)


def _measured(space: SearchSpace, choice: Choice, own: Proxies, judge: Proxies, noise: Noise) -> dict[str, Any]:
    """Return the choice's own proxy, and its comparison with the baselines, as fields of `Facts`.

    Args:
        own: What `measured` is of.
        judge: What the comparisons are by: the kind of proxy that chose, where it has all scores.

    Raises:
        ScoreError: if one of these cannot be scored.
    """
    doing(logger, "search: scoring the mixture's own proxy and the baselines")
    mixtures = {name: space.blend.merge_weights_for(shares)[0] for name, shares in space.baselines.items()}
    chosen, *others = _items(judge, [choice.merge_weights, *mixtures.values()])
    predictor_std = _predictor_std(choice, judge.kind, noise)
    baselines = {}
    for name, items in zip(mixtures, others, strict=True):
        measured = score_report(judge.suite, items)["capabilities"]
        difference = compare(judge.suite, chosen, items)
        baselines[name] = {
            "proxy": judge.kind,
            "measured": measured,
            "macro": macro(measured),
            "chosen_minus_this": combined(difference, noise.seeds_std, predictor_std),
        }
    if own is not judge:
        (chosen,) = _items(own, [choice.merge_weights])
    capabilities = score_report(own.suite, chosen)["capabilities"]
    return {"measured": capabilities, "measured_macro": macro(capabilities), "baselines": baselines}


def _items(proxies: Proxies, mixtures: Sequence[Mapping[str, float]]) -> list[ModelItems]:
    """Return what the proxies of these mixtures gave, in their order."""
    found = dict(proxies.evaluate(mixtures))
    return [_scored(found[place]).result.items for place in range(len(mixtures))]


def _scored(found: Evaluation | ScoreError) -> Evaluation:
    if isinstance(found, ScoreError):
        raise found
    return found


def _predictor_std(choice: Choice, kind: str, noise: Noise) -> float | None:
    """Return how far a macro score is from what proxies say: as the references show it, else out of fold; None:
    unknown.

    What references show holds the noise of their training too, which is counted by itself where it is known.
    """
    shown = noise.proxy_std.get(kind)
    if shown is not None:
        return float(np.sqrt(max(0.0, shown**2 - (noise.seeds_std or 0.0) ** 2)))
    errors = [value["cv_rmse"] for value in choice.predicted.values()]
    known = [error for error in errors if error is not None]
    return float(np.mean(known)) if known and len(known) == len(errors) else None
