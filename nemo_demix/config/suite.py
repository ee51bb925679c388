"""What models are scored on."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


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
    """A program that is given a checkpoint's folder and answers with JSON: the user's own harness, or OpenCompass."""

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
    judged_items: int = 0  # of each benchmark of use=search, others than those: they judge finished models, use=report
    heldout_tokens: int = 4096  # per dataset; 0: no held-out scores
    max_length: int = 256  # tokens; a longer context is cut from its left
    batch_tokens: int = 8192  # padded tokens in one forward pass
    generation_batch: int = 64  # prompts that are continued at once
    seed: int = 0


@dataclass
class ScoreConfig:
    """What the `score` stage scores: one checkpoint, or merged proxies in memory."""

    checkpoint: str | None = None
    name: str | None = None
    mixtures: str | None = None  # a JSON file {name: {component: weight}}
