"""A NeMo recipe, made into this run's: same code for training and for scoring."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nemo_demix.config import DemixConfig
from nemo_demix.errors import ConfigError
from nemo_demix.model_shape import ATTRIBUTES, UNEVEN, ModelShape, shape_of
from nemo_demix.runtime.ranks import world_size
from nemo_demix.runtime.recipe import DTYPES, apply_overrides, call_factory, check_shape


def base_recipe(config: DemixConfig, folder: Path, name: str) -> Any:
    """Return the recipe with this run's layout, precision and device, but no data, no schedule and no overrides yet.

    Args:
        folder: The logger's directory; NeMo writes below `folder/name`.
    Returns:
        A `nemo_run.Partial` of NeMo's pretrain function.
    Raises:
        ConfigError: if the factory or an argument of it does not exist.
    """
    import torch

    per_node = world_size(config.parallel) // config.parallel.nodes
    recipe = _called(
        config, {"dir": str(folder), "name": name, "num_nodes": config.parallel.nodes, "num_gpus_per_node": per_node}
    )
    trainer, strategy = recipe.trainer, recipe.trainer.strategy
    trainer.devices, trainer.num_nodes = per_node, config.parallel.nodes
    trainer.limit_val_batches = trainer.limit_test_batches = 0
    trainer.num_sanity_val_steps = 0
    trainer.enable_model_summary = False
    strategy.tensor_model_parallel_size = config.parallel.tensor
    strategy.pipeline_model_parallel_size = config.parallel.pipeline
    strategy.sequence_parallel = config.parallel.sequence
    # Some factories set these too; here the process groups are made once for all models, without them.
    strategy.context_parallel_size = 1
    strategy.virtual_pipeline_model_parallel_size = None
    strategy.expert_model_parallel_size = config.parallel.expert
    strategy.expert_tensor_parallel_size = 1
    recipe.model.config.seq_length = config.train.seq_length
    _set_precision(recipe, config.train.precision)
    trainer.logger = False  # W&B and TensorBoard are configured, never assumed
    if not torch.cuda.is_available():
        _fit_to_cpu(recipe)
    return recipe


def _called(config: DemixConfig, offered: Mapping[str, Any]) -> Any:
    recipe = call_factory(config, offered)
    from nemo.collections.llm import GPTConfig

    kind = recipe.model.config.__fn_or_cls__
    if not issubclass(kind, GPTConfig):
        raise ConfigError(
            f"model.recipe={config.model.recipe}: makes a {kind.__name__}; expected one of NeMo's GPT models (Qwen, "
            "Llama, Mixtral, Nemotron 3 and 4, ...). Hybrids with Mamba layers are not supported"
        )
    return recipe


def shape_values(config: DemixConfig, vocab_size: int | None) -> dict[str, Any]:
    """Return what `shape_of` asks for, of the run's model as it would be on GPUs; nothing is built.

    Raises:
        ConfigError: if the recipe or an override does not exist.
    """
    recipe = _called(config, {})
    recipe.model.config.seq_length = config.train.seq_length
    if vocab_size is not None:
        recipe.model.config.vocab_size = vocab_size
    apply_overrides(recipe, {key: value for key, value in config.model.overrides.items() if key == "model"})
    return _values(recipe)


def checked_shape(recipe: Any, config: DemixConfig) -> ModelShape:
    """Return the sizes of a recipe's model, overrides applied.

    Raises:
        ConfigError: as `check_shape`.
    """
    return check_shape(shape_of(_values(recipe)), config)


def _values(recipe: Any) -> dict[str, Any]:
    model, strategy = recipe.model.config, recipe.trainer.strategy
    values = {name: getattr(model, name) for name in ATTRIBUTES}
    return values | {name: getattr(model, name, None) or getattr(strategy, name, None) for name in UNEVEN}


def _set_precision(recipe: Any, precision: str) -> None:
    import torch
    from nemo.collections.llm.recipes.precision.mixed_precision import bf16_mixed, fp16_mixed

    plugins: dict[str, Callable[[], Any]] = {"bf16-mixed": bf16_mixed, "16-mixed": fp16_mixed, "32": lambda: None}
    if precision not in plugins:
        raise ConfigError(f"train.precision={precision}: expected one of {', '.join(plugins)}")
    recipe.trainer.plugins = plugins[precision]()
    recipe.optim.config.bf16 = precision == "bf16-mixed"
    recipe.optim.config.fp16 = precision == "16-mixed"
    recipe.trainer.strategy.pipeline_dtype = getattr(torch, DTYPES[precision])


def _fit_to_cpu(recipe: Any) -> None:
    """Switch off what gloo and the local layer spec cannot do; see runtime/cpu_alias.py for the rest."""
    recipe.trainer.accelerator = "cpu"
    # NeMo's progress printer runs a collective on rank 0 alone; gloo then hangs at the first checkpoint.
    recipe.trainer.enable_progress_bar = False
    recipe.trainer.strategy.process_group_backend = "gloo"
    recipe.trainer.strategy.ckpt_async_save = False
    ddp = recipe.trainer.strategy.ddp
    ddp.average_in_collective = False  # gloo has no averaging reduction
    ddp.overlap_grad_reduce = ddp.overlap_param_gather = False
    recipe.optim.config.use_distributed_optimizer = False  # it cannot be restored without Apex or TE
    model = recipe.model.config
    model.use_cpu_initialization = True
    without_kernels(model)
    model.moe_token_dispatcher_type = "allgather"
    model.recompute_granularity = model.recompute_method = model.recompute_num_layers = None


def without_kernels(model: Any) -> None:
    """Switch off, in a NeMo model configuration, what needs Transformer Engine, streams or CUDA's random state."""
    model.apply_rope_fusion = model.persist_layer_norm = model.moe_grouped_gemm = model.moe_permute_fusion = False
