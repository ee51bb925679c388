"""On every rank: a checkpoint's answers to a suite's tasks, and how long each kind takes. Started by scoring.py.

_scoring_nine.py RUN CHECKPOINT TENSOR OUTPUT
"""

import json
import sys
import time
from pathlib import Path

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import load_resolved
from nemo_demix.runtime.model import build_model, load_checkpoint
from nemo_demix.runtime.ranks import start_ranks, stop_ranks
from nemo_demix.scoring.answers import answer_requests
from nemo_demix.scoring.harness import TaskSet
from nemo_demix.scoring.requests import Encoding, encode_requests
from nemo_demix.tokenizer import load_tokenizer


def main() -> None:
    run, checkpoint, tensor, output = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    config = load_resolved(run / "config.yaml")
    config.parallel.tensor = tensor
    manifest = DataManifest.load(run / "datasets" / "manifest.json")
    ranks = start_ranks(config.parallel, config.backend)
    model = build_model(config, manifest)
    load_checkpoint(model, checkpoint)
    suite, tokenizer = config.suite, load_tokenizer(manifest.tokenizer)
    seconds = {}
    started = time.perf_counter()
    tasks = TaskSet.load(suite, manifest, None)
    seconds["build"] = time.perf_counter() - started
    encoding = Encoding(tokenizer, suite.max_length, suite.add_bos_token, suite.seed)
    answers = {}
    for kind, instances in tasks.instances.items():
        started = time.perf_counter()
        encoded = encode_requests({kind: instances}, encoding)
        seconds[f"{kind}: encode"] = time.perf_counter() - started
        started = time.perf_counter()
        found = answer_requests(model, encoded, tokenizer, suite.batch_tokens, suite.generation_batch)
        answers[kind] = found[kind]
        seconds[kind] = time.perf_counter() - started
    if ranks.is_main:
        started = time.perf_counter()
        tasks.results(answers)
        seconds["metrics"] = time.perf_counter() - started
        output.write_text(json.dumps(answers))
        print(json.dumps({name: round(value, 1) for name, value in seconds.items()}), flush=True)
    stop_ranks()


main()
