"""The cost ledger: what the search cost, against training a proxy for every mixture."""

import json
import math
from typing import Any

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import DemixConfig
from nemo_demix.runtime.ranks import world_size
from nemo_demix.search.space import search_folder
from nemo_demix.training.jobs import TrainJob, base_job, component_jobs, load_model


def cost_ledger(config: DemixConfig, manifest: DataManifest, final: list[TrainJob]) -> dict[str, Any]:
    """Tokens and device-seconds of every stage, and the number of proxies from which merging is cheaper.

    A trained proxy is taken to cost what the mean component cost, plus one scoring. Device-seconds exclude start-up.
    """
    ranks = world_size(config.parallel)
    components = component_jobs(config, manifest)
    groups = {"base": [base_job(config, manifest)], "components": components, "final": final}
    stages: dict[str, Any] = {}
    for stage, jobs in groups.items():
        records = [load_model(job) for job in jobs]
        stages[stage] = {
            "num_models": len(records),
            "num_tokens": sum(record.num_tokens for record in records),
            "device_s": round(ranks * sum(record.wall_time_s for record in records), 1),
        }
    rows = [json.loads(line) for line in (search_folder(config) / "scores.jsonl").read_text().splitlines()]
    done = [row for row in rows if row["status"] == "OK"]
    merge_s, score_s = sum(row["merge_time_s"] for row in done), sum(row["score_time_s"] for row in done)
    stages["search"] = {"num_proxies": len(done), "device_s": round(ranks * (merge_s + score_s), 1)}

    proxy_tokens = stages["components"]["num_tokens"] / len(components)
    proxy_s = stages["components"]["device_s"] / len(components)
    score_each_s = ranks * score_s / len(done)
    merge_each_s = ranks * merge_s / len(done)
    return {
        "stages": stages,
        "merge_share_of_search": merge_s / (merge_s + score_s),
        "proxies_per_minute": 60 * len(done) / (merge_s + score_s),
        "if_proxies_were_trained": {
            "num_tokens": int(len(done) * proxy_tokens),
            "device_s": round(len(done) * (proxy_s + score_each_s), 1),
        },
        "break_even_proxies": math.ceil(stages["components"]["device_s"] / (proxy_s - merge_each_s))
        if proxy_s > merge_each_s
        else None,
    }
