"""What a checkpoint's own files say of its model, read without running or trusting them.

Which file says it is a matter of the layout (`layouts/`).

Source: megatron.core.transformer.TransformerConfig (names and defaults).
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_demix.checkpoints.files import read_file
from nemo_demix.plain_yaml import parse_yaml

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Architecture:
    """The shape of a model, and how its weights were kept; None: the checkpoint does not say."""

    model_class: str | None = None  # dotted path of the class or provider that builds it
    num_layers: int | None = None
    hidden_size: int | None = None
    ffn_hidden_size: int | None = None
    num_attention_heads: int | None = None
    num_query_groups: int | None = None
    kv_channels: int | None = None
    gated_linear_unit: bool | None = None
    tied_embeddings: bool | None = None
    num_experts: int | None = None  # 0: dense
    vocab_size: int | None = None  # as configured; Megatron-LM stores it padded, NeMo and Megatron-Bridge do not
    fp8_weights: bool | None = None  # whether they were kept in FP8 or FP4 while it was trained, and so rounded


# Our field -> the name in a TransformerConfig, which NeMo's and Megatron-Bridge's files share.
_CONFIG_NAMES = {
    "num_layers": "num_layers",
    "hidden_size": "hidden_size",
    "ffn_hidden_size": "ffn_hidden_size",
    "num_attention_heads": "num_attention_heads",
    "num_query_groups": "num_query_groups",
    "kv_channels": "kv_channels",
    "gated_linear_unit": "gated_linear_unit",
    "tied_embeddings": "share_embeddings_and_output_weights",
    "num_experts": "num_moe_experts",
    "vocab_size": "vocab_size",
}

# Under any of these names a framework says that it keeps weights so.
_ROUNDED = ("fp8_param", "fp8_param_gather", "fp4_param", "fp4_param_gather")


def read_yaml(root: Path, path: Path) -> dict[str, Any]:
    """Read a YAML file that is a mapping; empty, with a warning, where it is none.

    Raises:
        CheckpointError: as `files.read_file`, of which `root` is the first argument.
    """
    try:
        found = parse_yaml(read_file(root, path), unknown_tags=True)
    except ValueError as error:
        logger.warning("%s: not YAML (%s); the architecture is unknown", path, str(error).partition("\n")[0])
        return {}
    return found if isinstance(found, dict) else {}


def section(mapping: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the mapping of that name in a mapping; empty where there is none."""
    value = mapping.get(name)
    return value if isinstance(value, dict) else {}


def from_config(config: Mapping[str, Any], model_class: Any, complete: bool = True) -> Architecture:
    """Take the sizes from a TransformerConfig's values; those that a complete one lacks are Megatron's defaults."""
    values = {ours: config.get(name) for ours, name in _CONFIG_NAMES.items()}
    values = {name: value if isinstance(value, int) else None for name, value in values.items()}
    hidden, heads = values["hidden_size"], values["num_attention_heads"]
    if complete and hidden is not None and heads:
        defaults = {"ffn_hidden_size": 4 * hidden, "num_query_groups": heads, "kv_channels": hidden // heads}
        values.update({name: default for name, default in defaults.items() if values[name] is None})
    if complete and values["num_experts"] is None and "num_moe_experts" in config:
        values["num_experts"] = 0
    rounded = [value for name in _ROUNDED if isinstance(value := config.get(name), bool)]
    named = model_class if isinstance(model_class, str) else None
    return Architecture(named, **values, fp8_weights=any(rounded) if rounded else None)
