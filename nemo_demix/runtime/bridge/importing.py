"""A Hugging Face folder as a checkpoint of Megatron-Bridge's, by its own mappings of names and layouts.

The model is the recipe's, built on the CPU. Each of its tensors is made of those of the folder that Bridge's mapping
names, one after another, and Bridge saves it. Code of the folder is not run, and only safetensors are read.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from megatron.bridge import AutoBridge
from megatron.bridge.training.model_load_save import save_megatron_model
from megatron.core.rerun_state_machine import destroy_rerun_state_machine
from safetensors import safe_open

from nemo_demix.checkpoints.layouts import locate
from nemo_demix.config import DemixConfig, ParallelConfig
from nemo_demix.errors import CheckpointError, ConfigError
from nemo_demix.runtime.as_saved import AsSaved
from nemo_demix.runtime.bridge.backend import provided, start_alone
from nemo_demix.runtime.bridge.conversion import holder, lost_settings
from nemo_demix.runtime.bridge.recipe import base_recipe, override_model
from nemo_demix.runtime.huggingface import SourceFolder, dtype_settings, load_config_folder
from nemo_demix.runtime.saving import hand_over_in_process

# What of a model's configuration decides what it computes, and a Hugging Face configuration says.
_COMPUTES = (
    "num_layers hidden_size ffn_hidden_size num_attention_heads num_query_groups kv_channels layernorm_epsilon "
    "rotary_base rotary_percent rope_scaling rope_scaling_factor seq_len_interpolation_factor position_embedding_type "
    "share_embeddings_and_output_weights num_moe_experts moe_ffn_hidden_size moe_router_topk moe_router_pre_softmax "
    "moe_router_score_function moe_router_topk_scaling_factor moe_shared_expert_intermediate_size moe_layer_freq "
    "activation_func gated_linear_unit add_bias_linear add_qkv_bias qk_layernorm normalization "
    "layernorm_zero_centered_gamma softmax_scale window_size"
).split()


def import_checkpoint(config: DemixConfig, source: SourceFolder, folder: Path) -> Path:
    """Write a Hugging Face model as a checkpoint of tensor parallel size 1, bit for bit in its dtype.

    Args:
        folder: The checkpoint is written below it.
    Returns:
        The checkpoint's folder: an iteration 0, with Bridge's trackers beside it.
    Raises:
        ConfigError: if Bridge does not convert the folder's family, or the folder's model is not the recipe's.
        CheckpointError: if the tensors are not those of the model, or transformers cannot read its configuration.
    Memory: the model, and its largest tensor twice.
    Collective: none; a process group of one is made where there is none.
    """
    path = source.path / "config.json"
    settings = load_config_folder(source.path)
    if getattr(settings, "auto_map", None):
        del settings.auto_map  # code of the folder's own, which is not asked for anything
    bridge = _converter(path, settings)
    start_alone()
    recipe = base_recipe(replace(config, parallel=ParallelConfig()), on_cpu=True)
    override_model(recipe, config)
    model = recipe.model
    if config.model.vocab_size not in (None, source.num_rows):
        raise ConfigError(f"{path}: vocab_size is {source.num_rows}, model.vocab_size {config.model.vocab_size}")
    model.vocab_size, model.should_pad_vocab = source.num_rows, False
    _check_same_model(path, settings, bridge, model, config)
    length = getattr(settings, "max_position_embeddings", None)  # which an export says again
    model.seq_length = length if type(length) is int and length > 0 else model.seq_length
    for name, value in dtype_settings(source.dtype).items():
        setattr(model, name, value)
    live = provided(model).to(source.dtype)  # Megatron's local norms are fp32 until it trains
    _fill(AsSaved(live, model), source, bridge)
    hand_over_in_process()
    made = folder / "checkpoint"
    save_megatron_model([live], made)
    destroy_rerun_state_machine()  # which a save makes, and a training would find in its place
    tokenizer = locate(made).weights / "tokenizer"
    source.tokenizer.save_pretrained(tokenizer)
    if source.generation is not None:
        source.generation.save_pretrained(tokenizer)
    return made


def _converter(path: Path, settings: Any) -> Any:
    """Return Bridge's converter for a Hugging Face configuration."""
    try:
        return AutoBridge.from_hf_config(settings)
    except ValueError:  # its message is a page that asks for a new class
        named = ", ".join(getattr(settings, "architectures", None) or ["none"])
        known = [name for name in AutoBridge.list_supported_models() if name.endswith("ForCausalLM")]
        raise ConfigError(
            f"{path}: architectures: {named:.120}, which Megatron-Bridge does not convert; expected one of "
            f"{', '.join(known)}"
        ) from None


def _check_same_model(path: Path, settings: Any, bridge: Any, model: Any, config: DemixConfig) -> None:
    """Compare a folder's model with the recipe's, and with what Bridge's conversion would keep of it.

    Raises:
        ConfigError: if they differ.
    """
    theirs = bridge.to_megatron_provider(load_weights=False)
    pairs = {name: (getattr(theirs, name, None), getattr(model, name, None)) for name in _COMPUTES}
    if differences := [
        f"{name} is {_shown(found)}, the recipe's {_shown(own)}" for name, (found, own) in pairs.items() if found != own
    ]:
        raise ConfigError(
            f"{path}: in Megatron's words, {'; '.join(differences)}. Use the recipe of this model "
            f"(model.recipe={config.model.recipe} now), or set model.overrides.model.config to its sizes"
        )
    if lost := lost_settings(settings, bridge, theirs):
        raise ConfigError(
            f"{path}: {'; '.join(lost)}: Megatron-Bridge's conversion would lose that, and the model would compute "
            "something else. Models with it are not imported"
        )


def _shown(value: Any) -> str:
    return str(getattr(value, "__name__", value))


def _fill(named: AsSaved, source: SourceFolder, bridge: Any) -> None:
    """Make every tensor of the live model of the folder's.

    Raises:
        CheckpointError: if a tensor is missing, left over or of another shape.
    """
    registry, place = bridge._model_bridge.mapping_registry(), holder(named.config)
    mappings = {}
    for name, parameter in named.named_parameters():
        mapping = registry.megatron_to_hf_lookup(name)
        if mapping is None:
            raise CheckpointError(f"{source.path}: Megatron-Bridge's conversion has nothing for {name} of the model")
        mappings[name] = (mapping, parameter.shape)
    wanted = {name for mapping, _ in mappings.values() for name in _named(mapping)}
    given = set(source.files)
    if named.config.share_embeddings_and_output_weights:
        given.discard("lm_head.weight")  # a tied model may be saved with its output layer all the same
    if odd := sorted(given ^ wanted):
        raise CheckpointError(
            f"{source.path}: its tensors are not those of its config.json; the first is {odd[0]}, which "
            f"{'no part of the model takes' if odd[0] in given else 'the folder lacks'}"
        )
    with _Tensors(source.files) as tensors:
        for name, (mapping, shape) in mappings.items():
            what = f"{source.path}: {' and '.join(_named(mapping))}"
            parts = bridge._model_bridge.maybe_modify_loaded_hf_weight(mapping.hf_param, tensors)
            try:
                tensor = mapping.hf_to_megatron(parts, place)
            except (ValueError, RuntimeError, AssertionError) as error:
                raise CheckpointError(f"{what} is not of its config.json: {error}") from None
            if tensor.shape != shape:
                raise CheckpointError(
                    f"{what} makes a tensor of shape {tuple(tensor.shape)}; expected {tuple(shape)}, by its config.json"
                )
            named.fill(name, tensor)


def _named(mapping: Any) -> list[str]:
    """Return the names of the tensors that a mapping takes."""
    return [mapping.hf_param] if isinstance(mapping.hf_param, str) else list(mapping.hf_param.values())


class _Tensors(Mapping[str, torch.Tensor]):
    """The tensors of a folder, each read when it is asked for."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files, self._stack = files, ExitStack()
        self._open: dict[Path, Any] = {}

    def __enter__(self) -> "_Tensors":
        self._open = {
            path: self._stack.enter_context(safe_open(path, framework="pt")) for path in {*self._files.values()}
        }
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._open[self._files[name]].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)
