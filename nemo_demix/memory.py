"""How much memory a GPU needs, estimated before anything is started: bytes of training, bytes of the search.

Pure arithmetic over a `ModelShape` and a layout; what is an estimate and what is exact is said at each part. Weights,
gradients, optimizer and resident components are exact; activations are a formula's; `OVERHEAD_GIB` is a guess.
"""

from dataclasses import dataclass, fields

from nemo_demix.config import DemixConfig, ParallelConfig
from nemo_demix.model_shape import ModelShape

GIB = 2**30
# CUDA context, NCCL and cuBLAS buffers, fragmentation. A guess: it differs with the driver and the number of groups.
OVERHEAD_GIB = 4.0
CPU_OVERHEAD_GIB = 1.0  # Python, torch and NeMo; also a guess
_DEVICE_BLOCK = 1 << 24  # elements of a live merge's scratch, see merging/live.py
_WEIGHT_BYTES = {"bf16-mixed": 2, "16-mixed": 2, "32": 4}
_GRADIENT_BYTES = {"bf16-mixed": 4, "16-mixed": 2, "32": 4}  # NeMo's plugins: bf16 is reduced in fp32
_OPTIMIZER_BYTES = {"bf16-mixed": 12, "16-mixed": 12, "32": 8}  # two moments, and an fp32 copy where weights are not


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of one GPU while it trains."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    overhead: float

    @property
    def total(self) -> float:
        """All of it."""
        return sum(getattr(self, field.name) for field in fields(self))

    def __str__(self) -> str:
        return _sum_of_parts(self)


@dataclass(frozen=True)
class SearchMemory:
    """Bytes of one GPU while merged proxies are scored."""

    live_model: float
    components: float  # resident shards of all of them, and of the base and second moments where the method uses them
    merged_ahead: float  # search.merge_batch - 1 proxies
    scratch: float
    activations: float
    logits: float
    overhead: float

    @property
    def total(self) -> float:
        """All of it."""
        return sum(getattr(self, field.name) for field in fields(self))

    def __str__(self) -> str:
        return _sum_of_parts(self)


def _sum_of_parts(memory: TrainingMemory | SearchMemory) -> str:
    parts = [(field.name.replace("_", " "), getattr(memory, field.name) / GIB) for field in fields(memory)]
    return f"{memory.total / GIB:.1f} GiB = " + " + ".join(f"{name} {size:.1f}" for name, size in parts if size >= 0.05)


def training_memory(config: DemixConfig, shape: ModelShape, on_gpu: bool = True) -> TrainingMemory:
    """Estimate the bytes of the GPU that needs most: weights, gradients, optimizer, activations, logits.

    The distributed optimizer divides its state between the ranks that have copies of a parameter: `data` of them for
    dense parameters, tensor x data / expert for experts. In bf16 that makes 6 + 12/data bytes a parameter.
    Source: Megatron-LM's README, "Distributed Optimizer".

    Args:
        on_gpu: Whether ranks are on GPUs; on a CPU the optimizer's state is whole on every rank.
    """
    parallel, precision = config.parallel, config.train.precision
    held = shape.parameters_of_rank(parallel)
    copies = parallel.data if on_gpu else 1
    expert_copies = parallel.tensor * parallel.data / parallel.expert if on_gpu else 1
    tokens = config.train.micro_batch_size * config.train.seq_length
    microbatches = max(1, config.train.global_batch_size // (config.train.micro_batch_size * parallel.data))
    return TrainingMemory(
        weights=held.total * _WEIGHT_BYTES[precision],
        gradients=held.total * _GRADIENT_BYTES[precision],
        optimizer=(held.dense / copies + held.experts / expert_copies) * _OPTIMIZER_BYTES[precision],
        activations=activation_bytes(shape, parallel, tokens, microbatches, _WEIGHT_BYTES[precision]),
        logits=logit_bytes(shape, parallel, tokens, _WEIGHT_BYTES[precision]),
        overhead=_overhead(on_gpu),
    )


def checkpoint_bytes(shape: ModelShape, precision: str) -> tuple[float, float]:
    """Return bytes of a checkpoint on disk: of the weights alone, and with the optimizer's state, as training resumes
    from.
    """
    weights = shape.num_parameters * _WEIGHT_BYTES[precision]
    return weights, weights + shape.num_parameters * _OPTIMIZER_BYTES[precision]


def search_memory(
    config: DemixConfig,
    shape: ModelShape,
    num_held: int,
    in_fp32: bool,
    on_gpu: bool = True,
) -> SearchMemory:
    """Estimate the bytes of a GPU that holds its shard of the live model and of every component.

    These are K resident shards at tensor x pipeline, and what else the merge method uses.

    Args:
        num_held: Shards beside the live model: the components, the base and second moments where the method uses them.
        in_fp32: Whether they are held in fp32, as differences from the base are, rather than as stored.
    """
    parallel, item = config.parallel, _WEIGHT_BYTES[config.train.precision]
    held = shape.parameters_of_rank(parallel).total
    tokens = config.suite.batch_tokens
    return SearchMemory(
        live_model=held * item,
        components=held * num_held * (4 if in_fp32 else item),
        merged_ahead=held * item * max(0, config.search.merge_batch - 1),
        scratch=4.0 * min(_DEVICE_BLOCK, held) * (num_held + config.search.merge_batch + 1),
        activations=layer_bytes(shape, parallel, tokens, item),  # one layer's: nothing is kept for a backward pass
        logits=logit_bytes(shape, parallel, tokens, item),
        overhead=_overhead(on_gpu),
    )


def _overhead(on_gpu: bool) -> float:
    return (OVERHEAD_GIB if on_gpu else CPU_OVERHEAD_GIB) * GIB


def activation_bytes(
    shape: ModelShape, parallel: ParallelConfig, num_tokens: int, num_microbatches: int, item_bytes: int
) -> float:
    """Estimate the bytes that a rank of the first pipeline stage keeps for its backward passes.

    A stage keeps as many microbatches as there are stages (1F1B), so all together the whole depth's, whatever
    `pipeline` is. Full recomputation keeps each layer's input, and one layer's own while it is computed again.
    Source: Korthikanti et al. 2022 (arXiv:2205.05198), section 4 and 5. Departs from it: sizes of grouped-query
    attention, gated MLPs and experts; no dropout; attention scores are never stored (flash attention).

    Args:
        num_tokens: Tokens of one microbatch.
        num_microbatches: Microbatches of a step; fewer than stages keep less.
        item_bytes: Bytes of one element of an activation.
    """
    layers = -(-shape.num_layers // parallel.pipeline) * min(parallel.pipeline, num_microbatches)
    layer = layer_bytes(shape, parallel, num_tokens, item_bytes)
    if shape.recompute == "full":
        spread = parallel.tensor if parallel.sequence else 1
        return layers * item_bytes * num_tokens * shape.hidden_size / spread + layer
    return layers * layer


def layer_bytes(shape: ModelShape, parallel: ParallelConfig, num_tokens: int, item_bytes: int) -> float:
    """Estimate the bytes that one rank keeps of one layer for its backward pass.

    Inputs of the two normalisations and of the matrices behind them: four times the hidden size. Queries, keys,
    values and what attention gives; queries and keys once more where they are normalised. The MLP's first product and
    what its activation gives. A token that goes through k experts has k copies of the last two, and of its hidden
    state before and after. These are fused layers (Transformer Engine): the local layers of a CPU keep twice as much.

    Args:
        num_tokens: Tokens of one microbatch.
        item_bytes: Bytes of one element of an activation.
    """
    spread = parallel.tensor if parallel.sequence else 1
    whole = 4 * shape.hidden_size / spread
    split = (2 + shape.qk_norm) * (shape.heads_size + shape.groups_size) / parallel.tensor
    width = 3 if shape.is_gated else 2
    if shape.num_experts:
        copies = 2 * shape.hidden_size + width * shape.expert_ffn_size
        whole += shape.experts_per_token * copies / spread
        split += width * shape.shared_expert_size / parallel.tensor
    else:
        split += width * shape.ffn_size / parallel.tensor
    return float(num_tokens * item_bytes * (whole + split))


def logit_bytes(shape: ModelShape, parallel: ParallelConfig, num_tokens: int, item_bytes: int) -> float:
    """Return bytes of the logits that one rank holds for these tokens.

    They are the output matrix's own, and the fp32 copy that the cross-entropy turns into a softmax.
    """
    return num_tokens * shape.vocab_size / parallel.tensor * (item_bytes + 4.0)
