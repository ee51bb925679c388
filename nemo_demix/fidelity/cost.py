"""The cost ledger: what the run cost by stage, and what the same answer would cost with proxies that are trained."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nemo_demix.artifacts import ModelRecord, load_record, read_json
from nemo_demix.config import DemixConfig
from nemo_demix.fidelity.record import load_fidelity
from nemo_demix.prepared import PreparedRun
from nemo_demix.runtime.ranks import world_size
from nemo_demix.search.layout import search_groups
from nemo_demix.search.proxy_row import ProxyRow, read_rows
from nemo_demix.search.space import search_folder
from nemo_demix.search.strategies import proxy_plan
from nemo_demix.training.jobs import TrainJob, load_model, model_folder

GROWTH = (3, 7, 15, 30, 50)  # numbers of candidate datasets
PROXIES_PER_DATASET = 16  # the paper's 112 for 7
Stages = dict[str, dict[str, Any]]


def cost_ledger(run: PreparedRun, final: Sequence[TrainJob]) -> dict[str, Any]:
    """Return tokens and device-seconds of every stage, and of the same search over trained proxies.

    What was not done (a strategy without components, no `verify`) is left out of the stages, and what follows from it
    is null. Device-seconds are those of training, merging and scoring proxies, without start-up; an external command
    counts as one device, as nobody here knows how many it uses.
    """
    config = run.config
    ranks, num_groups = world_size(config.parallel), search_groups(config)
    groups = {
        "base": _done([run.base]),
        "components": _done(run.components),
        "references": _references(config),
        "final": _done(final),
    }
    done = [row for row in read_rows(search_folder(config) / "scores.jsonl") if row.is_ok]
    stages = spent(groups, done, ranks, ranks // num_groups)
    merge_s = sum(row.merge_time_s or 0.0 for row in done)
    score_s = sum(row.score_time_s or 0.0 for row in done)
    total_s = sum(row.wall_time_s for row in done)
    fidelity = load_fidelity(run)
    return {
        "stages": stages,
        "merge_share_of_search": merge_s / (merge_s + score_s) if merge_s + score_s else None,
        "proxies_per_minute": 60 * num_groups * len(done) / total_s if total_s else None,
        **_against_training(stages, len(done), ranks // num_groups * merge_s, ranks // num_groups * score_s),
        "same_answer_by_trained_proxies": _same_answer(config, fidelity),
        "growth": _growth(stages, config, fidelity),
    }


def spent(
    groups: Mapping[str, Sequence[ModelRecord]], rows: Sequence[ProxyRow], ranks: int, ranks_of_proxy: int
) -> Stages:
    """Return tokens and device-seconds of every stage that has done anything.

    Args:
        groups: Finished models, by stage.
        rows: Rows of the proxies that were scored.
        ranks: How many ranks each model kept busy.
        ranks_of_proxy: How many each proxy did.
    """
    stages = {name: _trained(records, ranks) for name, records in groups.items() if records}
    if rows:
        stages["search"] = {
            "num_proxies": len(rows),
            "num_tokens": sum(row.num_tokens or 0 for row in rows),
            "device_s": round(sum(ranks_of_proxy * row.ranks_time_s + (row.external_time_s or 0.0) for row in rows), 1),
        }
    return stages


def _done(jobs: Sequence[TrainJob]) -> list[ModelRecord]:
    return [load_model(job) for job in jobs if job.is_done]


def _references(config: DemixConfig) -> list[ModelRecord]:
    """Return what `verify` trained, whatever its settings are by now: it was paid for."""
    path = config.run_dir / "verify" / "references.json"
    names = [reference["name"] for reference in read_json(path)] if path.exists() else []
    records = [model_folder(config, "reference", name) / "record.json" for name in names]
    return [load_record(record, ModelRecord) for record in records if record.exists()]


def _trained(records: Sequence[ModelRecord], ranks: int) -> dict[str, Any]:
    return {
        "num_models": len(records),
        "num_tokens": sum(record.num_tokens for record in records),
        "device_s": round(ranks * sum(record.wall_time_s for record in records), 1),
    }


def _against_training(stages: Stages, num_proxies: int, merge_s: float, score_s: float) -> dict[str, Any]:
    """Return the proxies of this search, had each been trained as long as the mean component, and scored once."""
    components = stages.get("components")
    if not components or not num_proxies:
        return {"if_proxies_were_trained": None, "break_even_proxies": None, "one_scoring_in_tokens": None}
    proxy_tokens = components["num_tokens"] / components["num_models"]
    proxy_s = components["device_s"] / components["num_models"]
    score_each_s, merge_each_s = score_s / num_proxies, merge_s / num_proxies
    return {
        "if_proxies_were_trained": {
            "num_tokens": int(num_proxies * proxy_tokens),
            "device_s": round(num_proxies * (proxy_s + score_each_s), 1),
        },
        "break_even_proxies": math.ceil(components["device_s"] / (proxy_s - merge_each_s))
        if proxy_s > merge_each_s
        else None,
        "one_scoring_in_tokens": round(score_each_s * proxy_tokens / proxy_s) if proxy_s else None,
    }


def _same_answer(config: DemixConfig, fidelity: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what RegMix or CLIMB would pay for proxies that order mixtures as well as ours, as `verify`
    measured it.
    """
    if fidelity is None:
        return {"num_tokens": None, "ratio": None, "reason": "not measured: run `nemo-demix verify`"}
    kind = "predictions" if proxy_plan(config).chosen_by == "predictions" else "merge"
    scores = fidelity.get("benchmarks") or fidelity["heldout"]
    match = scores["tokens_to_match"].get(kind)
    if match is None:
        return {"num_tokens": None, "ratio": None, "reason": f"`verify` has not looked at {kind} proxies"}
    each = match["tokens_each"]
    return {"num_tokens": None if each is None else round(each * match["num_proxies"]), **match}


def _growth(stages: Stages, config: DemixConfig, fidelity: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return tokens as candidate datasets grow in number: one component is added for each, or 16 trained proxies.

    A trained proxy has the tokens that match our rho where `verify` found them, else those of a component.
    """
    components = stages.get("components")
    if not components or not components["num_tokens"]:
        return None
    component_tokens = components["num_tokens"] / components["num_models"]
    matched = _same_answer(config, fidelity).get("tokens_each")
    each = component_tokens if matched is None else matched
    return {
        "tokens_of_a_component": round(component_tokens),
        "tokens_of_a_trained_proxy": round(each),
        "measured": matched is not None,
        "rows": [
            {
                "num_datasets": number,
                "num_proxies": PROXIES_PER_DATASET * number,
                "component_tokens": round(number * component_tokens),
                "trained_proxy_tokens": round(PROXIES_PER_DATASET * number * each),
            }
            for number in GROWTH
        ],
    }
