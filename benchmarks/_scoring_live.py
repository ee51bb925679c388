"""On every rank: what scoring a proxy costs, in parts, beside the bare forward pass. Started by scoring.py.

_scoring_live.py RUN TENSOR REPEATS
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import load_resolved
from nemo_demix.prepared import PreparedRun
from nemo_demix.runtime.ranks import start_ranks, stop_ranks
from nemo_demix.scoring.batches import plan_batches
from nemo_demix.scoring.live import token_scores
from nemo_demix.scoring.suite import Request
from nemo_demix.search.proxies.base import LiveModel
from nemo_demix.search.proxies.merged import ProxyMerger


def main() -> None:
    run, tensor, repeats = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    config = load_resolved(run / "config.yaml")
    config.runs_dir = str(run.parent)
    config.parallel.tensor = tensor
    config.suite.cache = False  # every answer is asked for
    manifest = DataManifest.load(run / "datasets" / "manifest.json")
    ranks = start_ranks(config.parallel, config.backend)
    prepared = PreparedRun(config, manifest)
    components = prepared.components
    live = LiveModel(prepared, ranks)
    scorer = live.scorer(None)
    proxies = ProxyMerger(prepared, live)
    mixtures = np.random.default_rng(0).dirichlet(np.ones(len(components)), repeats)
    weights = [dict(zip([job.name for job in components], row.tolist(), strict=True)) for row in mixtures]
    proxies.announce(weights)
    proxies.evaluate(weights[0], scorer)  # warm
    vocab_size = manifest.tokenizer["vocab_size"]
    requests = scorer.suite.requests
    plan = scorer.plan(live.model)
    alone = plan_batches([whole(request) for request in requests], config.suite.batch_tokens, share=False)
    width = round(plan.num_tokens / sum(len(batch.tokens_BS) for batch in plan.batches))
    rows = []
    for place in range(repeats):
        started = time.perf_counter()
        found = proxies.evaluate(weights[place], scorer)
        rows.append(
            {
                "proxy_s": time.perf_counter() - started,
                "merge_s": found.merge_time_s,
                "score_s": found.score_time_s,
                "bare_s": timed(lambda: bare(live.model, plan.num_tokens, width, config.suite.batch_tokens)),
                "every_logit_s": timed(lambda: token_scores(live.model, alone, vocab_size)),
            }
        )
    if ranks.is_main:
        facts = {
            "num_requests": len(requests),
            "num_tokens": plan.num_tokens,
            "num_padded": plan.num_padded,
            "num_separate": plan.num_separate,
            "num_scored": int(plan.offsets_R[-1]),
            "bare_width": width,
        }
        print(json.dumps({"facts": facts, "rows": rows, "bare_tokens_s": rate(rows, facts)}), flush=True)
    stop_ranks()


def whole(request: Request) -> Request:
    """The same tokens with every one of them scored: what a scorer does that knows no better."""
    return Request(request.score_name, request.tokens, 1, request.num_bytes)


def timed(action: Callable[[], Any]) -> float:
    """Seconds."""
    settle()
    started = time.perf_counter()
    action()
    settle()
    return time.perf_counter() - started


def settle() -> None:
    """Wait for the GPU, where there is one, and for all ranks."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    torch.distributed.barrier()


@torch.no_grad()
def bare(model: torch.nn.Module, num_tokens: int, width: int, batch_tokens: int) -> None:
    """The model's own forward pass with all its logits, over dense batches of as many tokens in all."""
    left = num_tokens // width
    device = next(model.parameters()).device
    while left:
        rows = min(left, max(1, batch_tokens // width))
        tokens = torch.zeros((rows, width), dtype=torch.int64, device=device)
        model(tokens, torch.arange(width, device=device).expand_as(tokens), None)
        left -= rows


def rate(rows: list[dict[str, float]], facts: dict[str, int]) -> float:
    """Tokens a second of the bare forward pass."""
    return facts["num_tokens"] // facts["bare_width"] * facts["bare_width"] / median(row["bare_s"] for row in rows)


main()
