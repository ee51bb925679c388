"""A checkpoint as a Hugging Face folder, by Megatron-Bridge's own mappings of names and layouts.

The tensors are those that the restricted reader finds, under the names they are saved by; Bridge's mappings know these,
so no Megatron model is built and nothing of the checkpoint is run. The model is the recipe's: the checkpoint's shapes
have to be those of it.
"""

from pathlib import Path
from typing import Any

import torch
from megatron.bridge import AutoBridge
from megatron.core.transformer.identity_op import IdentityOp
from safetensors.torch import save_file
from transformers import AutoConfig

from nemo_demix.checkpoints.layouts import locate
from nemo_demix.config import DemixConfig, ParallelConfig
from nemo_demix.errors import CheckpointError, ConfigError
from nemo_demix.runtime.bridge.backend import start_groups
from nemo_demix.runtime.bridge.recipe import base_recipe, override_model
from nemo_demix.runtime.huggingface import (
    VOCABULARY,
    check_rows,
    expected_tensors,
    load_tokenizer_folder,
    read_state,
    tokenizer_beside,
)
from nemo_demix.runtime.ranks import Ranks


def export_checkpoint(config: DemixConfig, checkpoint: Path, folder: Path) -> Path:
    """Write a checkpoint, of any layout, as a Hugging Face model and tokenizer, bit for bit in its dtype.

    Args:
        folder: The model is written below it.
    Returns:
        The model's folder.
    Raises:
        ConfigError: if nothing says which Hugging Face model the recipe's is.
        CheckpointError: if the tensors are not those of the recipe's model, or there is no tokenizer.
    Memory: the model twice.
    Collective: none; a process group of one is made where there is none.
    """
    tokenizer = load_tokenizer_folder(_tokenizer(config, checkpoint))
    state = read_state(checkpoint)
    embedding = state[VOCABULARY]
    check_rows(checkpoint, len(embedding), tokenizer)
    _start_alone()
    recipe = base_recipe(config)
    override_model(recipe, config)
    model = recipe.model
    model.vocab_size, model.params_dtype = len(embedding), embedding.dtype
    model.bf16, model.fp16 = embedding.dtype == torch.bfloat16, embedding.dtype == torch.float16
    bridge, settings = _bridge(config, model, tokenizer)
    tensors = _converted(checkpoint, bridge, model, state)
    if odd := sorted(set(tensors) ^ expected_tensors(settings)):
        raise CheckpointError(
            f"{checkpoint}: its tensors are not those of model.recipe={config.model.recipe}; the first is {odd[0]}"
        )
    made = folder / "model"
    made.mkdir()
    settings.save_pretrained(made)
    tokenizer.save_pretrained(made)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, made / "model.safetensors", {"format": "pt"}
    )
    return made


def _bridge(config: DemixConfig, model: Any, tokenizer: Any) -> tuple[Any, Any]:
    """Return Bridge's converter for the recipe's model, and its Hugging Face configuration with the recipe's sizes."""
    known = getattr(model, "huggingface_config", None)  # of `recipes`
    if known is None:
        if model.hf_model_id is None:
            raise ConfigError(
                f"model.recipe={config.model.recipe}: does not say which Hugging Face model it is (its hf_model_id); "
                "use a recipe that is made by AutoBridge.from_hf_pretrained"
            )
        known = AutoConfig.from_pretrained(model.hf_model_id, trust_remote_code=False)
    found = AutoBridge.from_hf_config(known)._model_bridge.megatron_to_hf_config(model)
    own = known.to_dict()
    if own.get("num_hidden_layers") != model.num_layers:
        own.pop("layer_types", None)  # one a layer; made anew where the family has one kind
    if isinstance(rope := own.get("rope_parameters"), dict):
        own["rope_parameters"] = {**rope, "rope_theta": model.rotary_base}
    sizes = {key: value for key, value in found.items() if key in own and not key.startswith("rope_")}
    tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    settings = type(known)(**{**own, **sizes, **tokens, "dtype": str(model.params_dtype).removeprefix("torch.")})
    return AutoBridge.from_hf_config(settings), settings


def _converted(checkpoint: Path, bridge: Any, model: Any, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    registry = bridge._model_bridge.mapping_registry()
    holder = IdentityOp()  # on one rank every tensor is whole, whatever module it is of
    holder.config = model
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        mapping = registry.megatron_to_hf_lookup(name)
        if mapping is None:
            raise CheckpointError(
                f"{checkpoint}: {name} has no place in Megatron-Bridge's conversion of the recipe's model; only dense "
                "models of its family are exported"
            )
        try:
            tensors |= mapping.megatron_to_hf(tensor, holder)
        except (ValueError, RuntimeError, AssertionError) as error:
            raise CheckpointError(f"{checkpoint}: {name} is not of the recipe's model: {error}") from None
    given, made = (sum(tensor.numel() for tensor in one.values()) for one in (state, tensors))
    if given != made:
        raise CheckpointError(f"{checkpoint}: has {given} weights, its Hugging Face model {made}")
    return tensors


def _tokenizer(config: DemixConfig, checkpoint: Path) -> Path:
    folder = locate(checkpoint).weights / "tokenizer"
    found = folder if (folder / "tokenizer_config.json").is_file() else None
    return tokenizer_beside(folder, found, config.tokenizer.huggingface_path)


def _start_alone() -> None:
    """Start a process group of this process only, with Megatron's groups in it."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
        start_groups(ParallelConfig(), Ranks(0, 0, 1))
