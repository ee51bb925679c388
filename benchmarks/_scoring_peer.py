"""lm-eval's own `hf` model on an exported checkpoint, given the same requests as our scorer was. Started by scoring.py.

_scoring_peer.py RUN HF_FOLDER OUR_ANSWERS OUTPUT [DEVICE DTYPE]
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from lm_eval.models.huggingface import HFLM

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import load_resolved
from nemo_demix.scoring.harness import TaskSet
from nemo_demix.scoring.items import score_of


def main() -> None:
    run, folder, answers, output = map(Path, sys.argv[1:5])
    device, dtype = sys.argv[5:7] or ("cpu", "float32")
    config = load_resolved(run / "config.yaml").suite
    tasks = TaskSet.load(config, DataManifest.load(run / "datasets" / "manifest.json"), None)
    ours = json.loads(answers.read_text())
    lm = HFLM(
        pretrained=str(folder), dtype=dtype, device=device, batch_size=32, max_length=config.max_length,
        add_bos_token=config.add_bos_token,
    )  # fmt: skip
    theirs, seconds = {}, {}
    for kind, instances in tasks.instances.items():
        started = time.perf_counter()
        theirs[kind] = getattr(lm, kind)(instances, disable_tqdm=True)
        seconds[kind] = round(time.perf_counter() - started, 1)
    result = {"seconds": seconds, "requests": {kind: len(rows) for kind, rows in theirs.items()}}
    if "loglikelihood" in theirs:
        our, their = (np.array([row[0] for row in rows["loglikelihood"]]) for rows in (ours, theirs))
        result["max_rel_diff"] = float(np.max(np.abs(our / their - 1)))
        result["greedy_differ"] = sum(
            bool(one[1]) != bool(two[1])
            for one, two in zip(ours["loglikelihood"], theirs["loglikelihood"], strict=True)
        )
    if "generate_until" in theirs:
        pairs = zip(ours["generate_until"], theirs["generate_until"], strict=True)
        result["texts_differ"] = sum(one != two for one, two in pairs)
    scores = {}
    for who, rows in (("ours", ours), ("hf", theirs)):
        for name, items in tasks.results(rows).items.items():
            found = score_of(items)
            scores.setdefault(name, {"metric": items.metric, "chance": found.chance, "num_items": found.num_items})
            scores[name][who], scores[name][f"{who}_stderr"] = found.score, found.stderr
    output.write_text(json.dumps(result | {"scores": scores}))


main()
