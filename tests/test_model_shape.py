"""Sizes of models against figures that others published, and layouts that do not divide them."""

import pytest

from nemo_demix.config import ParallelConfig
from nemo_demix.errors import ConfigError
from nemo_demix.model_shape import ModelShape, check_layout

LLAMA_8B = ModelShape(32, 4096, 14336, 32, 8, 128, 128_256, is_gated=True, tied_embeddings=False)
LLAMA_70B = ModelShape(80, 8192, 28672, 64, 8, 128, 128_256, is_gated=True, tied_embeddings=False)
LLAMA_405B = ModelShape(126, 16384, 53248, 128, 8, 128, 128_256, is_gated=True, tied_embeddings=False)
QWEN3_1P7B = ModelShape(28, 2048, 6144, 16, 8, 128, 151_936, is_gated=True, tied_embeddings=True, qk_norm=True)
QWEN3_30B_A3B = ModelShape(
    48, 2048, 6144, 32, 4, 128, 151_936, is_gated=True, tied_embeddings=False, qk_norm=True,
    num_experts=128, experts_per_token=8, expert_ffn_size=768,
)  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "published"),
    [(LLAMA_70B, 70_553_706_496), (LLAMA_405B, 405_853_388_800), (QWEN3_1P7B, 1_720_574_976)],
)
def test_parameters_are_those_of_the_published_checkpoints(shape: ModelShape, published: int) -> None:
    assert shape.num_parameters == published


@pytest.mark.parametrize(
    ("shape", "seq_length", "tokens_per_second", "tflops"),
    [
        (LLAMA_8B, 8192, 14451, 744),
        (LLAMA_70B, 8192, 1602, 719),
        (LLAMA_405B, 8192, 292, 737),
        (QWEN3_30B_A3B, 4096, 5275, 121),
    ],
)
def test_operations_a_token_are_those_behind_nvidias_figures(
    shape: ModelShape, seq_length: int, tokens_per_second: int, tflops: int
) -> None:
    """Megatron-Bridge's performance summary, 25.11, DGX-H100: model TFLOP/s over tokens/s, each of one GPU."""
    assert shape.flops_per_token(seq_length) == pytest.approx(tflops * 1e12 / tokens_per_second, rel=0.01)


@pytest.mark.parametrize("shape", [LLAMA_8B, QWEN3_1P7B, QWEN3_30B_A3B])
def test_ranks_hold_a_model_between_them(shape: ModelShape) -> None:
    """What is beyond an even division is on every tensor rank: normalisations and routers, well under a percent."""
    whole = shape.num_parameters
    for tensor in (2, 4):
        assert (
            whole
            <= shape.parameters_of_rank(ParallelConfig(tensor=tensor, expert=tensor)).total * tensor
            < whole * 1.01
        )
    halves = shape.parameters_of_rank(ParallelConfig(pipeline=2)).total * 2
    table = shape.vocab_size * shape.hidden_size
    # Tied embeddings are on the first stage and on the last.
    assert halves == pytest.approx(whole + (table if shape.tied_embeddings else 0), rel=1e-4)


def test_experts_are_divided_and_the_rest_is_not() -> None:
    whole = QWEN3_30B_A3B.parameters_of_rank(ParallelConfig())
    eighth = QWEN3_30B_A3B.parameters_of_rank(ParallelConfig(data=8, expert=8))
    assert (eighth.dense, eighth.experts) == (whole.dense, whole.experts / 8)
    assert whole.experts == 48 * 128 * 3 * 2048 * 768


@pytest.mark.parametrize(
    ("shape", "parallel", "message"),
    [
        (
            QWEN3_1P7B,
            ParallelConfig(tensor=3),
            "parallel.tensor=3: expected a divisor of the model's 16 attention heads",
        ),
        (QWEN3_30B_A3B, ParallelConfig(tensor=8, sequence=True), "the model's 4 key and value heads"),
        (LLAMA_8B, ParallelConfig(pipeline=3), "parallel.pipeline=3: expected a divisor of the model's 32 layers"),
        (LLAMA_8B, ParallelConfig(data=2, expert=2), "parallel.expert=2: the model has no experts to divide"),
        (QWEN3_30B_A3B, ParallelConfig(data=3, expert=3), "parallel.expert=3: expected a divisor of the model's 128"),
        (QWEN3_30B_A3B, ParallelConfig(tensor=2), "parallel.tensor=2: Megatron trains a mixture-of-experts model"),
    ],
)
def test_a_layout_that_does_not_divide_the_model_is_refused(
    shape: ModelShape, parallel: ParallelConfig, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_layout(shape, parallel)
