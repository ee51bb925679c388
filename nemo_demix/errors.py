"""Errors a user can cause and can fix. Each message names what was found, what was expected and what to do."""


class DemixError(Exception):
    """Root of the user's mistakes: reported as one line, exit code 2."""


class ConfigError(DemixError):
    """A configuration value is missing, unknown or impossible."""


class DatasetError(DemixError):
    """A text source, a tokenizer or a benchmark file cannot be used."""


class CheckpointError(DemixError):
    """A checkpoint is absent, incomplete, unsafe or of another model."""


class ScoreError(DemixError):
    """A model cannot be scored on the suite."""


class MixtureError(DemixError):
    """A mixture, a blend matrix or a constraint is not valid."""


class StackError(DemixError):
    """An installed package is missing, an impostor, or outside the tested range."""


class ClusterError(DemixError):
    """Slurm refuses a job or does not answer, or a site file lacks something."""
