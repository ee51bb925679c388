"""A checkpoint as a Hugging Face folder, by Megatron-Bridge's own mappings of names and layouts.

The tensors are those that the restricted reader finds, under the names they are saved by; Bridge's mappings know these,
so no Megatron model is built and nothing of the checkpoint is run. The model is the recipe's: the checkpoint's shapes
have to be those of it.
"""

from pathlib import Path
from typing import Any

import torch
from megatron.bridge import AutoBridge
from safetensors.torch import save_file
from transformers import AutoConfig

from nemo_demix.checkpoints.files import read_file
from nemo_demix.checkpoints.layouts import locate
from nemo_demix.checkpoints.layouts.training_folder import RUN_CONFIG
from nemo_demix.config import DemixConfig
from nemo_demix.errors import CheckpointError, ConfigError
from nemo_demix.plain_yaml import parse_yaml
from nemo_demix.runtime.bridge.backend import start_alone
from nemo_demix.runtime.bridge.conversion import holder
from nemo_demix.runtime.bridge.recipe import base_recipe, override_model
from nemo_demix.runtime.generation import read_generation
from nemo_demix.runtime.huggingface import (
    VOCABULARY,
    check_rows,
    expected_tensors,
    load_tokenizer_folder,
    read_state,
    tokenizer_beside,
)


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
    tokenizer_folder = _tokenizer(config, checkpoint)
    tokenizer = load_tokenizer_folder(tokenizer_folder)
    state = read_state(checkpoint)
    embedding = state[VOCABULARY]
    check_rows(checkpoint, len(embedding), tokenizer)
    generation = _generation(config, checkpoint, tokenizer_folder, len(embedding))
    start_alone()
    recipe = base_recipe(config)
    override_model(recipe, config)
    model = recipe.model
    model.vocab_size, model.params_dtype = len(embedding), embedding.dtype
    model.seq_length = _longest(checkpoint) or model.seq_length
    model.bf16, model.fp16 = embedding.dtype == torch.bfloat16, embedding.dtype == torch.float16
    ids = {
        name: getattr(tokenizer, name) if (own := getattr(generation, name, None)) is None else own
        for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    bridge, settings = _bridge(config, model, ids)
    tensors = _converted(checkpoint, bridge, model, state)
    if odd := sorted(set(tensors) ^ expected_tensors(settings)):
        raise CheckpointError(
            f"{checkpoint}: its tensors are not those of model.recipe={config.model.recipe}; the first is {odd[0]}"
        )
    made = folder / "model"
    made.mkdir()
    settings.save_pretrained(made)
    tokenizer.save_pretrained(made)
    if generation is not None:
        generation.save_pretrained(made)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, made / "model.safetensors", {"format": "pt"}
    )
    return made


def _bridge(config: DemixConfig, model: Any, ids: dict[str, Any]) -> tuple[Any, Any]:
    """Return Bridge's converter for the recipe's model, and its Hugging Face configuration with the recipe's sizes.

    Args:
        ids: The tokens that text begins and ends with, as that configuration names them.
    """
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
    settings = type(known)(**{**own, **sizes, **ids, "dtype": str(model.params_dtype).removeprefix("torch.")})
    return AutoBridge.from_hf_config(settings), settings


def _converted(checkpoint: Path, bridge: Any, model: Any, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    registry = bridge._model_bridge.mapping_registry()
    place = holder(model)
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        mapping = registry.megatron_to_hf_lookup(name)
        if mapping is None:
            raise CheckpointError(
                f"{checkpoint}: {name} has no place in Megatron-Bridge's conversion of the recipe's model; only models "
                "of its family are exported"
            )
        try:
            tensors |= mapping.megatron_to_hf(tensor, place)
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


def _generation(config: DemixConfig, checkpoint: Path, folder: Path, num_rows: int) -> Any:
    """Return how text is generated, as is said beside the checkpoint's tokenizer, else the recipe's; None: nowhere."""
    weights = locate(checkpoint).weights
    found = read_generation(folder, num_rows, root=weights if folder.is_relative_to(weights) else None)
    given = config.tokenizer.huggingface_path
    if found is None and given is not None:  # Bridge saves a tokenizer alone when it trains
        found = read_generation(Path(given), num_rows)
    return found


def _longest(checkpoint: Path) -> int | None:
    """Return the longest text of a checkpoint of Bridge's own, as it says itself; None where nothing does."""
    weights = locate(checkpoint).weights
    try:
        found = parse_yaml(read_file(weights, weights / RUN_CONFIG), unknown_tags=True)
    except (FileNotFoundError, ValueError):
        return None
    model = found.get("model") if isinstance(found, dict) else None
    length = model.get("seq_length") if isinstance(model, dict) else None
    return length if type(length) is int and length > 0 else None
