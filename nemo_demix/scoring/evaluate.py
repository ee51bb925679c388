"""One pass of a live model over the suite: the bits each request costs."""

from functools import partial
from typing import Any

import numpy as np
import torch

from nemo_demix.errors import ScoreError
from nemo_demix.scoring.suite import Batch, Suite


@torch.no_grad()
def request_bits(model: torch.nn.Module, suite: Suite) -> np.ndarray:
    """Bits of every request's continuation under the model, float64, shape (requests,); lower is better.

    Tensor and pipeline ranks work on one batch together; data-parallel ranks take different batches.

    Raises:
        ScoreError: if a value is not finite, naming the score it belongs to.
    Collective: every rank.
    """
    from megatron.core import parallel_state
    from megatron.core.pipeline_parallel import get_forward_backward_func

    run = get_forward_backward_func()
    device = next(model.parameters()).device
    data_rank = parallel_state.get_data_parallel_rank()
    data_size = parallel_state.get_data_parallel_world_size()
    reports = parallel_state.is_pipeline_last_stage() and parallel_state.get_tensor_model_parallel_rank() == 0
    bits = torch.zeros(len(suite.requests), dtype=torch.float64, device=device)
    for batch in suite.batches[data_rank::data_size]:
        rows, width = batch.tokens_BS.shape
        outputs = run(
            forward_step_func=partial(_forward, batch=batch, device=device),
            data_iterator=None,
            model=model,
            num_microbatches=1,
            seq_length=width,
            micro_batch_size=rows,
            forward_only=True,
            collect_non_loss_data=True,
        )
        if reports:
            bits[torch.tensor(batch.request_ids, device=device)] = outputs[0]
    torch.distributed.all_reduce(bits)
    values = bits.cpu().numpy()
    if not np.isfinite(values).all():
        index = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ScoreError(
            f"{suite.requests[index].group}: the model gives {values[index]} bits; its weights are not usable"
        )
    return values


def _forward(data_iterator: Any, model: torch.nn.Module, batch: Batch, device: torch.device) -> tuple[Any, Any]:
    tokens_BS, labels_BS = batch.tokens_BS.to(device), batch.labels_BS.to(device)
    positions_BS = torch.arange(tokens_BS.shape[1], device=device).expand_as(tokens_BS)
    nats = model(tokens_BS, positions_BS, None, labels=labels_BS)

    def collect(nats_BS: torch.Tensor, non_loss_data: bool = True) -> torch.Tensor:
        return (nats_BS.double() * batch.mask_BS.to(device)).sum(dim=1) / float(np.log(2.0))

    return nats, collect
