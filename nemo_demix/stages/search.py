"""`search`: from component models to a mixture."""

import logging

from nemo_demix.artifacts import is_done
from nemo_demix.config import DemixConfig
from nemo_demix.errors import ConfigError
from nemo_demix.launch.local import launch
from nemo_demix.search.objective import OBJECTIVES
from nemo_demix.search.space import search_fingerprint, search_folder
from nemo_demix.stages.models import load_manifest
from nemo_demix.training.jobs import component_jobs, load_model

logger = logging.getLogger(__name__)


def search_stage(config: DemixConfig) -> None:
    """Search unless the mixture of exactly this configuration is there.

    Proxies scored before are reused, by their merge weights; `force=true` scores them again.
    """
    if config.search.objective not in OBJECTIVES:
        raise ConfigError(f"search.objective={config.search.objective}: expected one of {', '.join(OBJECTIVES)}")
    manifest = load_manifest(config)
    components = component_jobs(config, manifest)
    for job in components:
        load_model(job)
    folder = search_folder(config)
    if config.force and (folder / "scores.jsonl").exists():
        kept = folder / f"scores.{len(list(folder.glob('scores.*.jsonl'))) + 1}.jsonl"
        (folder / "scores.jsonl").rename(kept)
        logger.info("search: earlier scores kept as %s", kept)
    if not config.force and is_done(folder / "mixture.json", search_fingerprint(config, manifest, components)):
        logger.info("search: done already")
        return
    launch(config, "search", {"task": "search"})
