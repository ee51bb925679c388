"""`score`: checkpoints, or mixtures of the components, by the run's suite."""

import logging
from pathlib import Path
from typing import Any

from nemo_demix.checkpoints.saved import checkpoint_fingerprint
from nemo_demix.checkpoints.store import checkpoint_path
from nemo_demix.config import DemixConfig
from nemo_demix.mixture import load_mixtures
from nemo_demix.prepared import PreparedRun
from nemo_demix.ranks.groups import RankGroups
from nemo_demix.ranks.leader import launch
from nemo_demix.scoring.store import ScoreTarget
from nemo_demix.search.search import run_mixtures
from nemo_demix.stages.external import add_external_scores
from nemo_demix.training.jobs import TrainJob, load_model

logger = logging.getLogger(__name__)


def score_stage(config: DemixConfig) -> None:
    """Score one checkpoint, a file of mixtures, or (given neither) the base and the components."""
    run = PreparedRun.open(config)
    if config.score.mixtures is not None:
        mixtures = load_mixtures(Path(config.score.mixtures), [job.name for job in run.components])
        for job in run.components:
            load_model(job)
        kind = "predictions" if config.search.proxy == "predictions" else "merge"
        with RankGroups.of_proxies(config, "score") as groups:
            run_mixtures(run, mixtures, kind, groups)
        return
    if config.score.checkpoint is not None:
        path = checkpoint_path(config.score.checkpoint)
        targets = [ScoreTarget(config.score.name or path.name, path, checkpoint_fingerprint(path))]
    else:
        targets = [score_target(job) for job in (run.base, *run.components)]
    todo = targets_to_score(run, targets)
    if all(target.is_done(config, run.manifest) for target in targets):
        logger.info("score: done already")
        return
    if todo:
        launch(config, "score", {"task": "score", "targets": todo})
    add_external_scores(run, targets)


def score_target(job: TrainJob) -> ScoreTarget:
    """Return a trained model as something to score."""
    return ScoreTarget(f"{job.role}_{job.name}", job.checkpoint, job.fingerprint)


def targets_to_score(run: PreparedRun, targets: list[ScoreTarget]) -> list[dict[str, Any]]:
    """Return the targets that ranks have still to score, as a task's plain values; `force=true` forgets their scores
    first.
    """
    if run.config.force:
        for target in targets:
            target.forget(run.config)
    return [
        {"name": target.name, "checkpoint": str(target.checkpoint), "model_fingerprint": target.model_fingerprint}
        for target in targets
        if target.needs_ranks(run.config, run.manifest)
    ]
