"""`prepare`: the data on disk, and proof that the suite can be scored with it, before anything is trained."""

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import DemixConfig
from nemo_demix.datasets.prepare import prepare


def prepare_stage(config: DemixConfig) -> DataManifest:
    """Make what the other stages read, and build the suite once from it where it is more than benchmarks.

    Raises:
        ConfigError, DatasetError: as `nemo_demix.datasets.prepare.prepare`, or an external command is not described
            as one that can be run.
        ScoreError: if the suite cannot be scored: an unknown metric, a capability of two units, too long an answer.
    """
    manifest = prepare(config)
    if config.suite.tasks or config.suite.external:
        from nemo_demix.scoring.scorer import Scorer

        Scorer(config.suite, manifest, None)
    return manifest
