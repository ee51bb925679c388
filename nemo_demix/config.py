"""The configuration schema: one dataclass a stage, checked by Hydra and OmegaConf.

Required values are MISSING; all that are absent are reported in one line. The YAML groups under
`conf/` and the recipes fill this schema. Workers read the resolved file that the launcher saved; they never compose.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from nemo_demix.errors import ConfigError


@dataclass
class SourceConfig:
    """One source of text; exactly one of `registry`, `path`, `code` and `megatron` is set."""

    registry: str | None = None  # a package-shipped corpus, see `nemo_demix.datasets.registry`
    path: str | None = None  # a file or glob: .txt, .jsonl[.gz], .parquet
    code: str | None = None  # a directory of source code
    megatron: str | None = None  # an existing .bin/.idx prefix, used in place
    heldout: str | None = None  # the held-out prefix that goes with `megatron`
    text_field: str = "text"  # the field of .jsonl and .parquet rows
    code_suffixes: list[str] = field(default_factory=lambda: [".py"])
    licence: str | None = None  # recorded in the manifest
    origin: str | None = None


@dataclass
class DatasetConfig:
    """A candidate dataset: what it serves and where its text comes from."""

    capability: str = MISSING  # general | math | code, or the team's own
    sources: list[SourceConfig] = field(default_factory=list)
    max_bytes: int | None = None  # stop after so much UTF-8 text


@dataclass
class TokenizerConfig:
    """The tokenizer, trained here or brought."""

    kind: str = MISSING  # train_bpe | huggingface | sentencepiece | tokenizers
    path: str | None = None  # a name, directory or file, for all but train_bpe
    vocab_size: int | None = None  # for train_bpe
    sample_bytes: int = 4_000_000  # text a BPE is trained on, shared equally between the datasets


@dataclass
class PrepareConfig:
    """How text becomes candidate datasets."""

    heldout_share: float = 0.05  # of documents, by a stable hash of their text
    workers: int = 2
    overlap_ngram: int = 13


@dataclass
class BenchmarkConfig:
    """A benchmark: a registry name, or a .jsonl[.gz] file of {id, context, gold[, choices]}."""

    capability: str = MISSING
    registry: str | None = None
    path: str | None = None


@dataclass
class SuiteConfig:
    """What a model is scored on."""

    benchmarks: dict[str, BenchmarkConfig] = field(default_factory=dict)
    items_per_benchmark: int | None = None  # a seeded sample; null: the full set
    heldout_tokens: int = 4096  # per dataset; 0: no held-out scores
    max_length: int = 256  # tokens; a longer context is cut from its left
    batch_tokens: int = 8192  # padded tokens in one forward pass
    seed: int = 0


@dataclass
class ModelConfig:
    """A NeMo recipe and what this run changes in it."""

    recipe: str = MISSING  # dotted path of a factory, e.g. nemo.collections.llm.recipes.qwen3_1p7b.pretrain_recipe
    recipe_args: dict[str, Any] = field(default_factory=dict)  # keyword arguments of the factory
    overrides: dict[str, Any] = field(default_factory=dict)  # nested attributes set on the built recipe
    vocab_size: int | None = None  # null: the tokenizer's; padding must not depend on the parallel layout


@dataclass
class ParallelConfig:
    """The parallel layout; world size = tensor x pipeline x data."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    nodes: int = 1
    sequence: bool = False  # Megatron's sequence parallelism; needs Transformer Engine


@dataclass
class TrainConfig:
    """What all roles share."""

    global_batch_size: int = MISSING
    micro_batch_size: int = MISSING
    seq_length: int = MISSING
    precision: str = "bf16-mixed"  # "32" on CPU
    checkpoint_every_tokens: int | None = None  # for resuming; null: a tenth of the budget
    log_every_steps: int = 10
    num_workers: int = 2  # data loader processes


@dataclass
class RoleConfig:
    """The budget and the schedule of one role."""

    num_tokens: int = MISSING
    max_lr: float = MISSING
    min_lr_ratio: float = 0.2  # the cosine ends at this share of max_lr (DeMix §3: 20 %)
    warmup_share: float = 0.02  # of the steps
    keep_tokens: list[int] = field(default_factory=list)  # also keep a checkpoint at these token counts
    load_optimizer: bool = False  # continue with the start checkpoint's optimizer state
    checkpoint: str | None = None  # bring your own: nothing is trained


@dataclass
class BaseConfig(RoleConfig):
    """The shared base model."""

    blend: dict[str, float] = field(default_factory=dict)  # data shares; empty: all of the general dataset


@dataclass
class ComponentsConfig(RoleConfig):
    """One component model a candidate dataset."""

    beta: float = 0.5  # share of the general dataset in every component's blend (DeMix §3)
    general: str = "general"  # the dataset the others are mixed with
    checkpoints: dict[str, str] = field(default_factory=dict)  # bring your own, by component name
    blends: dict[str, dict[str, float]] = field(default_factory=dict)  # what a brought component was trained on


@dataclass
class FinalConfig(RoleConfig):
    """The final run, and the baselines trained beside it."""

    baselines: list[str] = field(default_factory=lambda: ["proportional"])  # proportional | equal


@dataclass
class ReferenceConfig(RoleConfig):
    """A model really trained on a given mixture; optional, so checked only where it is asked for."""

    num_tokens: int = 0
    max_lr: float = 0.0
    name: str = ""
    shares: dict[str, float] = field(default_factory=dict)  # data shares


@dataclass
class SamplerConfig:
    """How candidate mixtures (merge weights) are drawn."""

    kind: str = "uniform"  # uniform on the simplex (DeMix §2.4) | dirichlet around the token prior (their script)
    temperature: float = 0.7  # the prior's exponent, dirichlet only
    min_strength: float = 0.5
    max_strength: float = 5.0
    num_strengths: int = 15
    max_prior_multiple: float | None = None  # cap of each merge weight, as a multiple of its prior
    grid: float = 2e-4  # weights are multiples of this; smaller ones are 0


@dataclass
class PredictorConfig:
    """LightGBM, one regressor a benchmark."""

    learning_rate: float = 0.02
    num_rounds: int = 300
    num_leaves: int = 15
    min_data_in_leaf: int = 5
    folds: int = 5
    repeats: int = 2


@dataclass
class SearchConfig:
    """The iterative search over merged proxies."""

    iterations: list[int] = field(default_factory=lambda: [64, 32, 16])
    objective: str = "percentile_rank"  # of capabilities (DeMix §2.4) | mean: of scores in one unit
    merge_batch: int = 1  # proxies merged from one read of the components; each but one holds a model's weights
    pool_size: int = 200_000
    resample_top: float = 0.02  # the next iteration is drawn from this share of the ranked pool
    select_top: int = 128  # the mixture is the mean of so many (paper: 128, script: 1280)
    max_data_shares: dict[str, float] = field(default_factory=dict)  # caps on converted shares
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)


@dataclass
class ScoreConfig:
    """What the `score` stage scores: one checkpoint, or merged proxies in memory."""

    checkpoint: str | None = None
    name: str | None = None
    mixtures: str | None = None  # a JSON file {name: {component: weight}}


@dataclass
class MergeConfig:
    """Merging component models: on disk (`merge`), and in memory (`search`, `score`) by the same method."""

    method: str = "linear"  # see nemo_demix/merging/methods
    parameters: dict[str, Any] = field(default_factory=dict)  # the method's own, e.g. {density: 0.9}
    seed: int = 0  # of the random masks of dare and della
    mixtures: str | None = None  # a JSON file {mixture: {component: weight}}
    output: str | None = None  # null: runs/<name>/merged
    components: dict[str, str] = field(default_factory=dict)  # checkpoint by name; empty: this run's components
    base: str | None = None  # checkpoint, for methods that use one; null: this run's base
    objects_from: str | None = None  # the component that state which cannot be averaged comes from
    dtype: str | None = None  # fp32 | bf16 | fp16; null: as the sources
    any_weights: bool = False  # weights need not be on the simplex
    allow_nonfinite: bool = False  # merge NaN and infinity as they come
    workers: int | None = None  # processes on this machine; null: one a core, at most 8
    memory_gib: float = 1.0  # of all processes here together
    reuse_slots: int = 0  # overwrite so many earlier proxies of such merges in place
    dry_run: bool = False  # print the plan, write nothing


@dataclass
class ConvertConfig:
    """Between Hugging Face and Megatron checkpoints (`export`, `import`)."""

    source: str | None = None
    output: str | None = None


@dataclass
class DemixConfig:
    """A whole run."""

    name: str = MISSING
    runs_dir: str = "runs"
    seed: int = 0
    force: bool = False  # redo the stage even where it is done
    role: str | None = None  # train: base | component | reference | final
    component: str | None = None  # train role=component: which one; null: all
    datasets: dict[str, DatasetConfig] = field(default_factory=dict)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    suite: SuiteConfig = field(default_factory=SuiteConfig)
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
    final: FinalConfig = field(default_factory=FinalConfig)

    @property
    def run_dir(self) -> Path:
        """`runs/<name>`: everything this run writes."""
        return Path(self.runs_dir) / self.name


def register_schema() -> None:
    """Make the schema known to Hydra as `demix_schema`, the first default of every recipe."""
    ConfigStore.instance().store(name="demix_schema", node=DemixConfig)


def to_dataclasses(config: DictConfig) -> DemixConfig:
    """A composed configuration as plain dataclasses.

    Raises:
        ConfigError: if a required value is missing.
    """
    absent = sorted(OmegaConf.missing_keys(config))
    if absent:
        raise ConfigError(
            f"required configuration is missing: {', '.join(absent)}; set each in the recipe or as key=value"
        )
    resolved = OmegaConf.merge(OmegaConf.structured(DemixConfig), config)
    return OmegaConf.to_object(resolved)  # type: ignore[return-value]


def save_resolved(config: DemixConfig, path: Path) -> None:
    """Write the resolved configuration, for people and for the worker ranks."""
    from nemo_demix.artifacts import write_text

    write_text(path, OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True))


def load_resolved(path: Path) -> DemixConfig:
    """Read back what `save_resolved` wrote."""
    return to_dataclasses(OmegaConf.merge(OmegaConf.structured(DemixConfig), OmegaConf.load(path)))  # type: ignore[arg-type]
