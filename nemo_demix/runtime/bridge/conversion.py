"""What both ways of Megatron-Bridge's conversion need: a module to stand for any, and what a family would lose."""

from typing import Any

import torch
from megatron.core.transformer.identity_op import IdentityOp

# Of a Hugging Face configuration: what decides what the model computes. A key that Bridge does not translate is not
# compared.
_ARCHITECTURE = (
    "num_hidden_layers hidden_size intermediate_size num_attention_heads num_key_value_heads head_dim hidden_act "
    "rms_norm_eps partial_rotary_factor attention_bias mlp_bias tie_word_embeddings num_experts num_experts_per_tok "
    "moe_intermediate_size norm_topk_prob decoder_sparse_step"
).split()


def holder(model: Any) -> IdentityOp:
    """Return a module for mappings to convert tensors of: on one rank every tensor is whole, whatever it is of."""
    found = IdentityOp()
    found.config = model
    found.weight = torch.empty(0)  # whose device they take a tensor to
    return found


def lost_settings(settings: Any, bridge: Any, provider: Any) -> list[str]:
    """List what of a Hugging Face configuration its model for Megatron would not have, one line each.

    Args:
        settings: The Hugging Face configuration.
        bridge: Its `AutoBridge`.
        provider: What that made of it.
    """
    again = bridge._model_bridge.megatron_to_hf_config(provider)
    lost = [
        f"{name} is {found} there, {kept} after it"
        for name in _ARCHITECTURE
        if (kept := again.get(name)) is not None
        and (found := getattr(settings, name, None)) is not None
        and found != kept
    ]
    known = _rope(again.get("rope_scaling"))
    for name, value in _rope(getattr(settings, "rope_scaling", None)).items():
        if known.get(name) != value:
            lost.append(f"rope_scaling.{name} is {value} there, {known.get(name)} after it")
    kinds = set(getattr(settings, "layer_types", None) or ())
    if kinds - {"full_attention"} and getattr(provider, "window_size", None) is None:
        lost.append(f"layer_types are {', '.join(sorted(kinds))} there, full_attention after it")
    return lost


def _rope(scaling: Any) -> dict[str, Any]:
    """Return how positions are scaled; empty where they are not. Families with several kinds are left to Bridge."""
    found = dict(scaling) if isinstance(scaling, dict) else {}
    found.pop("rope_theta", None)  # compared as Megatron has it
    kind = found.pop("type", None)
    kind = found.setdefault("rope_type", kind or "default")
    if kind == "default" or any(isinstance(value, dict) for value in found.values()):
        return {}
    return found
