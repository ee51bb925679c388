"""Merges, and conversions of checkpoints."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class MergeConfig:
    """How component models are merged: on disk (`merge`), and in memory (`search`, `score`) by the same method."""

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
    staging_gib: float = 64.0  # of outputs in runs/<name>/staging at a time, on their way to an object store
    dry_run: bool = False  # print the plan, write nothing


@dataclass
class ConvertConfig:
    """How checkpoints become Hugging Face folders and the other way round (`export`, `import`)."""

    source: str | None = None
    output: str | None = None
