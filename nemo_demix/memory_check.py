"""Whether training and the search fit the memory that is there, for `nemo-demix doctor`."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from nemo_demix.artifacts import read_json
from nemo_demix.config import DemixConfig
from nemo_demix.errors import ConfigError
from nemo_demix.memory import GIB, search_memory, training_memory
from nemo_demix.search.space import MERGED

ASSUMED_GPU_GIB = 80.0  # where no GPU is seen: a login node


@dataclass
class MemoryVerdict:
    """What stages need, and what of it does not fit."""

    used: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def judge_memory(
    config: DemixConfig, search_config: DemixConfig, gpu_gib: float | None, machine_gib: float
) -> MemoryVerdict:
    """Estimate the memory of a rank, and hold it against what there is. Imports NeMo, and builds its recipe.

    Args:
        search_config: The configuration that the search's jobs have, where it is another.
        gpu_gib: Of the smallest GPU here; None: there is none.
        machine_gib: Main memory, which is what ranks share where there is no GPU.
    """
    verdict = MemoryVerdict()
    on_gpu = gpu_gib is not None or config.train.precision != "32"
    try:
        for stage, own, total, parts, remedy in _estimates(config, search_config, on_gpu):
            verdict.used[f"memory of a rank, {stage}"] = f"{parts} (an estimate)"
            if not on_gpu:
                per_node = own.parallel.tensor * own.parallel.pipeline * own.parallel.data // own.parallel.nodes
                if per_node * total > machine_gib * GIB:
                    verdict.warnings.append(
                        f"{stage}: {per_node} rank(s) need about {per_node * total / GIB:.1f} GiB here together, of "
                        f"{machine_gib:.1f}: {remedy}"
                    )
                continue
            limit = ASSUMED_GPU_GIB if gpu_gib is None else gpu_gib
            if total <= limit * GIB:
                continue
            needs = f"{stage} needs about {total / GIB:.1f} GiB of each GPU's {limit:.1f} ({parts}): {remedy}"
            if gpu_gib is None:
                verdict.warnings.append(f"no GPU is seen here, and where one has {limit:.0f} GiB, {needs}")
            else:
                verdict.problems.append(needs)
    except ConfigError as error:
        verdict.problems.append(str(error))
    return verdict


def _estimates(
    config: DemixConfig, search_config: DemixConfig, on_gpu: bool
) -> Iterator[tuple[str, DemixConfig, float, str, str]]:
    """Of each stage: its name, its configuration, bytes, their parts, and what to do if they are too many."""
    from nemo_demix.merging.methods import DeltaMethod, build_method
    from nemo_demix.runtime.recipe import model_shape

    size = _tokenizer_size(config)
    shape = model_shape(config, size)
    if shape is None:
        return
    training = training_memory(config, shape, on_gpu)
    yield (
        "training", config, training.total, str(training),
        "raise parallel.tensor (with sequence=true) or pipeline, or lower train.micro_batch_size",
    )  # fmt: skip
    if config.search.strategy not in MERGED:
        return
    shape = model_shape(search_config, size)
    assert shape is not None
    merge, count = config.merge, len(config.datasets)
    # A run with one dataset is not the doctor's to refuse.
    method = build_method(merge.method, merge.parameters, merge.seed, max(2, count), has_base=True)
    search = search_memory(search_config, shape, count, isinstance(method, DeltaMethod), bool(method.uses_base), on_gpu)
    yield (
        "search", search_config, search.total, str(search),
        "raise parallel.tensor or pipeline for it alone (launch.jobs.search.overrides), or lower suite.batch_tokens or "
        "search.merge_batch",
    )  # fmt: skip


def _tokenizer_size(config: DemixConfig) -> int | None:
    """Of the tokenizer, as far as it is known before and after `prepare`."""
    path = config.run_dir / "datasets" / "manifest.json"
    if path.exists():
        return int(read_json(path)["tokenizer"]["vocab_size"])
    return config.tokenizer.vocab_size
