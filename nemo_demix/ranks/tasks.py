"""What ranks can be asked to do. Every function is collective: every rank calls it with the same arguments."""

from collections.abc import Callable
from typing import Any

from nemo_demix.checkpoints.store import checkpoint_path
from nemo_demix.prepared import PreparedRun
from nemo_demix.runtime.ranks import Ranks


def train(run: PreparedRun, task: dict[str, Any], ranks: Ranks) -> None:
    """Train the jobs of `task["jobs"]`: a list of (role, names)."""
    from nemo_demix.training.train import train_jobs

    for role, names in task["jobs"]:
        train_jobs(run.config, run.manifest, run.jobs(role, names), ranks)


def score(run: PreparedRun, task: dict[str, Any], ranks: Ranks) -> None:
    """Score the checkpoints of `task["targets"]`."""
    from nemo_demix.scoring.store import ScoreTarget, score_targets

    targets = [
        ScoreTarget(target["name"], checkpoint_path(target["checkpoint"]), target["model_fingerprint"])
        for target in task["targets"]
    ]
    score_targets(run.config, run.manifest, targets, ranks)


def train_and_score(run: PreparedRun, task: dict[str, Any], ranks: Ranks) -> None:
    """Train references, or the final models, then score them, in the same ranks."""
    train(run, task, ranks)
    score(run, task, ranks)


def serve(run: PreparedRun, task: dict[str, Any], ranks: Ranks) -> None:
    """Make and score proxies for a search, as one of its groups."""
    from nemo_demix.ranks.groups import StoreChannel
    from nemo_demix.search.proxies.serve import serve as serve_requests

    serve_requests(run, ranks, StoreChannel(task["group"]))


TASKS: dict[str, Callable[[PreparedRun, dict[str, Any], Ranks], None]] = {
    "train": train,
    "score": score,
    "train_and_score": train_and_score,
    "serve": serve,
}
