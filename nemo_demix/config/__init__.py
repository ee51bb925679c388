"""The configuration schema: one dataclass a section, checked by Hydra and OmegaConf.

Required values are MISSING; all that are absent are reported in one line. The YAML groups under
`conf/` and the recipes fill this schema. Workers read the resolved file that the launcher saved; they never compose.
"""

from nemo_demix.config.data import (
    DatasetConfig,
    PrepareConfig,
    SourceConfig,
    TokenizerConfig,
)
from nemo_demix.config.demix import (
    DemixConfig,
    load_resolved,
    register_schema,
    save_resolved,
    to_dataclasses,
)
from nemo_demix.config.launch import (
    LaunchConfig,
    LaunchJobConfig,
    LaunchJobsConfig,
)
from nemo_demix.config.merging import (
    ConvertConfig,
    MergeConfig,
)
from nemo_demix.config.models import (
    BaseConfig,
    ComponentsConfig,
    FinalConfig,
    ModelConfig,
    ParallelConfig,
    ReferenceConfig,
    RoleConfig,
    TrainConfig,
)
from nemo_demix.config.search import (
    BayesConfig,
    ConstraintsConfig,
    GroupConfig,
    ImportedConfig,
    MergeMixConfig,
    PredictorConfig,
    SamplerConfig,
    SearchConfig,
    TrainedProxiesConfig,
    TrustConfig,
    VerifyConfig,
)
from nemo_demix.config.suite import (
    BenchmarkConfig,
    CodeConfig,
    ExternalConfig,
    ExternalScoreConfig,
    ScoreConfig,
    SuiteConfig,
    TaskConfig,
)

__all__ = [
    "BaseConfig",
    "BayesConfig",
    "BenchmarkConfig",
    "CodeConfig",
    "ComponentsConfig",
    "ConstraintsConfig",
    "ConvertConfig",
    "DatasetConfig",
    "DemixConfig",
    "ExternalConfig",
    "ExternalScoreConfig",
    "FinalConfig",
    "GroupConfig",
    "ImportedConfig",
    "LaunchConfig",
    "LaunchJobConfig",
    "LaunchJobsConfig",
    "MergeConfig",
    "MergeMixConfig",
    "ModelConfig",
    "ParallelConfig",
    "PredictorConfig",
    "PrepareConfig",
    "ReferenceConfig",
    "RoleConfig",
    "SamplerConfig",
    "ScoreConfig",
    "SearchConfig",
    "SourceConfig",
    "SuiteConfig",
    "TaskConfig",
    "TokenizerConfig",
    "TrainConfig",
    "TrainedProxiesConfig",
    "TrustConfig",
    "VerifyConfig",
    "load_resolved",
    "register_schema",
    "save_resolved",
    "to_dataclasses",
]
