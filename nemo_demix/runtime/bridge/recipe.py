"""A recipe of Megatron-Bridge's, made into this run's: same code for training and for scoring.

Bridge's recipes are functions without arguments that return a `ConfigContainer`. The caller applies `model.overrides`
last: they are attributes of that container. `model.config.NAME`, as recipes for NeMo write an attribute of the model's
configuration, is `model.NAME` here, so that one recipe serves both.
"""

from collections.abc import Mapping
from typing import Any

import torch
from megatron.bridge.models.gpt_provider import GPTModelProvider, local_layer_spec
from megatron.bridge.training.config import ConfigContainer, TokenizerConfig

from nemo_demix.config import DemixConfig
from nemo_demix.errors import ConfigError
from nemo_demix.model_shape import ATTRIBUTES, UNEVEN
from nemo_demix.runtime.recipe import DTYPES, apply_overrides, call_factory

_PRECISIONS = {"bf16-mixed": "bf16_mixed", "16-mixed": "fp16_mixed", "32": None}


def base_recipe(config: DemixConfig, on_cpu: bool = False) -> Any:
    """Return the recipe with this run's layout, precision and device, but no data, no schedule and no overrides yet.

    Args:
        on_cpu: Its model is built on the CPU, even where there is a GPU.
    Returns:
        A `ConfigContainer`.
    Raises:
        ConfigError: if the factory does not exist, or makes something else.
    """
    recipe = _called(config)
    parallel, model = config.parallel, recipe.model
    model.tensor_model_parallel_size = parallel.tensor
    model.pipeline_model_parallel_size = parallel.pipeline
    model.sequence_parallel = parallel.sequence
    model.expert_model_parallel_size = parallel.expert
    # Some recipes set these too; here the process groups are made once for all models, without them.
    model.context_parallel_size = model.expert_tensor_parallel_size = 1
    model.virtual_pipeline_model_parallel_size = None
    model.seq_length = recipe.dataset.seq_length = config.train.seq_length
    _set_precision(recipe, config.train.precision)
    if on_cpu or not torch.cuda.is_available():
        _fit_to_cpu(recipe)
    return recipe


def _called(config: DemixConfig) -> Any:
    try:
        recipe = call_factory(config, {})
    except (OSError, ValueError) as error:  # of transformers and Bridge, where neither hub nor cache has it
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"model.recipe={config.model.recipe}: {reason:.300}; it asks the Hugging Face hub, or its cache (HF_HOME), "
            "for the model's config.json. Where neither has it, name a function of your own: docs/bridge.md"
        ) from None
    kind = type(getattr(recipe, "model", None))
    if not isinstance(recipe, ConfigContainer) or not issubclass(kind, GPTModelProvider):
        made = kind.__name__ if isinstance(recipe, ConfigContainer) else type(recipe).__name__
        raise ConfigError(
            f"model.recipe={config.model.recipe}: makes a {made}; expected a ConfigContainer of one of "
            "Megatron-Bridge's GPT models (Qwen, Llama, ...). Hybrids with Mamba layers are not supported"
        )
    return recipe


def override(recipe: Any, overrides: Mapping[str, Any]) -> None:
    """Apply `model.overrides`.

    Raises:
        ConfigError: naming the key that the recipe does not have.
    """
    rest = dict(overrides)
    if isinstance(model := rest.pop("model", None), Mapping):
        own = dict(model)
        apply_overrides(recipe.model, own.pop("config", {}), "model.overrides.model.config")
        apply_overrides(recipe.model, own, "model.overrides.model")
    elif model is not None:
        raise ConfigError(f"model.overrides.model: expected attributes of the model's configuration, found {model!r}")
    apply_overrides(recipe, rest)


def override_model(recipe: Any, config: DemixConfig) -> None:
    """Apply of `model.overrides` what is about the model alone, where nothing is trained.

    Raises:
        ConfigError: as `override`.
    """
    override(recipe, {key: value for key, value in config.model.overrides.items() if key == "model"})


def shape_values(config: DemixConfig, vocab_size: int | None) -> dict[str, Any]:
    """Return what `shape_of` asks for, of the run's model as it would be on GPUs; nothing is built.

    Raises:
        ConfigError: if the recipe or an override does not exist.
    """
    recipe = _called(config)
    recipe.model.seq_length = config.train.seq_length
    if vocab_size is not None:
        recipe.model.vocab_size = vocab_size
    override_model(recipe, config)
    return values_of(recipe)


def values_of(recipe: Any) -> dict[str, Any]:
    """Return the attributes of a recipe's model that its sizes are found by."""
    values = {name: getattr(recipe.model, name) for name in ATTRIBUTES}
    return values | {name: getattr(recipe.model, name, None) for name in UNEVEN}


def tokenizer_config(info: Mapping[str, Any]) -> Any:
    """Return Bridge's own description of the run's tokenizer; the model's vocabulary is not taken from it."""
    kind = "SentencePieceTokenizer" if info["kind"] == "sentencepiece" else "HuggingFaceTokenizer"
    return TokenizerConfig(tokenizer_type=kind, tokenizer_model=info["path"], use_tokenizer_vocab_size=False)


def _set_precision(recipe: Any, precision: str) -> None:
    if precision not in _PRECISIONS:
        raise ConfigError(f"train.precision={precision}: expected one of {', '.join(_PRECISIONS)}")
    dtype = getattr(torch, DTYPES[precision])
    recipe.mixed_precision = _PRECISIONS[precision]
    for one in (recipe.model, recipe.optimizer):
        one.bf16, one.fp16 = precision == "bf16-mixed", precision == "16-mixed"
    recipe.model.params_dtype = recipe.model.pipeline_dtype = recipe.model.autocast_dtype = dtype


def _fit_to_cpu(recipe: Any) -> None:
    """Switch off what gloo and the local layer spec cannot do; see `stand_ins` for the rest."""
    recipe.dist.distributed_backend = "gloo"
    recipe.dist.disable_jit_fuser = True
    recipe.comm_overlap = None
    recipe.checkpoint.async_save = False
    recipe.ddp.average_in_collective = False  # gloo has no averaging reduction
    recipe.ddp.overlap_grad_reduce = recipe.ddp.overlap_param_gather = False
    # It cannot be restored without Apex or TE.
    recipe.ddp.use_distributed_optimizer = recipe.optimizer.use_distributed_optimizer = False
    recipe.optimizer.use_precision_aware_optimizer = False
    model = recipe.model
    model.transformer_impl, model.transformer_layer_spec = "local", local_layer_spec
    # These need Transformer Engine, streams or CUDA's random state.
    model.apply_rope_fusion = model.persist_layer_norm = model.gradient_accumulation_fusion = False
    model.bias_dropout_fusion = model.bias_activation_fusion = model.masked_softmax_fusion = False
    model.cross_entropy_loss_fusion, model.cross_entropy_fusion_impl = False, "native"
    model.moe_grouped_gemm = model.moe_permute_fusion = model.moe_router_fusion = False
    model.moe_token_dispatcher_type, model.moe_flex_dispatcher_backend = "allgather", None
    model.recompute_granularity = model.recompute_method = model.recompute_num_layers = None
    model.cuda_graph_impl = "none"
    _initialize_on_cpu(model)


def _initialize_on_cpu(model: Any) -> None:
    """Have a model's initial weights be those of the whole model, divided, whatever its layout.

    Bridge turns `use_cpu_initialization` off when it builds. Every tensor rank would then draw its part from a random
    state of CUDA's that is its own; here all ranks have the same one, and would all draw the same part.
    """
    provide = model.provide

    def provide_on_cpu(*args: Any, **kwargs: Any) -> Any:
        model.use_cpu_initialization = True
        return provide(*args, **kwargs)

    model.provide = provide_on_cpu
