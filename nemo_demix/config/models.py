"""The model, its parallel layout, and what each role of it is trained on."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

BACKENDS = ("nemo", "bridge")  # what trains and builds models: NeMo 2, or Megatron-Bridge


@dataclass
class ModelConfig:
    """A recipe of the back end's, and what this run changes in it."""

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
    # A component repeats text so often, by being shown no more of a dataset than that takes: as often as the final run
    # will (its tokens / all datasets' tokens, where it is proportional). null: it is shown all of every dataset.
    epochs: float | None = None
    general: str = "general"  # the dataset the others are mixed with
    save_optimizer: bool = False  # the finished checkpoints keep the optimizer's state, which merge.method=fisher uses
    checkpoints: dict[str, str] = field(default_factory=dict)  # bring your own, by component name
    blends: dict[str, dict[str, float]] = field(default_factory=dict)  # what a brought component was trained on


@dataclass
class FinalConfig(RoleConfig):
    """The final run, and the baselines trained beside it."""

    baselines: list[str] = field(default_factory=lambda: ["proportional"])  # proportional | equal | unimax | heuristic
    seeds: list[int] = field(default_factory=list)  # more data orders of each; the verdict is of their mean


@dataclass
class ReferenceConfig(RoleConfig):
    """Models really trained on given mixtures; optional, so checked only where they are asked for."""

    num_tokens: int = 0  # 0: as the components
    max_lr: float = 0.0  # 0: as the components
    name: str = ""  # one reference of the user's own; empty: those of `verify`
    shares: dict[str, float] = field(default_factory=dict)  # its data shares
