"""Which model and which tokenizer a NeMo 2 checkpoint's `context/` describes, read without trusting it.

NeMo's own `load_context` imports and calls whatever `context/io.json` names (`fiddle`'s deserialization has no
allow-list), so a checkpoint from someone else could run anything. Here only `context/model.yaml` is read, as plain
YAML, and of it only numbers, truth values and the names of two classes of `nemo.collections.llm`. `write_context` then
writes a context of our own, which NeMo's exporters may load.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_demix.checkpoints.files import read_file
from nemo_demix.errors import CheckpointError
from nemo_demix.plain_yaml import parse_yaml

_PACKAGE = "nemo.collections.llm."
# Taken over from the checkpoint: what NeMo's exporters translate.
_CARRIED = (
    "num_layers hidden_size ffn_hidden_size num_attention_heads num_query_groups kv_channels layernorm_epsilon "
    "init_method_std rotary_base share_embeddings_and_output_weights seq_length max_position_embeddings scale_factor "
    "low_freq_factor high_freq_factor old_context_len num_moe_experts moe_ffn_hidden_size moe_router_topk "
    "moe_aux_loss_coeff"
).split()
# Changes what the model computes, but NeMo's exporters assume the model family's own value.
_ASSUMED = (
    "activation_func add_bias_linear add_qkv_bias apply_residual_connection_post_layernorm gated_linear_unit "
    "layernorm_zero_centered_gamma moe_layer_freq moe_router_enable_expert_bias moe_router_pre_softmax "
    "moe_router_score_function moe_router_topk_scaling_factor moe_shared_expert_intermediate_size "
    "multi_latent_attention normalization position_embedding_type "
    "qk_layernorm rotary_interleaved rotary_percent seq_len_interpolation_factor softmax_scale softmax_type window_size"
).split()


@dataclass(frozen=True)
class ModelContext:
    """A model as its checkpoint describes it."""

    model_class: type  # of nemo.collections.llm, e.g. Qwen3Model
    config_class: type  # e.g. Qwen3Config1P7B
    values: dict[str, Any]  # the configuration's architecture: plain values by name
    tokenizer: Path | None  # the folder of its Hugging Face tokenizer, where it has one


def read_context(checkpoint: Path) -> ModelContext:
    """Return the model of a NeMo 2 checkpoint. Nothing of the checkpoint is imported, called or unpickled.

    Raises:
        CheckpointError: if there is no context, it is damaged, it names a class outside NeMo's models, or the model
            departs from its family in a way that an export would lose.
    """
    path = checkpoint / "context" / "model.yaml"
    if not path.parent.is_dir():
        raise CheckpointError(
            f"{checkpoint}: has no context/, so nothing says what model this is; expected a NeMo 2 checkpoint "
            "(weights/ and context/). Copy context/ from another checkpoint of the same model beside weights/"
        )
    try:
        content = parse_yaml(read_file(checkpoint, path))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: not found; context/io.json alone is not read, because it can name code to run. Save the "
            "checkpoint with NeMo 2.7, or copy model.yaml from another checkpoint of the same model"
        ) from None
    except ValueError as error:
        raise CheckpointError(f"{path}: expected plain YAML, found: {error}; nothing of it was run") from None
    config = content.get("config") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(config, dict):
        raise CheckpointError(f"{path}: expected a model with its config, found neither; copy the checkpoint again")
    from nemo.collections.llm import GPTConfig, GPTModel

    model_class = _class(path, content.get("_target_"), GPTModel)
    config_class = _class(path, config.get("_target_"), GPTConfig)
    _check_assumed(path, config, config_class)
    return ModelContext(
        model_class, config_class, _carried(path, config, config_class), _tokenizer(path, content.get("tokenizer"))
    )


def _class(path: Path, target: Any, kind: type) -> type:
    """Return a class of NeMo's by its dotted name; only modules of NeMo's own collection are imported."""
    refused = CheckpointError(
        f"{path}: names {str(target)[:120]!r}; expected a {kind.__name__} of {_PACKAGE}*; nothing of it was run. "
        "Models defined elsewhere cannot be exported"
    )
    if not isinstance(target, str) or not target.startswith(_PACKAGE):
        raise refused
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        raise refused from None
    if not isinstance(found, type) or not issubclass(found, kind):
        raise refused
    return found


def _carried(path: Path, config: Mapping[str, Any], config_class: type) -> dict[str, Any]:
    known = {field.name for field in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    values = {name: config[name] for name in _CARRIED if name in known and name in config}
    for name, value in values.items():
        if value is not None and not isinstance(value, (bool, int, float)):
            raise CheckpointError(f"{path}: config.{name}: expected a number, found {str(value)[:80]!r}")
    return values


def _check_assumed(path: Path, config: Mapping[str, Any], config_class: type) -> None:
    for field in dataclasses.fields(config_class):  # type: ignore[arg-type]
        if field.name not in _ASSUMED or field.name not in config or field.default is dataclasses.MISSING:
            continue
        found, expected = config[field.name], field.default
        if callable(expected):  # a function is there by its name
            found = str(found.get("_target_")).rpartition(".")[2] if isinstance(found, dict) else found
            expected = getattr(expected, "__name__", None)
        if found != expected:
            raise CheckpointError(
                f"{path}: config.{field.name} is {str(found)[:80]}, where {config_class.__name__} has {expected}; "
                "Hugging Face's model of this family has no place for it, so it cannot be exported"
            )


def _tokenizer(path: Path, tokenizer: Any) -> Path | None:
    name = tokenizer.get("pretrained_model_name") if isinstance(tokenizer, dict) else None
    if not isinstance(name, str):
        return None
    if Path(name).name != name:
        raise CheckpointError(f"{path}: tokenizer: expected a folder in context/, found {name}; refused")
    folder = path.parent / name
    return folder if folder.is_dir() else None


def write_context(checkpoint: Path, model_class: type, model_config: Any) -> None:
    """Write `context/io.json` of a model, as NeMo's exporters read it.

    Args:
        checkpoint: A folder; `context/` is made in it.
        model_config: A `fiddle.Config` of the model's configuration.
    """
    import fiddle as fdl
    from fiddle._src.experimental import serialization
    from nemo.lightning.io.pl import TrainerContext

    (checkpoint / "context").mkdir(parents=True)
    context = fdl.Config(TrainerContext, model=fdl.Config(model_class, config=model_config), trainer=None)
    (checkpoint / "context" / "io.json").write_text(serialization.dump_json(context), encoding="utf-8")
