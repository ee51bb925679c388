"""What of a transformer's architecture decides its size: parameters, parameters a rank holds, operations a token.

Pure arithmetic: nothing is built, and importing this imports neither torch nor NeMo. The counts are Megatron's own,
parameter for parameter, for every model that `nemo.collections.llm` calls a GPT.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nemo_demix.config import ParallelConfig
from nemo_demix.errors import ConfigError


@dataclass(frozen=True)
class ModelShape:
    """An architecture's sizes.

    Attributes:
        ffn_size: Hidden size of a dense layer's MLP; a mixture-of-experts model has no such layers.
        head_size: Size of one attention head.
        is_gated: Whether the MLP has a gate beside its up projection (SwiGLU).
        num_experts: Experts of each layer; 0: a dense model.
        experts_per_token: How many of them a token goes through.
        shared_expert_size: Hidden size of the expert that every token goes through; 0: there is none.
        num_positions: Learned position embeddings; 0: there are none.
        norm_parameters: Parameters of a normalisation for each element: 1 (RMSNorm), 2 with a bias (LayerNorm).
        recompute: none | selective | full: which activations are computed again in the backward pass.
        even_stages: Whether every pipeline stage has as many layers, so that their number has to divide.
    """

    num_layers: int
    hidden_size: int
    ffn_size: int
    num_heads: int
    num_query_groups: int
    head_size: int
    vocab_size: int
    is_gated: bool
    tied_embeddings: bool
    qk_norm: bool = False
    qkv_bias: bool = False
    linear_bias: bool = False
    num_experts: int = 0
    experts_per_token: int = 0
    expert_ffn_size: int = 0
    shared_expert_size: int = 0
    num_positions: int = 0
    norm_parameters: int = 1
    recompute: str = "none"
    even_stages: bool = True

    @property
    def heads_size(self) -> int:
        """Size of all query heads together."""
        return self.num_heads * self.head_size

    @property
    def groups_size(self) -> int:
        """Size of all key heads together; values have as much again."""
        return self.num_query_groups * self.head_size

    @property
    def num_parameters(self) -> int:
        """Parameters of the whole model."""
        whole = ParallelConfig()
        return self.parameters_of_rank(whole).total

    @property
    def active_parameters(self) -> int:
        """Parameters that multiply one token: all but the input embedding and the experts it does not go through."""
        idle = (self.num_experts - self.experts_per_token) * self._expert if self.num_experts else 0
        table = 0 if self.tied_embeddings else self.vocab_size * self.hidden_size
        return self.num_parameters - self.num_layers * idle - table - self.num_positions * self.hidden_size

    def flops_per_token(self, seq_length: int) -> float:
        """Return floating-point operations to train on one token: six a parameter, and causal attention over the
        sequence.

        Recomputed activations are not counted, as in NVIDIA's published "model" figures.
        """
        return 6.0 * self.active_parameters + 6.0 * self.num_layers * seq_length * self.heads_size

    def parameters_of_rank(self, parallel: ParallelConfig) -> "RankParameters":
        """Return what the rank holds that holds most: one of the first or the last pipeline stage.

        Megatron splits matrices over tensor ranks, layers over pipeline stages and experts over `parallel.expert`;
        normalisations, routers and position embeddings are on every tensor rank.
        """
        tensor, layers = parallel.tensor, -(-self.num_layers // parallel.pipeline)
        dense = layers * (self._split_of_layer // tensor + self._whole_of_layer)
        table = self.vocab_size * self.hidden_size // tensor
        first = table + self.num_positions * self.hidden_size
        last = table + self.hidden_size * self.norm_parameters  # tied: a copy of the first stage's
        both = first + last - (table if self.tied_embeddings else 0)
        ends = both if parallel.pipeline == 1 else max(first, last)
        experts = layers * self._expert * self.num_experts // parallel.expert if self.num_experts else 0
        return RankParameters(dense + ends, experts)

    @property
    def _split_of_layer(self) -> int:
        """Parameters of a layer that tensor ranks divide between them, but for experts."""
        qkv = self.heads_size + 2 * self.groups_size
        count = self.hidden_size * (qkv + self.heads_size)
        if self.qkv_bias or self.linear_bias:
            count += qkv
        for size in (self.shared_expert_size,) if self.num_experts else (self.ffn_size,):
            count += _mlp(self.hidden_size, size, self.is_gated)
            count += (2 if self.is_gated else 1) * size if self.linear_bias else 0
        return count

    @property
    def _whole_of_layer(self) -> int:
        """Parameters of a layer that every tensor rank has."""
        norms = 2 * self.hidden_size + (2 * self.head_size if self.qk_norm else 0)
        biases = 2 * self.hidden_size if self.linear_bias else 0
        return norms * self.norm_parameters + biases + self.hidden_size * self.num_experts

    @property
    def _expert(self) -> int:
        return _mlp(self.hidden_size, self.expert_ffn_size, self.is_gated)


@dataclass(frozen=True)
class RankParameters:
    """Parameters of one rank; experts are apart because another number of ranks has copies of them."""

    dense: int
    experts: int

    @property
    def total(self) -> int:
        """Dense parameters and experts' together."""
        return self.dense + self.experts


def _mlp(hidden_size: int, ffn_size: int, is_gated: bool) -> int:
    return hidden_size * ffn_size * (3 if is_gated else 2)


def shape_of(values: Mapping[str, Any]) -> ModelShape:
    """Return the shape that the attributes of a Megatron model configuration describe.

    Args:
        values: Values of the attributes in `ATTRIBUTES` and `UNEVEN`, by name.
    """
    heads, experts = values["num_attention_heads"], values["num_moe_experts"] or 0
    hidden = values["hidden_size"]
    ffn = values["ffn_hidden_size"] or 4 * hidden
    learned = values["position_embedding_type"] == "learned_absolute"
    return ModelShape(
        num_layers=values["num_layers"],
        hidden_size=hidden,
        ffn_size=ffn,
        num_heads=heads,
        num_query_groups=values["num_query_groups"] or heads,
        head_size=values["kv_channels"] or hidden // heads,
        vocab_size=values["vocab_size"],
        is_gated=bool(values["gated_linear_unit"]),
        tied_embeddings=bool(values["share_embeddings_and_output_weights"]),
        qk_norm=bool(values["qk_layernorm"]),
        qkv_bias=bool(values["add_qkv_bias"]),
        linear_bias=bool(values["add_bias_linear"]),
        num_experts=experts,
        experts_per_token=values["moe_router_topk"] if experts else 0,
        expert_ffn_size=(values["moe_ffn_hidden_size"] or ffn) if experts else 0,
        shared_expert_size=values["moe_shared_expert_intermediate_size"] or 0,
        num_positions=values["seq_length"] if learned else 0,
        norm_parameters=1 if values["normalization"] == "RMSNorm" else 2,
        recompute=values["recompute_granularity"] or "none",
        even_stages=not any(values[name] for name in UNEVEN),
    )


ATTRIBUTES = (
    "num_layers hidden_size ffn_hidden_size num_attention_heads num_query_groups kv_channels vocab_size seq_length "
    "gated_linear_unit share_embeddings_and_output_weights qk_layernorm add_qkv_bias add_bias_linear normalization "
    "position_embedding_type num_moe_experts moe_router_topk moe_ffn_hidden_size moe_shared_expert_intermediate_size "
    "recompute_granularity"
).split()
# Of the model's configuration or the strategy's: one that is set makes Megatron's stages differ in their layers.
UNEVEN = (
    "account_for_embedding_in_pipeline_split account_for_loss_in_pipeline_split num_layers_in_first_pipeline_stage "
    "num_layers_in_last_pipeline_stage pipeline_model_parallel_layout"
).split()


def check_layout(shape: ModelShape, parallel: ParallelConfig) -> None:
    """Refuse a layout that does not divide the model, before Megatron does in the middle of starting ranks.

    Raises:
        ConfigError: naming the key, and the sizes that do not divide.
    """
    for key, size, what, count in (
        ("tensor", parallel.tensor, "attention heads", shape.num_heads),
        ("tensor", parallel.tensor, "key and value heads (query groups)", shape.num_query_groups),
        ("pipeline", parallel.pipeline if shape.even_stages else 1, "layers", shape.num_layers),
    ):
        if count % size:
            raise ConfigError(f"parallel.{key}={size}: expected a divisor of the model's {count} {what}")
    if parallel.expert > 1 and not shape.num_experts:
        raise ConfigError(
            f"parallel.expert={parallel.expert}: the model has no experts to divide; set parallel.expert=1"
        )
    if shape.num_experts % parallel.expert:
        raise ConfigError(
            f"parallel.expert={parallel.expert}: expected a divisor of the model's {shape.num_experts} experts"
        )
    if shape.num_experts and parallel.tensor > 1 and not parallel.sequence:
        raise ConfigError(
            f"parallel.tensor={parallel.tensor}: Megatron trains a mixture-of-experts model over tensor ranks only "
            "with parallel.sequence=true (which needs Transformer Engine); set it, or parallel.tensor=1"
        )
