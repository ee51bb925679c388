"""Whether training and the search fit the memory that is there, for `nemo-demix doctor`."""

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from nemo_demix.artifacts import read_json
from nemo_demix.config import DemixConfig
from nemo_demix.errors import ConfigError
from nemo_demix.memory import GIB, search_memory, training_memory
from nemo_demix.merging.methods import BlockMethod, build_method
from nemo_demix.model_shape import ModelShape
from nemo_demix.progress import doing
from nemo_demix.remembered import recalled, remembered
from nemo_demix.runtime.ranks import layout_errors
from nemo_demix.runtime.recipe import check_shape, known_vocab_size, recipe_shape
from nemo_demix.search.layout import proxy_layout
from nemo_demix.search.strategies import strategy_of
from nemo_demix.stack import REQUIREMENTS, installed_version, locate
from nemo_demix.terminal import set_aside

logger = logging.getLogger(__name__)
_QUESTION = "model-shape"
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
    """Estimate the memory of a rank, and hold it against what there is.

    Imports NeMo and builds its recipe, unless this was done before for the same model: see `remembered`.

    Args:
        search_config: The configuration that the search's jobs have, where it is another.
        gpu_gib: Memory of the smallest GPU here; None: there is none.
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


def known_memory(config: DemixConfig, search_config: DemixConfig) -> dict[str, str]:
    """Return memory of a rank by stage, in parts, where the model's sizes are known without asking NeMo; else empty."""
    shapes = known_shape(config), known_shape(search_config)
    if shapes[0] is None or shapes[1] is None:
        return {}
    on_gpu = config.train.precision != "32"
    found = _estimates_of((config, shapes[0]), (search_config, shapes[1]), on_gpu)
    return {stage: parts for stage, _, _, parts, _ in found}


def _estimates(
    config: DemixConfig, search_config: DemixConfig, on_gpu: bool
) -> Iterator[tuple[str, DemixConfig, float, str, str]]:
    """Give each stage's name, its configuration, bytes, their parts, and what to do if they are too many."""
    size = _tokenizer_size(config)
    shape = _shape(config, size)
    if shape is None:
        return
    search_shape = _shape(search_config, size) if strategy_of(config.search).mixes_components() else shape
    assert search_shape is not None
    yield from _estimates_of((config, shape), (search_config, search_shape), on_gpu)


def _estimates_of(
    training_of: tuple[DemixConfig, ModelShape], search_of: tuple[DemixConfig, ModelShape], on_gpu: bool
) -> Iterator[tuple[str, DemixConfig, float, str, str]]:
    config, shape = training_of
    training = training_memory(config, shape, on_gpu)
    yield (
        "training", config, training.total, str(training),
        "raise parallel.tensor (with sequence=true) or pipeline, or lower train.micro_batch_size",
    )  # fmt: skip
    if not strategy_of(config.search).mixes_components():
        return
    search_config, shape = search_of
    search_config = replace(search_config, parallel=proxy_layout(search_config))
    merge, count = config.merge, len(config.datasets)
    # A run with one dataset is not the doctor's to refuse.
    method = build_method(merge.method, merge.parameters, merge.seed, max(2, count), has_base=True)
    held = count * (1 + method.uses_moments) + bool(method.uses_base)
    is_bf16 = config.train.precision == "bf16-mixed"
    in_fp32 = isinstance(method, BlockMethod) and not (is_bf16 and method.keeps_bf16)
    search = search_memory(search_config, shape, held, in_fp32, on_gpu)
    yield (
        "search", search_config, search.total, str(search),
        "raise search.tensor, or parallel.pipeline for it alone (launch.jobs.search.overrides), or lower "
        "suite.batch_tokens or search.merge_batch",
    )  # fmt: skip


def _shape(config: DemixConfig, tokenizer_size: int | None) -> ModelShape | None:
    """Return the sizes of the model; a recipe of NeMo's own is asked once for each release of it.

    A recipe of the user's own is asked every time: nobody knows which files it is made of.
    """
    vocab_size = known_vocab_size(config, tokenizer_size)
    inputs = _shape_inputs(config, vocab_size)
    if inputs is None:
        shape = _asked(config, vocab_size)
    else:
        found = remembered(_QUESTION, inputs, lambda: _plain(_asked(config, vocab_size)))
        shape = None if found is None else ModelShape(**found)
    return None if shape is None else check_shape(shape, config)


def _asked(config: DemixConfig, vocab_size: int | None) -> ModelShape | None:
    doing(logger, f"asking {config.backend} for the sizes of the model")
    with set_aside():
        return recipe_shape(config, vocab_size)


def known_shape(config: DemixConfig) -> ModelShape | None:
    """Return the sizes of the model where NeMo was asked before (`nemo-demix doctor` does); else None: nothing is
    imported.
    """
    if any(layout_errors(config.parallel)):
        return None
    try:
        inputs = _shape_inputs(config, known_vocab_size(config, _tokenizer_size(config)))
    except ConfigError:
        return None
    kept = recalled(_QUESTION, inputs) if inputs is not None else ()
    return ModelShape(**kept[0]) if kept and kept[0] is not None else None


def _shape_inputs(config: DemixConfig, vocab_size: int | None) -> dict[str, Any] | None:
    """Return all that the sizes of a recipe of NeMo's own depend on; None for a recipe of the user's."""
    module = config.model.recipe.rpartition(".")[0]
    spec = locate(module) if module.startswith("nemo.") else None
    if spec is None or spec.origin is None:
        return None
    return {
        "model": config.model,
        "seq_length": config.train.seq_length,
        "vocab_size": vocab_size,
        "recipe": _file_facts(Path(spec.origin)),
        "packages": {one.name: installed_version(one.name, one.module) for one in REQUIREMENTS["nemo"]},
    }


def _plain(shape: ModelShape | None) -> dict[str, Any] | None:
    return None if shape is None else asdict(shape)


def _file_facts(path: Path) -> list[Any]:
    """Return what changes with a file: its place, its size and when it was written."""
    stat = path.stat()
    return [str(path), stat.st_size, stat.st_mtime_ns]


def _tokenizer_size(config: DemixConfig) -> int | None:
    """Return the number of tokens of the tokenizer, as far as it is known before and after `prepare`; else None."""
    path = config.run_dir / "datasets" / "manifest.json"
    if path.exists():
        return int(read_json(path)["tokenizer"]["vocab_size"])
    return config.tokenizer.vocab_size
