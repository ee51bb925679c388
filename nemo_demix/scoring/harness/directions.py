"""Which way a task's score is better: known before a model is run, but not without building the task."""

from collections.abc import Collection

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import SuiteConfig
from nemo_demix.scoring.harness.identity import selected


def task_directions(
    config: SuiteConfig, manifest: DataManifest, uses: Collection[str] | None = None
) -> dict[str, bool]:
    """Return whether higher is better, by score name.

    Raises:
        ConfigError, DatasetError: as `TaskSet.load`.
    """
    if not selected(config, uses):
        return {}
    from nemo_demix.scoring.harness.task_set import TaskSet

    return {f"task/{name}": better for name, better in TaskSet.load(config, manifest, uses).directions.items()}
