"""The schema of a whole run, and how a configuration becomes one."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from nemo_demix.config.data import DatasetConfig, PrepareConfig, TokenizerConfig
from nemo_demix.config.launch import LaunchConfig
from nemo_demix.config.merging import ConvertConfig, MergeConfig
from nemo_demix.config.models import (
    BaseConfig,
    ComponentsConfig,
    FinalConfig,
    ModelConfig,
    ParallelConfig,
    ReferenceConfig,
    TrainConfig,
)
from nemo_demix.config.recorded import drop_retired
from nemo_demix.config.search import SearchConfig, TrustConfig, VerifyConfig
from nemo_demix.config.suite import ScoreConfig, SuiteConfig
from nemo_demix.config.tracking import TrackConfig
from nemo_demix.errors import ConfigError, DemixError


@dataclass
class DemixConfig:
    """A whole run."""

    name: str = MISSING
    runs_dir: str = "runs"
    seed: int = 0
    force: bool = False  # redo the stage even where it is done
    yes: bool = False  # train again what another configuration has trained here, without asking; --yes sets it
    accept_untrusted: bool = False  # train on a mixture that failed a trust gate
    watch: bool = False  # status: again and again until the run is done; --watch sets it
    role: str | None = None  # train: base | component | reference | final
    component: str | None = None  # train role=component: which one; null: all
    index: int | None = None  # train role=component | reference: which one, counted from 0, for arrays of jobs
    datasets: dict[str, DatasetConfig] = field(default_factory=dict)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    suite: SuiteConfig = field(default_factory=SuiteConfig)
    backend: str = "nemo"  # nemo | bridge (Megatron-Bridge): what `model.recipe` is of, and what trains
    model: ModelConfig = field(default_factory=ModelConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    base: BaseConfig = field(default_factory=BaseConfig)
    components: ComponentsConfig = field(default_factory=ComponentsConfig)
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    merge: MergeConfig = field(default_factory=MergeConfig)
    convert: ConvertConfig = field(default_factory=ConvertConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    verify: VerifyConfig = field(default_factory=VerifyConfig)
    trust: TrustConfig = field(default_factory=TrustConfig)
    final: FinalConfig = field(default_factory=FinalConfig)
    track: TrackConfig = field(default_factory=TrackConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)

    @property
    def run_dir(self) -> Path:
        """`runs/<name>`: everything this run writes."""
        return Path(self.runs_dir) / self.name


# Of runs and of what is in them: names of folders, of Slurm's jobs, in paths of shells and in overrides of Hydra's.
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def name_errors(config: DemixConfig) -> Iterator[DemixError]:
    """Yield errors for a run's name that is none."""
    if not PLAIN_NAME.fullmatch(config.name):
        yield ConfigError(
            f"name={config.name!r:.120}: expected a plain folder name, which is made under runs_dir: letters, digits, "
            "'_', '-' and '.', at most 100, a letter or digit first"
        )


def register_schema() -> None:
    """Make the schema known to Hydra as `demix_schema`, the first default of every recipe."""
    ConfigStore.instance().store(name="demix_schema", node=DemixConfig)


def missing_keys(config: DictConfig) -> list[str]:
    """Return required keys that nothing gives, sorted."""
    return sorted(OmegaConf.missing_keys(config))


def to_dataclasses(config: DictConfig) -> DemixConfig:
    """Return a composed configuration as plain dataclasses.

    Raises:
        ConfigError: if a required value is missing.
    """
    if absent := missing_keys(config):
        raise ConfigError(
            f"required configuration is missing: {', '.join(absent)}; set each in the recipe or as key=value"
        )
    if OmegaConf.get_type(config) is not DemixConfig:  # a recipe that does not begin with the schema
        config = OmegaConf.merge(OmegaConf.structured(DemixConfig), config)  # type: ignore[assignment]
    return OmegaConf.to_object(config)  # type: ignore[return-value]


def save_resolved(config: DemixConfig, path: Path) -> None:
    """Write the resolved configuration, for people and for the worker ranks."""
    from nemo_demix.artifacts import write_text

    write_text(path, OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True))


def load_resolved(path: Path) -> DemixConfig:
    """Read back what `save_resolved` wrote."""
    content: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    drop_retired(content)
    return to_dataclasses(OmegaConf.merge(OmegaConf.structured(DemixConfig), OmegaConf.create(content)))  # type: ignore[arg-type]
