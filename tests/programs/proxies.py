"""On every rank: all kinds of proxies over one live model, and what their scores have to agree on.

    proxies.py RUN TENSOR PIPELINE DATA [train]

RUN is changed: predictions are stored, and with `train` proxies are trained, in it.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import load_resolved
from nemo_demix.constraints import Constraints
from nemo_demix.errors import ScoreError
from nemo_demix.prepared import PreparedRun
from nemo_demix.runtime.model import load_checkpoint
from nemo_demix.runtime.ranks import start_ranks, stop_ranks
from nemo_demix.scoring.batches import gold_offsets
from nemo_demix.scoring.scorer import Scorer
from nemo_demix.scoring.scores import likelihood_items, suite_scores
from nemo_demix.scoring.suite import Suite
from nemo_demix.search.proxies import Evaluation, PredictionProxies
from nemo_demix.search.proxies.base import LiveModel
from nemo_demix.search.proxies.merged import ProxyMerger
from nemo_demix.search.proxies.predictions import score_component
from nemo_demix.search.proxies.trained import ProxyTrainer
from nemo_demix.training.jobs import blend_matrix


def main() -> None:
    run = Path(sys.argv[1])
    config = load_resolved(run / "config.yaml")
    config.runs_dir = str(run.parent)
    config.parallel.tensor, config.parallel.pipeline, config.parallel.data = map(int, sys.argv[2:5])
    config.search.trained.num_tokens = 3 * config.train.global_batch_size * config.train.seq_length
    prepared = PreparedRun(config, DataManifest.load(run / "datasets" / "manifest.json"))
    ranks = start_ranks(config.parallel)
    found: dict[str, Any] = {}
    live = LiveModel(prepared, ranks)
    scorer = live.scorer(None)
    suite = scorer.suite
    for job in prepared.components:
        score_component(prepared, live, None, job.name)
    torch.distributed.barrier()  # rank 0 has written what all read now
    predictions = PredictionProxies(prepared, suite, None)
    merged = ProxyMerger(prepared, live)
    load_checkpoint(live.model, prepared.components[-1].checkpoint)
    logprobs_T = scorer.gold_token_logprobs(live.model)
    bits_R = scorer.bits(live.model)
    offsets_R = gold_offsets(suite.requests)
    summed_R = np.add.reduceat(-logprobs_T.astype(np.float64), offsets_R[:-1]) / np.log(2.0)
    found = {
        "num_tokens": len(logprobs_T),
        "sum_of_tokens": float(np.abs(summed_R - bits_R).max()),
        **compare(predictions, merged, scorer),
        "optimum": optimum(predictions, blend_matrix(config)),
    }
    del merged, predictions
    if "train" in sys.argv[5:]:
        for key, max_lr, ask in (("diverged", 1e30, failure), ("trained", 0.0, train)):
            config.search.trained.max_lr = max_lr
            found[key] = ask(ProxyTrainer(prepared, 4, LiveModel(prepared, ranks)), scorer)
    if ranks.is_main:
        print(json.dumps(found), flush=True)
    stop_ranks()


def compare(predictions: PredictionProxies, merged: ProxyMerger, scorer: Scorer) -> dict[str, Any]:
    """One-hot proxies of both kinds, and a mixture scored alone and among many."""
    one_hot = 0.0
    for name in predictions.names:
        mixed_R, merged_R = bits(predictions, {name: 1.0}), bits_of(merged.evaluate({name: 1.0}, scorer), scorer.suite)
        one_hot = max(one_hot, float(np.abs(mixed_R - merged_R).max()))
    weights_MC = np.random.default_rng(0).dirichlet(np.ones(len(predictions.names)), 300)
    groups = scorer.suite.score_names
    scores = predictions.scores_MB(weights_MC, groups)
    alone = bits(predictions, dict(zip(predictions.names, weights_MC[0], strict=True)))
    expected = suite_scores(likelihood_items(scorer.suite, alone))
    try:
        predictions.scores_MB(weights_MC, ["code/pass@1"])
        refused = ""
    except ScoreError as error:
        refused = str(error)
    return {
        "one_hot": one_hot,
        "mixture_R": alone.tolist(),
        "batch_and_single": max(abs(scores[group][0] - expected[group].score) for group in groups),
        "refused": refused,
    }


def bits(predictions: PredictionProxies, weights: dict[str, float]) -> np.ndarray:
    """Bits of every request under one mixture."""
    ((_, found),) = predictions.evaluate([weights])
    assert isinstance(found, Evaluation)
    return bits_of(found, predictions.suite)


def bits_of(evaluation: Evaluation, suite: Suite) -> np.ndarray:
    """Bits of every request, from the items of its scores, which rank 0 alone has."""
    bits_R = np.zeros(len(suite.requests))
    if torch.distributed.get_rank() == 0:
        for group, (rows, sizes) in suite.members.items():
            bits_R[rows] = evaluation.result.items[group].values_I * sizes
    torch.distributed.broadcast(torch.from_numpy(bits_R), src=0)
    return bits_R


def optimum(predictions: PredictionProxies, blend: Any) -> dict[str, Any]:
    """The exact optimum of the plain mean of scores, and the best of many mixtures."""
    groups = predictions.suite.score_names
    objective = dict.fromkeys(groups, 1 / len(groups))
    weights_C, value, gap = predictions.optimum(Constraints.none(blend), objective)
    weights_MC = np.vstack([weights_C, np.random.default_rng(1).dirichlet(np.full(len(weights_C), 0.5), 3000)])
    values_M = np.mean(list(predictions.scores_MB(weights_MC, groups).values()), axis=0)
    return {"value": value, "gap": gap, "scored": float(values_M[0]), "best_drawn": float(values_M[1:].min())}


def failure(proxies: ProxyTrainer, scorer: Scorer) -> str:
    """Why a proxy failed."""
    try:
        proxies.evaluate({"general": 1.0}, scorer)
    except ScoreError as error:
        return str(error)
    return ""


def train(proxies: ProxyTrainer, scorer: Scorer) -> dict[str, Any]:
    """Two proxies announced together, one of them scored twice."""
    one, two = {"general": 0.5, "math_1": 0.5}, {"general": 0.25, "code_1": 0.75}
    proxies.announce([one, two])
    first, again, other = (proxies.evaluate(shares, scorer) for shares in (one, {**one, "code_2": 0.0}, two))
    return {
        "num_tokens": first.num_tokens,
        "train_time_s": first.train_time_s,
        "repeats": np.array_equal(*(bits_of(one, scorer.suite) for one in (first, again))),
        "differ": not np.array_equal(*(bits_of(one, scorer.suite) for one in (first, other))),
        "finite": all(bool(np.isfinite(bits_of(one, scorer.suite)).all()) for one in (first, other)),
    }


if __name__ == "__main__":
    main()
