"""Recipes for machines that reach no hub: Megatron-Bridge's own ask Hugging Face's for a model's configuration."""

from typing import Any

from megatron.bridge import AutoBridge
from megatron.bridge.recipes.common import _pretrain_common
from transformers import Qwen3Config


def qwen3_1p7b_pretrain_config() -> Any:
    """Return `megatron.bridge.recipes.qwen.qwen3_1p7b_pretrain_config`, with the model's configuration at hand."""
    sizes = Qwen3Config(
        vocab_size=151936,
        hidden_size=2048,
        intermediate_size=6144,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40960,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        rope_theta=1_000_000,
        architectures=["Qwen3ForCausalLM"],
        dtype="bfloat16",
    )
    recipe = _pretrain_common()
    recipe.model = AutoBridge.from_hf_config(sizes).to_megatron_provider(load_weights=False)
    recipe.model.init_method_std = 0.02
    recipe.model.huggingface_config = sizes  # what an export begins with
    return recipe
