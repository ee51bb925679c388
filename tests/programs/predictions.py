"""Open prediction proxies of a run, merged by `merge.method`: {"error": the user's mistake, or nothing}.

predictions.py RUN [METHOD]
"""

import json
import sys
from pathlib import Path

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import load_resolved
from nemo_demix.errors import DemixError
from nemo_demix.runtime.ranks import start_ranks, stop_ranks
from nemo_demix.search.proxies import open_proxies
from nemo_demix.training.jobs import component_jobs


def main() -> None:
    run = Path(sys.argv[1])
    config = load_resolved(run / "config.yaml")
    config.runs_dir = str(run.parent)
    config.parallel.tensor = 1
    manifest = DataManifest.load(run / "datasets" / "manifest.json")
    ranks = start_ranks(config.parallel)
    error = ""
    try:
        proxies = open_proxies(config, manifest, component_jobs(config, manifest), ranks, ("predictions",))
        proxies["predictions"].close()
    except DemixError as found:
        error = str(found)
    print(json.dumps({"error": error}), flush=True)
    stop_ranks()


if __name__ == "__main__":
    main()
