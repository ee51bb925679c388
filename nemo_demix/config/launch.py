"""How stages become jobs."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class LaunchJobConfig:
    """What one stage's jobs have of their own."""

    overrides: list[str] = field(default_factory=list)  # key=value, as on the command line; layout, not results
    options: dict[str, Any] = field(default_factory=dict)  # as launch.options, for these jobs alone


@dataclass
class LaunchJobsConfig:
    """What the jobs of each stage have of their own, for each stage that can be a job."""

    prepare: LaunchJobConfig = field(default_factory=LaunchJobConfig)
    base: LaunchJobConfig = field(default_factory=LaunchJobConfig)
    components: LaunchJobConfig = field(default_factory=LaunchJobConfig)
    references: LaunchJobConfig = field(default_factory=LaunchJobConfig)
    verify: LaunchJobConfig = field(default_factory=LaunchJobConfig)
    search: LaunchJobConfig = field(default_factory=LaunchJobConfig)
    final: LaunchJobConfig = field(default_factory=LaunchJobConfig)


@dataclass
class LaunchConfig:
    """How `launch` submits a run's stages as jobs."""

    through: str = "slurm"  # slurm | nemo_run: one of its executors | local: its LocalExecutor
    executor: str = "slurm"  # of NeMo-Run: slurm | docker | skypilot | skypilot_jobs | lepton | dgx_cloud | kubeflow
    site: str | None = None  # a file like slurm/site.example.env; null: the environment as it is
    max_parallel: int = 4  # array tasks (components, references) at a time; 0: as many as fit
    verify: bool = False  # references and `verify` before the search
    options: dict[str, Any] = field(
        default_factory=dict
    )  # long options of sbatch, e.g. {partition: gpu, time: "8:00:00"}; of another executor its fields
    jobs: LaunchJobsConfig = field(default_factory=LaunchJobsConfig)
    dry_run: bool = False  # print the commands, submit nothing; --dry-run sets it
