"""One pass of a live model over the suite: what each request, or each of its tokens, costs.

Axes: R requests, T gold tokens (those of every request's continuation, request after request in the suite's order).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from nemo_demix.errors import ScoreError
from nemo_demix.scoring.suite import Batch, Suite

_Collect = Callable[[torch.Tensor, Batch], torch.Tensor]  # from nats of a batch, (B, S), to what is kept of them


def gold_offsets(suite: Suite) -> np.ndarray:
    """Where each request's gold tokens start, int64, shape (R + 1,): request r has offsets[r] up to offsets[r + 1]."""
    lengths_R = [len(request.tokens) - request.start for request in suite.requests]
    return np.concatenate([[0], np.cumsum(lengths_R)]).astype(np.int64)


def request_bits(model: torch.nn.Module, suite: Suite) -> np.ndarray:
    """Bits of every request's continuation under the model, float64, shape (R,); lower is better.

    Tensor and pipeline ranks work on one batch together; data-parallel ranks take different batches, unless they share
    a mixture-of-experts model's experts: then all of these take the same ones, since each needs the others' experts.

    Raises:
        ScoreError: if a value is not finite, naming the score it belongs to.
    Collective: every rank.
    """
    # Summed where the model is, and not from the tokens' log-probabilities: as scores have been from the first.
    places_R = np.arange(len(suite.requests) + 1)
    bits_R = _collect(model, suite, _row_bits, places_R, torch.float64)
    _check_finite(suite, bits_R, places_R, "bits")
    return bits_R


def gold_token_logprobs(model: torch.nn.Module, suite: Suite) -> np.ndarray:
    """Natural-log probability of every gold token under the model, float32, shape (T,); see `gold_offsets`.

    Raises:
        ScoreError: if a value is not finite, naming the score it belongs to.
    Collective: every rank, as `request_bits`.
    """
    offsets_R = gold_offsets(suite)
    logprobs_T = _collect(model, suite, _token_logprobs, offsets_R, torch.float32)
    _check_finite(suite, logprobs_T, offsets_R, "nats for a token")
    return logprobs_T


@torch.no_grad()
def _collect(
    model: torch.nn.Module, suite: Suite, collect: _Collect, offsets_R: np.ndarray, dtype: torch.dtype
) -> np.ndarray:
    """What `collect` keeps of all batches, in the suite's order: request r's is at offsets[r] up to offsets[r + 1]."""
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
    kept = torch.zeros(int(offsets_R[-1]), dtype=dtype, device=device)
    for batch in suite.batches[data_rank::data_size]:
        rows, width = batch.tokens_BS.shape
        outputs = run(
            forward_step_func=partial(_forward, batch=batch, collect=collect, device=device),
            data_iterator=None,
            model=model,
            num_microbatches=1,
            seq_length=width,
            micro_batch_size=rows,
            forward_only=True,
            collect_non_loss_data=True,
        )
        if reports:
            places = np.concatenate([np.arange(offsets_R[index], offsets_R[index + 1]) for index in batch.request_ids])
            kept[torch.from_numpy(places).to(device)] = outputs[0]
    torch.distributed.all_reduce(kept)  # every place is one rank's, and zero elsewhere
    return kept.cpu().numpy()


def _forward(
    data_iterator: Any, model: torch.nn.Module, batch: Batch, collect: _Collect, device: torch.device
) -> tuple[Any, Any]:
    tokens_BS, labels_BS = batch.tokens_BS.to(device), batch.labels_BS.to(device)
    positions_BS = torch.arange(tokens_BS.shape[1], device=device).expand_as(tokens_BS)
    nats_BS = model(tokens_BS, positions_BS, None, labels=labels_BS)
    return nats_BS, lambda nats_BS, non_loss_data=True: collect(nats_BS, batch)


def _row_bits(nats_BS: torch.Tensor, batch: Batch) -> torch.Tensor:
    return (nats_BS.double() * batch.mask_BS.to(nats_BS.device)).sum(dim=1) / float(np.log(2.0))


def _token_logprobs(nats_BS: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Row after row, so request after request of the batch."""
    return -nats_BS.float()[batch.mask_BS.to(nats_BS.device) > 0]


def _check_finite(suite: Suite, values: np.ndarray, offsets_R: np.ndarray, what: str) -> None:
    if np.isfinite(values).all():
        return
    place = int(np.flatnonzero(~np.isfinite(values))[0])
    request = suite.requests[int(np.searchsorted(offsets_R, place, side="right")) - 1]
    raise ScoreError(f"{request.group}: the model gives {values[place]} {what}; its weights are not usable")
