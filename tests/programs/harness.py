"""On every rank: tasks of lm-evaluation-harness on a live model, by our scorer; and one thing more.

harness.py RUN TENSOR PIPELINE DATA BATCH_TOKENS peer DEFINITIONS: by lm-eval's own `simple_evaluate` too
harness.py RUN TENSOR PIPELINE DATA BATCH_TOKENS kept FOLDER: some of the suite, all, and all again; answers are kept
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import DemixConfig, load_resolved
from nemo_demix.runtime.model import build_model, load_checkpoint
from nemo_demix.runtime.ranks import Ranks, start_ranks, stop_ranks
from nemo_demix.scoring.answer_store import AnswerStore
from nemo_demix.scoring.items import score_of
from nemo_demix.scoring.live_lm import LiveLM
from nemo_demix.scoring.requests import Encoding
from nemo_demix.scoring.scorer import Scorer
from nemo_demix.tokenizer import load_tokenizer


def main() -> None:
    run = Path(sys.argv[1])
    config = load_resolved(run / "config.yaml")
    config.parallel.tensor, config.parallel.pipeline, config.parallel.data = map(int, sys.argv[2:5])
    config.suite.batch_tokens = int(sys.argv[5])
    manifest = DataManifest.load(run / "datasets" / "manifest.json")
    ranks = start_ranks(config.parallel)
    model = build_model(config, manifest)
    load_checkpoint(model, run / "models/component/math_2/checkpoints/step_00000016")
    scorer = Scorer(config.suite, manifest, None)
    result = scorer.score(model, ranks.is_main)
    found: dict[str, Any] = {
        "scores": {name: score_of(items).score for name, items in result.items.items()},
        "values": {name: items.values_I.tolist() for name, items in result.items.items()},
    }
    if sys.argv[6] == "kept":
        found |= kept(config, manifest, model, ranks)
    else:
        encoding = Encoding(load_tokenizer(manifest.tokenizer), config.suite.max_length)
        found["lm_eval"], found["peer"] = (result.lm_eval or {}).get("results"), peer(LiveLM(model, encoding))
    if ranks.is_main:
        print(json.dumps(found), flush=True)
    stop_ranks()


def kept(config: DemixConfig, manifest: DataManifest, model: torch.nn.Module, ranks: Ranks) -> dict[str, Any]:
    """Scores of three calls, and how often the model had been given its weights after each."""
    store = AnswerStore(Path(sys.argv[7]))
    tasks = {name: task for name, task in config.suite.tasks.items() if name != "squares"}
    fewer = replace(config.suite, tasks=tasks, heldout_tokens=0)
    fills, scores, count = [], [], 0

    def fill() -> None:
        nonlocal count
        count += 1

    for suite in (fewer, config.suite, config.suite):
        result = Scorer(suite, manifest, None, store).score(model, ranks.is_main, "of the model", fill)
        scores.append({name: score_of(items).score for name, items in result.items.items()})
        fills.append(count)
    return {"kept": scores, "fills": fills}


def peer(lm: LiveLM) -> dict[str, Any]:
    """A user's own task by lm-eval alone."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=sys.argv[7], include_defaults=False)
    found = lm_eval.simple_evaluate(model=lm, tasks=["squares", "cubes"], task_manager=manager, bootstrap_iters=0)
    return {} if found is None else found["results"]


main()
