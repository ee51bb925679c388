"""What single keys of the schema may be, and the one function that holds them to it.

Rules between keys, and about names and files, are where the stage is that needs them; see `nemo_demix/check`.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from omegaconf import MISSING

from nemo_demix.config.data import TokenizerConfig
from nemo_demix.config.demix import DemixConfig
from nemo_demix.config.launch import LaunchConfig
from nemo_demix.config.merging import MergeConfig
from nemo_demix.config.models import (
    BACKENDS,
    ComponentsConfig,
    FinalConfig,
    ModelConfig,
    ReferenceConfig,
    RoleConfig,
    TrainConfig,
)
from nemo_demix.config.search import (
    MergeMixConfig,
    PredictorConfig,
    SamplerConfig,
    SearchConfig,
    TrainedProxiesConfig,
    TrustConfig,
    VerifyConfig,
)
from nemo_demix.config.suite import CodeConfig, SuiteConfig, TaskConfig
from nemo_demix.errors import ConfigError, DemixError, near


@dataclass(frozen=True)
class Limit:
    """What a number, or a name, may be; of a list, each of its members."""

    at_least: float = -math.inf
    at_most: float = math.inf
    above: float = -math.inf
    choices: tuple[str, ...] = ()

    def admits(self, value: Any) -> bool:
        """Return whether a value is within; null always is: it stands for what the key's comment says."""
        if value is None or value == MISSING:
            return True
        if self.choices:
            return value in self.choices
        return math.isfinite(value) and self.at_least <= value <= self.at_most and value > self.above

    def __str__(self) -> str:
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        named = (("at least", self.at_least), ("above", self.above), ("at most", self.at_most))
        return "a number " + " and ".join(f"{text} {value:g}" for text, value in named if math.isfinite(value))


_FROM_0, _FROM_1, _POSITIVE = Limit(at_least=0), Limit(at_least=1), Limit(above=0)
_SHARE, _RHO = Limit(at_least=0, at_most=1), Limit(at_least=-1, at_most=1)
# Keys that are judged together with others are not here. A subclass's own entry wins over its parent's.
LIMITS: dict[type, dict[str, Limit]] = {
    DemixConfig: {
        "seed": _FROM_0,
        "role": Limit(choices=("base", "component", "reference", "final")),
        "index": _FROM_0,
        "backend": Limit(choices=BACKENDS),
    },
    TokenizerConfig: {"sample_bytes": _FROM_1},
    ModelConfig: {"vocab_size": _FROM_1},
    TrainConfig: {
        "global_batch_size": _FROM_1,
        "micro_batch_size": _FROM_1,
        "seq_length": _FROM_1,
        "precision": Limit(choices=("bf16-mixed", "16-mixed", "32")),
        "checkpoint_every_tokens": _FROM_1,
        "log_every_steps": _FROM_1,
        "num_workers": _FROM_0,
    },
    RoleConfig: {
        "num_tokens": _FROM_1,
        "max_lr": _POSITIVE,
        "min_lr_ratio": _SHARE,
        "warmup_share": _SHARE,
        "keep_tokens": _FROM_1,
        "seed": _FROM_0,
    },
    ComponentsConfig: {"epochs": _POSITIVE},
    ReferenceConfig: {"num_tokens": _FROM_0, "max_lr": _FROM_0},
    TrainedProxiesConfig: {"num_tokens": _FROM_0, "max_lr": _FROM_0},
    TaskConfig: {"fewshot_seed": _FROM_0},
    CodeConfig: {"wall_s": _POSITIVE, "memory_mib": _FROM_1, "workers": _FROM_1},
    SuiteConfig: {
        "external_workers": _FROM_1,
        "items_per_benchmark": Limit(at_least=2),  # a standard error needs two
        "judged_items": _FROM_0,
        "heldout_tokens": _FROM_0,
        "batch_tokens": _FROM_1,
        "generation_batch": _FROM_1,
        "seed": _FROM_0,
    },
    MergeConfig: {
        "seed": _FROM_0,
        "workers": _FROM_1,
        "memory_gib": _POSITIVE,
        "staging_gib": _POSITIVE,
    },
    SamplerConfig: {"max_prior_multiple": _POSITIVE},
    PredictorConfig: {"folds": Limit(at_least=2), "repeats": _FROM_1},
    MergeMixConfig: {"seeds": _FROM_1, "verified": _FROM_0},
    SearchConfig: {
        "default_floor": _FROM_0,
        "heldout_floor": _FROM_0,
        "tensor": _FROM_0,
        "groups": _FROM_0,
        "merge_batch": _FROM_1,
        "max_failed_share": _SHARE,
        "pool_size": _FROM_1,
        "resample_top": Limit(above=0, at_most=1),
        "select_top": _FROM_1,
        "confirm": _FROM_1,
        "num_refits": _FROM_0,
    },
    FinalConfig: {"seeds": _FROM_0},
    VerifyConfig: {"seeds": _FROM_0, "seed_references": _FROM_0},
    TrustConfig: {"max_delta": _FROM_0, "min_cv_rho": _RHO, "min_rho": _RHO},
    LaunchConfig: {
        "through": Limit(choices=("slurm", "nemo_run", "local")),
        "executor": Limit(choices=("slurm", "docker", "skypilot", "skypilot_jobs", "lepton", "dgx_cloud", "kubeflow")),
        "max_parallel": _FROM_0,
    },
}


def limit_errors(section: Any, key: str = "") -> Iterator[DemixError]:
    """Yield errors for values of a section of the configuration, and of the sections in it, that are out of their
    limits.

    Args:
        section: A dataclass of the schema.
        key: Where it stands; empty: the whole configuration.
    """
    limits: dict[str, Limit] = {}
    for parent in reversed(type(section).__mro__):
        limits |= LIMITS.get(parent, {})
    for one in fields(section):
        name, value = f"{key}.{one.name}".lstrip("."), getattr(section, one.name)
        if is_dataclass(value):
            yield from limit_errors(value, name)
        elif isinstance(value, Mapping):
            for inner, item in value.items():
                if is_dataclass(item):
                    yield from limit_errors(item, f"{name}.{inner}")
        limit = limits.get(one.name)
        for item in value if isinstance(value, list) else [value]:
            if limit is not None and not limit.admits(item):
                yield ConfigError(f"{name}={item}: expected {limit}{near(item, limit.choices)}")
