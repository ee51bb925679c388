"""How proxies lead to a mixture, and how far it is trusted."""

from dataclasses import dataclass, field
from typing import Any

from nemo_demix.config.models import RoleConfig


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
    """How scores are predicted from mixtures, by one regressor a benchmark."""

    kind: str = "lightgbm"  # see nemo_demix/prediction/predictors.py
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
    """Few proxies, each chosen by what the predictor is unsure of.

    `recommended` over merges has `search.iterations` for the first two.
    """

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
    """How proxies' scores lead to a mixture."""

    strategy: str = "demix"  # see nemo_demix/search/strategies
    parameters: dict[str, Any] = field(default_factory=dict)  # of a strategy that has no section here
    # merge | predictions: log-likelihood scores only | both: screened, then confirmed | auto (recommended alone):
    # predictions choose where they can be mixed, and merges are scored beside them; else merges
    proxy: str = "merge"
    iterations: list[int] = field(default_factory=lambda: [64, 32, 16])
    objective: str = "percentile_rank"  # DeMix §2.4 | mean: of scores in one unit | utility: MergeMix's
    capability_weights: dict[str, float] = field(default_factory=dict)  # in the objective; empty: all alike
    floors: dict[str, float] = field(default_factory=dict)  # capability: how much worse than `floor_baseline` it may be
    default_floor: float | None = None  # of every capability that `floors` does not name; null: none
    heldout_floor: float | None = None  # recommended: the same of held-out text, macro; null: none
    floor_baseline: str = "proportional"
    tensor: int = 0  # tensor parallel size of the models that are scored, by the same ranks; 0: parallel.tensor
    groups: int = 0  # of ranks that score different proxies at once; 0: so many that each has tensor x pipeline ranks
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
class VerifyConfig:
    """How far merged proxies are to be trusted: against references trained on mixtures drawn at random."""

    references: int = 24  # 4 make a cheap gate before a large search
    seeds: list[int] = field(default_factory=list)  # more data orders, which measure the noise of training
    seed_references: int = 4  # so many references are trained with every seed; where all are, their mean is judged by
    trained_shares: list[float] = field(default_factory=lambda: [0.125, 0.25, 0.5])  # of a reference's tokens: proxies
    num_bootstrap: int = 2000  # resamples of the references behind each interval
    confidence: float = 0.95


@dataclass
class TrustConfig:
    """What has to hold before a mixture is trained on; a gate that was not measured does not fail unless required."""

    max_delta: float = 0.15  # of every component (DeMix: about 0.10 at 30-50B tokens)
    min_cv_rho: float = 0.3  # macro, out of fold
    min_rho: float = 0.0  # the lower bound of the proxies' rho with the references, of the macro score
    require_verify: bool = False  # without references the last gate fails
