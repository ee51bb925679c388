"""Score the components of a run for prediction proxies, where they are not scored yet.

predictions.py RUN
"""

import json
import sys
from pathlib import Path

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import load_resolved
from nemo_demix.prepared import PreparedRun
from nemo_demix.runtime.ranks import start_ranks, stop_ranks
from nemo_demix.search.proxies.base import LiveModel
from nemo_demix.search.proxies.predictions import score_component


def main() -> None:
    run = Path(sys.argv[1])
    config = load_resolved(run / "config.yaml")
    config.runs_dir = str(run.parent)
    config.parallel.tensor = 1
    prepared = PreparedRun(config, DataManifest.load(run / "datasets" / "manifest.json"))
    ranks = start_ranks(config.parallel)
    live = LiveModel(prepared, ranks)
    for job in prepared.components:
        score_component(prepared, live, None, job.name)
    print(json.dumps({}), flush=True)
    stop_ranks()


if __name__ == "__main__":
    main()
