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
    datasets: list[str] = field(default_factory=list)  # whose text a BPE is trained on; empty: all


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
    use: str = "search"  # search: in the objective | fit: predicted, not in it | report: only judges the choice


@dataclass
class TaskConfig:
    """A task, group or tag of lm-evaluation-harness, scored as the harness scores it."""

    task: str = MISSING  # its name there, one of demix_* (nemo_demix/tasks/definitions), or the path of a YAML file
    capability: str = MISSING
    metric: str | None = None  # acc_norm, or with its filter: exact_match,strict-match; null: the task's first
    use: str = "search"  # search: in the objective | fit: predicted, not in it | report: only judges the choice
    num_fewshot: int | None = None  # null: the task's own
    limit: int | None = None  # documents, a sample drawn by suite.seed, of each task of a group; null: all
    fewshot_seed: int = 1234  # the harness's own
    weight: float = 1.0  # in its capability's average
    generation: dict[str, Any] = field(default_factory=dict)  # over the task's generation_kwargs: {max_gen_toks: 512}
    data: str | None = None  # a .jsonl[.gz] file or a folder of dataset files, read in place of the task's own


@dataclass
class CodeConfig:
    """Limits of a program that a model wrote (`nemo_demix/sandbox`)."""

    wall_s: float = 10.0
    memory_mib: int = 1024
    workers: int = 2  # programs at once


@dataclass
class ExternalScoreConfig:
    """One number that an external command gives."""

    capability: str = MISSING
    unit: str = MISSING  # e.g. accuracy; a capability averages scores of one unit
    higher_is_better: bool = MISSING
    use: str = "search"  # search: in the objective | fit: predicted, not in it | report: only judges the choice
    weight: float = 1.0  # in its capability's average
    chance: float | None = None  # what guessing gives


@dataclass
class ExternalConfig:
    """A program that is given a checkpoint's folder and answers with JSON: a team's own harness, or OpenCompass."""

    # Program and arguments. {checkpoint}: the model's folder; {output}: the file to write the JSON to, else it is the
    # last line of standard output; {name}: the model's name.
    command: list[str] = field(default_factory=list)
    format: str = "megatron"  # the checkpoint as NeMo 2 lays it out | huggingface: as `nemo-demix export` writes it
    scores: dict[str, ExternalScoreConfig] = field(default_factory=dict)  # by their names in the JSON
    env: dict[str, str] = field(default_factory=dict)  # beside this process's environment, which is passed on
    timeout_s: float = 3600.0
    retries: int = 1  # so many more tries, with growing pauses
    keep_checkpoint: bool = False  # of a merge or an export that was written for it


@dataclass
class SuiteConfig:
    """What a model is scored on."""

    benchmarks: dict[str, BenchmarkConfig] = field(default_factory=dict)
    tasks: dict[str, TaskConfig] = field(default_factory=dict)
    external: dict[str, ExternalConfig] = field(default_factory=dict)
    external_workers: int = 1  # external commands at once
    cache: bool = True  # keep models' answers under scores/answers, so that a changed suite runs only what is new
    allow_code_execution: bool = False  # programs that a model wrote are run, in the sandbox
    code: CodeConfig = field(default_factory=CodeConfig)
    log_samples: bool = False  # keep every document's prompt, response and metrics beside the scores
    add_bos_token: bool = False  # before every request of a task, as lm-eval's `hf` model with the same name
    items_per_benchmark: int | None = None  # a seeded sample; null: the full set
    heldout_tokens: int = 4096  # per dataset; 0: no held-out scores
    max_length: int = 256  # tokens; a longer context is cut from its left
    batch_tokens: int = 8192  # padded tokens in one forward pass
    generation_batch: int = 64  # prompts that are continued at once
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
    """The parallel layout; world size = tensor x pipeline x data, whatever `expert` is."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    expert: int = 1  # a mixture-of-experts model's experts are divided between so many of the tensor x data ranks
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
    seed: int | None = None  # of the data order; null: the run's
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

    baselines: list[str] = field(default_factory=lambda: ["proportional"])  # proportional | equal | unimax | heuristic


@dataclass
class ReferenceConfig(RoleConfig):
    """Models really trained on given mixtures; optional, so checked only where they are asked for."""

    num_tokens: int = 0  # 0: as the components
    max_lr: float = 0.0  # 0: as the components
    name: str = ""  # one reference of the user's own; empty: those of `verify`
    shares: dict[str, float] = field(default_factory=dict)  # its data shares


@dataclass
class VerifyConfig:
    """How far merged proxies are to be trusted: against references trained on mixtures drawn at random."""

    references: int = 24  # 4 make a cheap gate before a large search
    seeds: list[int] = field(default_factory=list)  # more data orders, which measure the noise of training
    seed_references: int = 4  # so many references are trained with every seed
    trained_shares: list[float] = field(default_factory=lambda: [0.125, 0.25, 0.5])  # of a reference's tokens: proxies
    num_bootstrap: int = 2000  # resamples of the references behind each interval
    confidence: float = 0.95


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
    """From mixtures to scores, one regressor a benchmark."""

    kind: str = "lightgbm"  # lightgbm | ridge | log_linear | gaussian_process | auto | stacked
    learning_rate: float = 0.02  # these four: LightGBM (DeMix §2.4)
    num_rounds: int = 300
    num_leaves: int = 15
    min_data_in_leaf: int = 5
    tune: bool = False  # LightGBM's settings chosen by cross-validation among small-sample ones
    num_bootstrap: int = 8  # refits on resampled rows: the standard deviation of lightgbm, ridge and log_linear
    folds: int = 5
    repeats: int = 2


@dataclass
class GroupConfig:
    """Bounds on the summed data share of some datasets."""

    datasets: list[str] = field(default_factory=list)
    min: float = 0.0
    max: float = 1.0


@dataclass
class ConstraintsConfig:
    """What a mixture has to satisfy; on converted data shares, never on merge weights."""

    min: dict[str, float] = field(default_factory=dict)  # least data share, by dataset
    max: dict[str, float] = field(default_factory=dict)  # largest data share
    pinned: dict[str, float] = field(default_factory=dict)  # exact data share
    max_epochs: float | None = None  # of every dataset in the final run: share x budget <= max_epochs x tokens
    max_epochs_of: dict[str, float] = field(default_factory=dict)  # of one dataset, instead
    groups: dict[str, GroupConfig] = field(default_factory=dict)
    min_used: float = 0.0  # a dataset's own merge weight is 0 or at least this
    max_kl: float | None = None  # nats, of the data shares from the token-proportional ones


@dataclass
class TrainedProxiesConfig(RoleConfig):
    """Proxies that are really trained (regmix, climb): each on its own mixture, from the base."""

    num_tokens: int = 0  # each; 0: the components' tokens in all, shared between the proxies
    max_lr: float = 0.0  # 0: as the components


@dataclass
class BayesConfig:
    """Few proxies, each chosen by what the predictor is unsure of."""

    initial: int = 16  # drawn at random
    budget: int = 48  # proxies in all
    batch: int = 4  # between two fits
    candidates: int = 20_000  # mixtures that the acquisition looks at


@dataclass
class MergeMixConfig:
    """One shot: seed mixtures, a fit, the best of a few verified optima."""

    seeds: int = 40
    verified: int = 4  # predicted optima whose merges are scored; the best measured one is taken


@dataclass
class ImportedConfig:
    """Scores from elsewhere, searched without any model."""

    scores: str | None = None  # CSV, OpenCompass summary CSV, lm-eval results JSON, or a folder of such
    mixtures: str | None = None  # JSON {name: {dataset: weight}} or CSV; null: mixture columns of the scores' own file
    capabilities: dict[str, str] = field(default_factory=dict)  # by benchmark; one left out is its own capability
    higher_is_better: dict[str, bool] = field(default_factory=dict)  # by benchmark, where the file does not say
    index: str | None = None  # the column that joins scores and mixtures; null: `name`, `index` or the first


@dataclass
class SearchConfig:
    """From proxies' scores to a mixture."""

    strategy: str = "demix"  # mergemix | bayes | regmix | climb | mixmin | proportional | equal | unimax | heuristic
    proxy: str = "merge"  # merge | predictions: log-likelihood scores only | both: screened, then confirmed
    iterations: list[int] = field(default_factory=lambda: [64, 32, 16])
    objective: str = "percentile_rank"  # DeMix §2.4 | mean: of scores in one unit | utility: MergeMix's
    capability_weights: dict[str, float] = field(default_factory=dict)  # in the objective; empty: all alike
    floors: dict[str, float] = field(default_factory=dict)  # capability: how much worse than `floor_baseline` it may be
    floor_baseline: str = "proportional"
    groups: int = 0  # of ranks that score different proxies at once; 0: parallel.data, so tensor x pipeline ranks each
    merge_batch: int = 1  # proxies merged from one read of the components; each but one holds a model's weights
    max_failed_share: float = 0.5  # of an iteration's proxies, above which the search ends with an error
    pool_size: int = 200_000
    resample_top: float = 0.02  # the next iteration is drawn from this share of the ranked pool
    select_top: int = 128  # the mixture is the mean of so many (paper: 128, script: 1280)
    confirm: int = 16  # proxy=both: the best of the pool by predictions, scored as merges
    num_refits: int = 16  # on resampled proxies: the interval of each share
    heuristic: dict[str, float] = field(default_factory=dict)  # data shares, for strategy and baseline `heuristic`
    heuristic_from: str | None = None  # or those that another run chose: the path of its search/mixture.json
    unimax_epochs: float = 4.0  # strategy and baseline `unimax`: no dataset is repeated more often
    constraints: ConstraintsConfig = field(default_factory=ConstraintsConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    trained: TrainedProxiesConfig = field(default_factory=TrainedProxiesConfig)
    bayes: BayesConfig = field(default_factory=BayesConfig)
    mergemix: MergeMixConfig = field(default_factory=MergeMixConfig)
    imported: ImportedConfig = field(default_factory=ImportedConfig)


@dataclass
class TrustConfig:
    """What has to hold before a mixture is trained on; a gate that was not measured does not fail unless required."""

    max_delta: float = 0.15  # of every component (DeMix: about 0.10 at 30-50B tokens)
    min_cv_rho: float = 0.3  # macro, out of fold
    min_rho: float = 0.0  # the lower bound of merged proxies' macro rho with the references
    require_verify: bool = False  # without references the last gate fails


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
class LaunchJobConfig:
    """What one stage's jobs have of their own."""

    overrides: list[str] = field(default_factory=list)  # key=value, as on the command line; layout, not results
    options: dict[str, Any] = field(default_factory=dict)  # of sbatch, for these jobs alone


@dataclass
class LaunchJobsConfig:
    """Of each stage that can be a job."""

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

    through: str = "slurm"  # slurm | nemo_run: its SlurmExecutor | local: its LocalExecutor
    site: str | None = None  # a file like slurm/site.example.env; null: the environment as it is
    max_parallel: int = 4  # array tasks (components, references) at a time; 0: as many as fit
    verify: bool = False  # references and `verify` before the search
    options: dict[str, Any] = field(
        default_factory=dict
    )  # long options of sbatch, e.g. {partition: gpu, time: "8:00:00"}
    jobs: LaunchJobsConfig = field(default_factory=LaunchJobsConfig)
    dry_run: bool = False  # print the commands, submit nothing; --dry-run sets it


@dataclass
class DemixConfig:
    """A whole run."""

    name: str = MISSING
    runs_dir: str = "runs"
    seed: int = 0
    force: bool = False  # redo the stage even where it is done
    accept_untrusted: bool = False  # train on a mixture that failed a trust gate
    role: str | None = None  # train: base | component | reference | final
    component: str | None = None  # train role=component: which one; null: all
    index: int | None = None  # train role=component | reference: which one, counted from 0, for arrays of jobs
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
    verify: VerifyConfig = field(default_factory=VerifyConfig)
    trust: TrustConfig = field(default_factory=TrustConfig)
    final: FinalConfig = field(default_factory=FinalConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)

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
