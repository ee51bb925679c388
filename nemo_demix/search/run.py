"""The search stage on its ranks: rank 0 runs the loop, the others follow; then the mixture's own merge is scored."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nemo_demix.artifacts import DataManifest, write_json
from nemo_demix.config import DemixConfig
from nemo_demix.mixture import epochs
from nemo_demix.prediction.cross_validation import cross_validate
from nemo_demix.runtime.ranks import Ranks
from nemo_demix.scoring.scores import compare, macro, score_report
from nemo_demix.search.loop import SearchResult, benchmark_columns, predict, run_loop, score_proxy
from nemo_demix.search.proxies import Evaluation, ProxyGroup
from nemo_demix.search.score_log import ScoreLog
from nemo_demix.search.space import (
    SearchSpace,
    baseline_shares,
    proxies_fingerprint,
    search_fingerprint,
    search_folder,
    search_space,
)
from nemo_demix.training.jobs import TrainJob

logger = logging.getLogger(__name__)
STRATEGY = "demix"


def run_search(config: DemixConfig, manifest: DataManifest, components: Sequence[TrainJob], ranks: Ranks) -> None:
    """Search, and write `search/mixture.json`. Collective: every rank."""
    group = ProxyGroup(config, manifest, components, ranks)
    if not ranks.is_main:
        group.serve()
        return
    log = ScoreLog(search_folder(config) / "scores.jsonl", proxies_fingerprint(config, manifest, components))
    space = search_space(config, manifest)

    def evaluate(merge_weights: Mapping[str, float]) -> dict[str, Any]:
        return _report(group, group.evaluate(merge_weights))

    result = run_loop(config.search, space, config.seed, log, evaluate, group.announce)
    logger.info("search: scoring the mixture's own merge and the baselines")
    record = _mixture_record(config, manifest, space, result, group)
    record["fingerprint"] = search_fingerprint(config, manifest, components)
    write_json(search_folder(config) / "mixture.json", record)
    group.close()


def run_mixtures(
    config: DemixConfig,
    manifest: DataManifest,
    components: Sequence[TrainJob],
    mixtures: Mapping[str, dict[str, float]],
    ranks: Ranks,
) -> None:
    """Score merged proxies of given mixtures into `scores/proxies.jsonl`. Collective: every rank."""
    group = ProxyGroup(config, manifest, components, ranks)
    if not ranks.is_main:
        group.serve()
        return
    log = ScoreLog(config.run_dir / "scores" / "proxies.jsonl", proxies_fingerprint(config, manifest, components))
    group.announce([dict(mixture) for mixture in mixtures.values() if log.find(dict(mixture)) is None])
    for name, merge_weights in mixtures.items():
        row = score_proxy(log, lambda weights: _report(group, group.evaluate(weights)), None, name, dict(merge_weights))
        if row["status"] == "OK":
            average = float(np.mean([score["score"] for score in row["capabilities"].values()]))
            logger.info("%s: %.4f bits/byte, macro over capabilities", name, average)
    group.close()


def _report(group: ProxyGroup, evaluation: Evaluation) -> dict[str, Any]:
    return {
        **score_report(group.suite, evaluation.bits_R),
        "merge_time_s": round(evaluation.merge_time_s, 4),
        "score_time_s": round(evaluation.score_time_s, 4),
    }


def _mixture_record(
    config: DemixConfig, manifest: DataManifest, space: SearchSpace, result: SearchResult, group: ProxyGroup
) -> dict[str, Any]:
    """`mixture.json`: only what the seed decides, so that two runs with one seed write the same bytes."""
    checks = cross_validate(
        config.search.predictor,
        np.array([space.as_array(row["merge_weights"]) for row in result.rows]),
        benchmark_columns(space, result.rows),
        space.capabilities,
        config.seed,
    )
    shares = space.blend.data_shares(result.merge_weights)
    tokens = {name: record.num_train_tokens for name, record in manifest.datasets.items()}
    chosen_R = group.evaluate(result.merge_weights).bits_R
    measured = score_report(group.suite, chosen_R)["capabilities"]
    baselines = {
        name: _baseline(config, space, result, group, wanted, chosen_R)
        for name, wanted in baseline_shares(config, manifest).items()
    }
    return {
        "strategy": STRATEGY,
        "objective": config.search.objective,
        "seed": config.seed,
        "iterations": list(config.search.iterations),
        "num_proxies": len(result.rows),
        "num_failed": result.num_failed,
        "merge_weights": result.merge_weights,
        "data_shares": shares,
        "epochs": epochs(shares, config.final.num_tokens, tokens),
        "predicted": {
            name: {"score": score, "std": checks.capability_rmse[name]} for name, score in result.predicted.items()
        },
        "measured": measured,
        "measured_macro": macro(measured),
        "cross_validation": checks,
        "baselines": baselines,
        "verdict": baselines["proportional"]["chosen_minus_this"].verdict,
    }


def _baseline(
    config: DemixConfig,
    space: SearchSpace,
    result: SearchResult,
    group: ProxyGroup,
    wanted: dict[str, float],
    chosen_R: np.ndarray,
) -> dict[str, Any]:
    """The nearest merge to a baseline's data shares, predicted, measured, and against the chosen mixture's merge."""
    weights, distance = space.blend.merge_weights_for(wanted)
    bits_R = group.evaluate(weights).bits_R
    measured = score_report(group.suite, bits_R)["capabilities"]
    return {
        "data_shares": wanted,
        "merge_weights": weights,
        "unreachable_share": distance / 2,  # of the data: what no merge of these components can stand for
        "predicted": predict(config.search, space, result.rows, weights, config.seed),
        "measured": measured,
        "macro": macro(measured),
        "chosen_minus_this": compare(group.suite, chosen_R, bits_R),
    }
