"""Log-probabilities of continuations under a live model, sharded over its ranks.

Axes: B rows, S places, Q scored tokens of a batch, V vocabulary, P
tensor ranks, T scored tokens of all continuations.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from nemo_demix.mixture import Array
from nemo_demix.scoring.batches import Batch, BatchPlan

_CHUNK_VALUES = 1 << 25  # of logits turned into probabilities at once: 128 MiB in fp32


@dataclass(frozen=True)
class TokenScores:
    """What a model says of every scored token.

    Attributes:
        logprobs_T: Natural-log probability, float32.
        greedy_T: Whether the model finds no token likelier.
    """

    logprobs_T: np.ndarray
    greedy_T: np.ndarray


def can_share_contexts(model: torch.nn.Module) -> bool:
    """Return whether rows may hold several continuations: attention has to take a mask, and positions that repeat.

    Megatron's own attention does. Transformer Engine's takes a mask only where it is built for one, and is left alone.
    Collective: all pipeline stages, which have to agree.
    """
    from megatron.core.transformer.attention import SelfAttention
    from megatron.core.transformer.dot_product_attention import DotProductAttention

    attentions = [module for module in model.modules() if isinstance(module, SelfAttention)]
    config: Any = model.config
    able = (
        bool(attentions)
        and all(type(module.core_attention) is DotProductAttention for module in attentions)
        and getattr(model, "position_embedding_type", None) in ("rope", "learned_absolute")
        and not config.multi_latent_attention
        and not config.apply_rope_fusion
        and not (config.masked_softmax_fusion and (config.fp16 or config.bf16))  # its kernel takes no mask
        and config.window_size is None
    )
    agreed = torch.tensor([int(able)], device=next(model.parameters()).device)
    torch.distributed.all_reduce(agreed, op=torch.distributed.ReduceOp.MIN)
    return bool(agreed.item())


@torch.no_grad()
def token_scores(model: torch.nn.Module, plan: BatchPlan, vocab_size: int) -> TokenScores:
    """Run all batches of a plan.

    Tensor and pipeline ranks work on one batch together; data-parallel ranks take different batches, unless they share
    a mixture-of-experts model's experts: then all of these take the same ones, since each needs the others' experts.

    Args:
        vocab_size: Tokens of the tokenizer. Rows of the embedding above them are padding: they have no probability.

    Collective: every rank; all get the result.
    """
    from megatron.core import parallel_state
    from megatron.core.pipeline_parallel import get_forward_backward_func

    run = get_forward_backward_func()
    device = next(model.parameters()).device
    # An expert group lies within a tensor group, or is made of whole ones: of so many data-parallel ranks, in order.
    tensor_size = parallel_state.get_tensor_model_parallel_world_size()
    sharing = max(1, parallel_state.get_expert_model_parallel_world_size() // tensor_size)
    data_rank, place = divmod(parallel_state.get_data_parallel_rank(), sharing)
    data_size = parallel_state.get_data_parallel_world_size() // sharing
    reports = parallel_state.is_pipeline_last_stage() and parallel_state.get_tensor_model_parallel_rank() == place == 0
    kept_2T = torch.zeros((2, int(plan.offsets_R[-1])), dtype=torch.float32, device=device)
    with _Selection(model).installed() as selection:
        for batch in plan.batches[data_rank::data_size]:
            rows, width = batch.tokens_BS.shape
            outputs = run(
                forward_step_func=partial(_forward, batch=batch, selection=selection, vocab_size=vocab_size),
                data_iterator=None,
                model=model,
                num_microbatches=1,
                seq_length=width,
                micro_batch_size=rows,
                forward_only=True,
                collect_non_loss_data=True,
            )
            if reports:
                kept_2T[:, torch.from_numpy(batch.places_Q).to(device)] = outputs[0]
    torch.distributed.all_reduce(kept_2T)  # every place is one rank's, and zero elsewhere
    found_2T = kept_2T.cpu().numpy()[:, plan.same_as_T]
    return TokenScores(found_2T[0], found_2T[1] > 0)


def continuation_logprobs(scores: TokenScores, plan: BatchPlan) -> Array:
    """Return the natural-log probability of every continuation, float64, shape (R,)."""
    return np.add.reduceat(scores.logprobs_T.astype(np.float64), plan.offsets_R[:-1])


def continuation_is_greedy(scores: TokenScores, plan: BatchPlan) -> np.ndarray:
    """Return whether greedy decoding would give the continuation, bool, shape (R,)."""
    return np.logical_and.reduceat(scores.greedy_T, plan.offsets_R[:-1])


class _Selection:
    """Has the output layer see only the places that are asked for, and rotary embeddings the tokens' own positions.

    The vocabulary's matrix is most of a small model's arithmetic and all of its memory here; few places are scored.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._batch: Batch | None = None
        self._handles: list[Any] = []

    @contextmanager
    def installed(self) -> Iterator["_Selection"]:
        """Keep the hooks in place while this is open."""
        output_layer = getattr(self._model, "output_layer", None)  # of the last pipeline stage
        rotary = getattr(self._model, "rotary_pos_emb", None)
        with ExitStack() as stack:
            if output_layer is not None:
                stack.callback(output_layer.register_forward_pre_hook(self._select).remove)
                # The hook gathers what sequence parallelism has split, as Megatron's own inference does.
                stack.callback(setattr, output_layer, "sequence_parallel", output_layer.sequence_parallel)
                self._gathers, output_layer.sequence_parallel = output_layer.sequence_parallel, False
            if rotary is not None:
                stack.callback(rotary.register_forward_hook(self._reposition).remove)
            yield self

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return the model's output for a batch: on the last stage logits of the scored places, (Q, 1, V / tensor
        size).
        """
        self._batch = batch
        device = next(self._model.parameters()).device
        tokens_BS = batch.tokens_BS.to(device)
        if batch.positions_BS is None or batch.branches_BS is None:
            positions_BS, mask = torch.arange(tokens_BS.shape[1], device=device).expand_as(tokens_BS), None
        else:
            positions_BS, mask = batch.positions_BS.to(device), _mask(batch.branches_BS.to(device))
        return self._model(tokens_BS, positions_BS, mask)  # type: ignore[no-any-return]

    def _select(self, layer: torch.nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        assert self._batch is not None
        hidden_SBH = arguments[0]
        if self._gathers:
            from megatron.core.tensor_parallel import gather_from_sequence_parallel_region

            hidden_SBH = gather_from_sequence_parallel_region(hidden_SBH)
        device = hidden_SBH.device
        chosen_QH = hidden_SBH[self._batch.columns_Q.to(device), self._batch.rows_Q.to(device)]
        return (chosen_QH.unsqueeze(1), *arguments[1:])

    def _reposition(self, layer: torch.nn.Module, arguments: tuple[Any, ...], angles_S11D: torch.Tensor) -> Any:
        assert self._batch is not None
        if self._batch.positions_BS is None:
            return angles_S11D
        positions_SB = self._batch.positions_BS.t().to(angles_S11D.device)
        return angles_S11D[:, 0, 0][positions_SB].unsqueeze(2)


def _mask(branches_BS: torch.Tensor) -> torch.Tensor:
    """Return True where a place must not be seen from another, bool, (B, 1, S, S): seen from along the third axis."""
    seen_BSS = (branches_BS[:, None, :] == 0) | (branches_BS[:, None, :] == branches_BS[:, :, None])
    return ~seen_BSS.tril_().unsqueeze(1)


def _forward(
    data_iterator: Any, model: torch.nn.Module, batch: Batch, selection: _Selection, vocab_size: int
) -> tuple[Any, Any]:
    return selection(batch), lambda logits, non_loss_data=True: _token_values(logits[0], batch, vocab_size)


def _token_values(logits_QV: torch.Tensor, batch: Batch, vocab_size: int) -> torch.Tensor:
    """Return the log-probability of each scored token, and 1.0 where none is likelier: float32, (2, Q).

    Args:
        logits_QV: This tensor rank's part of the vocabulary.
    """
    targets_Q = batch.targets_Q.to(logits_QV.device)
    size = max(1, _CHUNK_VALUES // logits_QV.shape[1])
    parts = [
        _chunk_values(part_QV, part_Q, vocab_size)
        for part_QV, part_Q in zip(logits_QV.split(size), targets_Q.split(size), strict=True)
    ]
    return torch.cat(parts, dim=1)


def _chunk_values(logits_QV: torch.Tensor, targets_Q: torch.Tensor, vocab_size: int) -> torch.Tensor:
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region, vocab_parallel_cross_entropy

    first = parallel_state.get_tensor_model_parallel_rank() * logits_QV.shape[1]
    logits_QV = logits_QV.float()
    if first + logits_QV.shape[1] > vocab_size:
        logits_QV = logits_QV.clone()
        logits_QV[:, max(0, vocab_size - first) :] = -torch.inf
    best_Q, token_Q = logits_QV.max(dim=1)
    best_QP, token_QP = (
        gather_from_tensor_model_parallel_region(part_Q[:, None]) for part_Q in (best_Q, token_Q + first)
    )
    token_Q = token_QP.gather(1, best_QP.argmax(dim=1, keepdim=True))[:, 0]
    nats_Q = vocab_parallel_cross_entropy(logits_QV.unsqueeze(1), targets_Q.unsqueeze(1))[:, 0]
    return torch.stack([-nats_Q, (token_Q == targets_Q).float()])
