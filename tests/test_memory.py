"""The memory estimate: bytes by hand where these are exact, a real backward pass where they are not."""

from dataclasses import replace

import pytest

from nemo_demix.config import DemixConfig, ParallelConfig, SuiteConfig, TrainConfig
from nemo_demix.memory import GIB, OVERHEAD_GIB, activation_bytes, search_memory, training_memory
from tests.helpers import run_program
from tests.test_model_shape import LLAMA_8B, QWEN3_1P7B, QWEN3_30B_A3B


def config_with(parallel: ParallelConfig, precision: str = "bf16-mixed") -> DemixConfig:
    train = TrainConfig(global_batch_size=512, micro_batch_size=1, seq_length=8192, precision=precision)
    return DemixConfig(name="try", parallel=parallel, train=train, suite=SuiteConfig(batch_tokens=16384))


@pytest.mark.parametrize("data", [1, 8, 64])
def test_a_parameter_takes_6_bytes_and_12_shared_between_data_ranks(data: int) -> None:
    """Megatron-LM's README, "Distributed Optimizer": bf16 parameters, fp32 gradients."""
    memory = training_memory(config_with(ParallelConfig(data=data)), LLAMA_8B)
    per_parameter = (memory.weights + memory.gradients + memory.optimizer) / LLAMA_8B.num_parameters
    assert per_parameter == pytest.approx(6 + 12 / data)


def test_fp32_takes_16_bytes_a_parameter_and_a_cpu_shares_nothing() -> None:
    config = config_with(ParallelConfig(data=2), "32")
    memory = training_memory(config, QWEN3_1P7B, on_gpu=False)
    assert memory.weights + memory.gradients + memory.optimizer == 16 * QWEN3_1P7B.num_parameters


def test_the_optimizers_of_experts_are_shared_between_fewer_ranks() -> None:
    memory = training_memory(config_with(ParallelConfig(data=16, expert=8)), QWEN3_30B_A3B)
    held = QWEN3_30B_A3B.parameters_of_rank(ParallelConfig(data=16, expert=8))
    assert memory.optimizer == pytest.approx(12 * (held.dense / 16 + held.experts / 2))


def test_resident_components_are_shards_in_the_stored_type_or_fp32_task_vectors() -> None:
    config = config_with(ParallelConfig(tensor=4, pipeline=2))
    held = LLAMA_8B.parameters_of_rank(config.parallel).total
    linear = search_memory(config, LLAMA_8B, 7, in_fp32=False)
    ties = search_memory(config, LLAMA_8B, 8, in_fp32=True)
    assert (linear.live_model, linear.components) == (2 * held, 7 * 2 * held)
    assert ties.components == 8 * 4 * held
    config.search.merge_batch = 4
    assert search_memory(config, LLAMA_8B, 7, False).merged_ahead == 3 * 2 * held


def test_activations_are_32_bytes_for_gpt_and_divided_by_sequence_parallelism() -> None:
    """Korthikanti et al. 2022, equations 1, 2 and 4, without the 2 bytes of dropout masks and without scores."""
    gpt = replace(LLAMA_8B, num_query_groups=32, ffn_size=4 * 4096, is_gated=False)
    tokens = 2048
    each = tokens * gpt.hidden_size * gpt.num_layers
    alone = activation_bytes(gpt, ParallelConfig(), tokens, 1, 2)
    assert alone == 32 * each
    assert activation_bytes(gpt, ParallelConfig(tensor=4, sequence=True), tokens, 1, 2) == alone / 4
    assert activation_bytes(gpt, ParallelConfig(tensor=4), tokens, 1, 2) == (8 + 24 / 4) * each
    assert activation_bytes(gpt, ParallelConfig(pipeline=4), tokens, 8, 2) == alone  # four microbatches in flight
    full = activation_bytes(replace(gpt, recompute="full"), ParallelConfig(), tokens, 1, 2)
    assert full == 2 * each + alone / gpt.num_layers


def test_the_parts_are_listed_and_sum_to_the_total() -> None:
    memory = training_memory(config_with(ParallelConfig(data=64)), QWEN3_1P7B)
    text = str(memory)
    assert text.startswith(f"{memory.total / GIB:.1f} GiB = weights 3.2 + gradients 6.4 + optimizer 0.3 + activations")
    assert text.endswith(f"overhead {OVERHEAD_GIB:.1f}")


def test_a_real_backward_pass_keeps_what_unfused_layers_add() -> None:
    """A CPU's local layers keep results that Transformer Engine's fused ones compute again: about twice as much."""
    found = run_program("activations")
    kept = found["kept"] - found["scores"] - found["logits"] / 2
    assert 1.5 < kept / found["estimated"] < 2.0
