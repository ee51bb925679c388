"""A configuration whose data are prepared: its models, and what each of them has to be, worked out once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nemo_demix.artifacts import DataManifest, is_done, read_json
from nemo_demix.config import DemixConfig
from nemo_demix.datasets.identity import expected_fingerprint
from nemo_demix.errors import ConfigError
from nemo_demix.training.jobs import (
    TrainJob,
    base_job,
    component_jobs,
    final_jobs,
    proxy_job,
    reference_job,
    reference_jobs,
)


@dataclass(frozen=True)
class PreparedRun:
    """What a configuration asks for, with the data that `prepare` made of it. `nemo_demix.Run` is what a run has done.

    Jobs and fingerprints depend on these two alone and are worked out when they are first asked for; what is done by
    now (`TrainJob.is_done`) is looked up in the run's folder each time.

    Attributes:
        config: The configuration, with what the overrides of one stage's jobs change where it is for these.
        manifest: The tokenizer, the datasets and the benchmarks.
    """

    config: DemixConfig
    manifest: DataManifest

    @classmethod
    def open(cls, config: DemixConfig) -> "PreparedRun":
        """Read what `prepare` made of this configuration.

        Raises:
            ConfigError: if it has not run, or made something else.
        """
        found = cls.find(config)
        if found is not None:
            return found
        path = _manifest_path(config)
        stale = "was made from other sources or settings" if path.exists() else "does not exist yet"
        raise ConfigError(f"{path}: {stale}; run `nemo-demix prepare` (or `nemo-demix run`) with this recipe first")

    @classmethod
    def find(cls, config: DemixConfig) -> "PreparedRun | None":
        """Read what `prepare` made of this configuration; None where it is still to do."""
        path = _manifest_path(config)
        if not path.exists() or not is_done(path, expected_fingerprint(config)):
            return None
        return cls(config, DataManifest.load(path))

    @property
    def folder(self) -> Path:
        """Return `runs/<name>`."""
        return self.config.run_dir

    @cached_property
    def base(self) -> TrainJob:
        """Return the job of the base model."""
        return base_job(self.config, self.manifest)

    @cached_property
    def components(self) -> tuple[TrainJob, ...]:
        """Return the jobs of the component models, in the datasets' order."""
        return tuple(component_jobs(self.config, self.manifest, self.base))

    def references(self, shares: Mapping[str, Mapping[str, float]], seeds: Mapping[str, int]) -> list[TrainJob]:
        """Return the jobs of references; see `reference_jobs`."""
        return reference_jobs(self.config, self.manifest, self.base, shares, seeds)

    def proxy(self, shares: Mapping[str, float], num_proxies: int) -> TrainJob:
        """Return the job of one of so many trained proxies; see `proxy_job`."""
        return proxy_job(self.config, self.manifest, self.base, shares, num_proxies)

    def finals(self, shares: Mapping[str, Mapping[str, float]]) -> list[TrainJob]:
        """Return the jobs of the final run and of its baselines; see `final_jobs`."""
        return final_jobs(self.config, self.manifest, self.base, shares)

    def jobs(self, role: str, names: list[str] | None = None) -> list[TrainJob]:
        """Return the jobs of a role, as far as what was drawn or chosen for it is in the run's folder.

        Args:
            role: base | component | reference | final.
            names: Names of the models to keep; None: all.

        Raises:
            DemixError: if the role is `final` and no mixture was chosen yet.
        """
        builders: dict[str, Callable[[], list[TrainJob]]] = {
            "base": lambda: [self.base],
            "component": lambda: list(self.components),
            "reference": self._drawn_references,
            "final": lambda: self.finals(read_json(self.folder / "final" / "shares.json")),
        }
        return [job for job in builders[role]() if names is None or job.name in names]

    def _drawn_references(self) -> list[TrainJob]:
        """Return the jobs of the references that `verify` has drawn, or of the one that the configuration names."""
        path = self.folder / "verify" / "references.json"
        if self.config.reference.name or not path.exists():
            return [reference_job(self.config, self.manifest, self.base)]
        rows = read_json(path)
        shares = {row["name"]: row["data_shares"] for row in rows}
        return self.references(shares, {row["name"]: row["seed"] for row in rows})


def _manifest_path(config: DemixConfig) -> Path:
    return config.run_dir / "datasets" / "manifest.json"
