"""A NeMo recipe, named in the configuration, made into this run's: same code for training and for scoring.

The factory is called with what it accepts; everything a run must control is then set on the recipe it returns, so that
factories with short signatures work too. The caller applies `model.overrides` last, so that they win.
"""

import ast
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra.utils import get_object

from nemo_demix.config import DemixConfig, ModelConfig
from nemo_demix.errors import ConfigError, DemixError, near
from nemo_demix.model_shape import ATTRIBUTES, UNEVEN, ModelShape, check_layout, shape_of
from nemo_demix.runtime.ranks import world_size
from nemo_demix.stack import locate

logger = logging.getLogger(__name__)

_EXAMPLE = "nemo.collections.llm.recipes.qwen3_1p7b.pretrain_recipe"
DTYPES = {"bf16-mixed": "bfloat16", "16-mixed": "float16", "32": "float32"}  # torch's names, by train.precision


def load_factory(path: str) -> Callable[..., Any]:
    """The recipe factory at a dotted path.

    Raises:
        ConfigError: if there is no such module or function.
    """
    try:
        factory = get_object(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"model.recipe={path}: not found ({error}); expected a factory such as {_EXAMPLE}") from None
    if not callable(factory):
        raise ConfigError(f"model.recipe={path}: expected a function, found {type(factory).__name__}")
    return factory  # type: ignore[no-any-return]


def factory_errors(model: ModelConfig) -> Iterator[DemixError]:
    """A factory that is not there, or does not take an argument, by its source: it is not imported."""
    module, _, name = model.recipe.rpartition(".")
    try:
        spec = locate(module) if module else None
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        yield ConfigError(
            f"model.recipe={model.recipe}: no module {module or model.recipe}; expected a factory such as {_EXAMPLE}"
        )
        return
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    functions = {one.name: one for one in tree.body if isinstance(one, ast.FunctionDef)}
    if name not in functions:
        named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        named |= {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        if name not in named:
            hint = near(name, functions) or f"; expected one of {', '.join(functions)}"
            yield ConfigError(f"model.recipe={model.recipe}: {module} has no {name}{hint}")
        return  # made in another way than by `def`: known when it is imported
    arguments = functions[name].args
    known = [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    for key in model.recipe_args:
        if key not in known and arguments.kwarg is None:
            yield ConfigError(f"model.recipe_args.{key}: {model.recipe} takes {', '.join(known)}{near(key, known)}")


def apply_overrides(target: Any, overrides: Mapping[str, Any], path: str = "model.overrides") -> None:
    """Set nested attributes of a recipe; a name it does not have is refused.

    Raises:
        ConfigError: naming the key and what is there instead.
    """
    for name, value in overrides.items():
        key = f"{path}.{name}"
        try:
            current = getattr(target, name)
        except AttributeError:
            known = _accepted_names(target)
            if name not in known:
                near = get_close_matches(name, known) or sorted(known)
                raise ConfigError(f"{key}: the recipe has no such attribute; it has {', '.join(near)}") from None
            current = None
        if isinstance(value, Mapping) and not isinstance(current, Mapping):
            if current is None:
                raise ConfigError(f"{key}: nothing is set there by the recipe, so {dict(value)} cannot go into it")
            apply_overrides(current, value, key)
        else:
            setattr(target, name, value)


def _accepted_names(target: Any) -> set[str]:
    import fiddle as fdl

    if isinstance(target, fdl.Buildable):
        return set(inspect.signature(target.__fn_or_cls__).parameters)
    return {name for name in dir(target) if not name.startswith("_")}


def base_recipe(config: DemixConfig, folder: Path, name: str) -> Any:
    """The recipe with this run's layout, precision and device, but no data, no schedule and no overrides yet.

    Args:
        folder: The logger's directory; NeMo writes below `folder/name`.
    Returns:
        A `nemo_run.Partial` of NeMo's pretrain function.
    Raises:
        ConfigError: if the factory or an argument of it does not exist.
    """
    import torch

    per_node = world_size(config.parallel) // config.parallel.nodes
    recipe = _call_factory(
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


def _call_factory(config: DemixConfig, offered: Mapping[str, Any]) -> Any:
    """The recipe as NeMo has it; of the offered arguments the factory gets those that it takes."""
    factory = load_factory(config.model.recipe)
    accepted = inspect.signature(factory).parameters
    arguments = {key: value for key, value in offered.items() if key in accepted}
    for key, value in config.model.recipe_args.items():
        if key not in accepted:
            raise ConfigError(f"model.recipe_args.{key}: {config.model.recipe} takes {', '.join(accepted)}")
        arguments[key] = value
    recipe = factory(**arguments)
    from nemo.collections.llm import GPTConfig

    kind = recipe.model.config.__fn_or_cls__
    if not issubclass(kind, GPTConfig):
        raise ConfigError(
            f"model.recipe={config.model.recipe}: makes a {kind.__name__}; expected one of NeMo's GPT models (Qwen, "
            "Llama, Mixtral, Nemotron 3 and 4, ...). Hybrids with Mamba layers are not supported"
        )
    return recipe


def model_shape(config: DemixConfig, tokenizer_size: int | None) -> ModelShape | None:
    """The sizes of the run's model, overrides included, as it would be on GPUs; nothing is built.

    Args:
        tokenizer_size: Where `model.vocab_size` leaves the vocabulary to the tokenizer; None: not known yet.
    Returns:
        None where nothing says how large the vocabulary is.
    Raises:
        ConfigError: if the recipe or an override does not exist, or the layout does not divide the model.
    """
    shape = recipe_shape(config, known_vocab_size(config, tokenizer_size))
    return None if shape is None else check_shape(shape, config)


def known_vocab_size(config: DemixConfig, tokenizer_size: int | None) -> int | None:
    """The model's vocabulary, as `padded_vocab_size`; None where the recipe alone says how large it is."""
    if not (config.model.vocab_size or tokenizer_size):
        return None
    return padded_vocab_size(config, {"vocab_size": tokenizer_size or config.model.vocab_size})


def recipe_shape(config: DemixConfig, vocab_size: int | None) -> ModelShape | None:
    """The sizes of a recipe's model before they are checked: by `model.*`, `train.seq_length` and the vocabulary alone.

    Returns, Raises: as `model_shape`, but for the layout.
    """
    recipe = _call_factory(config, {})
    recipe.model.config.seq_length = config.train.seq_length
    if vocab_size is not None:
        recipe.model.config.vocab_size = vocab_size
    apply_overrides(recipe, {key: value for key, value in config.model.overrides.items() if key == "model"})
    return _shape(recipe) if recipe.model.config.vocab_size else None


def checked_shape(recipe: Any, config: DemixConfig) -> ModelShape:
    """The sizes of a recipe's model, overrides applied.

    Raises:
        ConfigError: if the layout does not divide the model, or the suite's texts are longer than it can read.
    """
    return check_shape(_shape(recipe), config)


def _shape(recipe: Any) -> ModelShape:
    model, strategy = recipe.model.config, recipe.trainer.strategy
    values = {name: getattr(model, name) for name in ATTRIBUTES}
    values |= {name: getattr(model, name, None) or getattr(strategy, name, None) for name in UNEVEN}
    return shape_of(values)


def check_shape(shape: ModelShape, config: DemixConfig) -> ModelShape:
    """The same sizes, if the run can have them.

    Raises:
        ConfigError: as `checked_shape`.
    """
    check_layout(shape, config.parallel)
    longest, trained = config.suite.max_length, config.train.seq_length
    if shape.num_positions and longest > shape.num_positions:
        raise ConfigError(
            f"suite.max_length={longest}: the model has learned positions for {shape.num_positions} tokens "
            "(train.seq_length); lower suite.max_length to that"
        )
    if longest > trained:
        logger.warning(
            "suite.max_length=%d is beyond train.seq_length=%d: longer texts are scored at places that no sequence of "
            "this run's training has",
            longest,
            trained,
        )
    return shape


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
    """What gloo and the local layer spec cannot do is switched off; see runtime/cpu_alias.py for the rest."""
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


def padded_vocab_size(config: DemixConfig, tokenizer: Mapping[str, Any]) -> int:
    """The model's vocabulary: as configured, or the tokenizer's rounded up to a multiple of 128.

    It never depends on the parallel layout, so checkpoints of different layouts have the same shapes.

    Raises:
        ConfigError: if the configured size cannot hold the tokenizer, or does not divide over the tensor ranks.
    """
    needed = int(tokenizer["vocab_size"])
    size = config.model.vocab_size or -(-needed // 128) * 128
    if size < needed:
        raise ConfigError(f"model.vocab_size={size}: the tokenizer has {needed} tokens; raise it or leave it null")
    if size % config.parallel.tensor:
        raise ConfigError(f"model.vocab_size={size} does not divide over parallel.tensor={config.parallel.tensor}")
    return size
