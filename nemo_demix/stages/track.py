"""The run's own entry in TensorBoard and Weights & Biases: proxies' scores, the chosen mixture, the page."""

import json
import re
from pathlib import Path
from typing import Any

from nemo_demix.artifacts import read_json
from nemo_demix.config import DemixConfig
from nemo_demix.runtime.trackers import close_trackers, open_trackers
from nemo_demix.search.proxy_row import read_rows
from nemo_demix.search.space import search_folder

NAME = "run"


def track_run(config: DemixConfig) -> None:
    """Log what is there; nothing where nothing is asked for.

    A proxy is a step: `proxy/<capability>` in the capability's unit. `share/<dataset>` is the chosen mixture.
    """
    loggers = open_trackers(config, NAME)
    if not loggers:
        return
    from lightning.pytorch.loggers import TensorBoardLogger

    mixture = search_folder(config) / "mixture.json"
    page = config.run_dir / "report.html"
    scored = [row for row in read_rows(search_folder(config) / "scores.jsonl") if row.is_ok]
    try:
        for step, row in enumerate(scored):
            for logger in loggers:
                logger.log_metrics({f"proxy/{name}": one.score for name, one in row.capabilities.items()}, step)
        if mixture.exists():
            shares = read_json(mixture)["data_shares"]
            for logger in loggers:
                logger.log_metrics({f"share/{name}": share for name, share in shares.items()}, len(scored))
        for logger in loggers:
            if not isinstance(logger, TensorBoardLogger):
                _add_files(logger.experiment, config.name, [path for path in (page, mixture) if path.exists()])
            elif mixture.exists():
                text = json.dumps(read_json(mixture)["data_shares"], indent=2, ensure_ascii=False)
                logger.experiment.add_text("mixture", f"```\n{text}\n```\n\nPage: {page.absolute()}")
    finally:
        close_trackers(loggers)


def _add_files(run: Any, name: str, paths: list[Path]) -> None:
    """Add the page and the mixture, as one artifact of Weights & Biases."""
    import wandb

    artifact = wandb.Artifact(f"report-{re.sub('[^A-Za-z0-9_.-]', '_', name)}", type="report")
    for path in paths:
        artifact.add_file(str(path))
    run.log_artifact(artifact)
