"""The run's own entry in TensorBoard and Weights & Biases: proxies' scores, the chosen mixture, the page."""

import re

from nemo_demix.artifacts import read_json
from nemo_demix.config import DemixConfig
from nemo_demix.runtime.trackers import open_trackers
from nemo_demix.search.proxy_row import read_rows
from nemo_demix.search.space import search_folder

NAME = "run"


def track_run(config: DemixConfig) -> None:
    """Log what is there; nothing where nothing is asked for.

    A proxy is a step: `proxy/<capability>` in the capability's unit. `share/<dataset>` is the chosen mixture.
    """
    trackers = open_trackers(config, NAME)
    if not trackers:
        return
    mixture = search_folder(config) / "mixture.json"
    page = config.run_dir / "report.html"
    scored = [row for row in read_rows(search_folder(config) / "scores.jsonl") if row.is_ok]
    shares = read_json(mixture)["data_shares"] if mixture.exists() else None
    artifact = f"report-{re.sub('[^A-Za-z0-9_.-]', '_', config.name)}"
    try:
        for tracker in trackers:
            for step, row in enumerate(scored):
                tracker.log({f"proxy/{name}": one.score for name, one in row.capabilities.items()}, step)
            if shares is not None:
                tracker.log({f"share/{name}": share for name, share in shares.items()}, len(scored))
            tracker.add(artifact, shares, [path for path in (page, mixture) if path.exists()])
    finally:
        for tracker in trackers:
            tracker.close()
