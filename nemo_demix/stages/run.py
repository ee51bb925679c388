"""`run`: all stages in order; each skips what is done."""

import logging
import time
from collections.abc import Callable

from nemo_demix.artifacts import write_json
from nemo_demix.config import DemixConfig
from nemo_demix.datasets.prepare import prepare
from nemo_demix.stages.final import final_stage
from nemo_demix.stages.models import load_manifest, train_all_components
from nemo_demix.stages.search import search_stage

logger = logging.getLogger(__name__)


def run_stages(config: DemixConfig) -> None:
    """From text to a final model. Wall times of this call go to `timing.json`."""
    stages: dict[str, Callable[[], object]] = {
        "prepare": lambda: prepare(config),
        "train": lambda: train_all_components(config, load_manifest(config)),
        "search": lambda: search_stage(config),
        "final": lambda: final_stage(config),
    }
    seconds = {}
    for name, stage in stages.items():
        started = time.monotonic()
        logger.info("== %s", name)
        stage()
        seconds[name] = round(time.monotonic() - started, 1)
        write_json(config.run_dir / "timing.json", seconds)
    logger.info("wall time: %s", ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items()))
