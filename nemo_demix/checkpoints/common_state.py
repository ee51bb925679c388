"""`common.pt`: what a checkpoint keeps once for all ranks; a merged model takes it over without training state."""

import argparse
import io
import logging
import pickle
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

# Megatron-LM's keys and NeMo's.
_TRAINING_STATE = (
    "optimizer",
    "optimizer_states",
    "opt_param_scheduler",
    "lr_schedulers",
    "rng_state",
    "rerun_state_machine",
)


def without_training_state(data: bytes, path: Path) -> bytes:
    """The bytes of a `common.pt` without optimizer, scheduler and random state.

    A file that has none is returned as it is. One that names classes outside of torch's and Megatron's own lists is not
    opened at all: it is returned whole, and a warning says so.
    """
    if not any(key.encode() in data for key in _TRAINING_STATE):
        return data
    try:
        try:
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            from megatron.core.safe_globals import SAFE_GLOBALS  # imports Megatron, so only where it is needed

            # Leaving the context forgets its classes, also those that Megatron itself had made known before.
            known = torch.serialization.get_safe_globals()
            with torch.serialization.safe_globals([c for c in (argparse.Namespace, *SAFE_GLOBALS) if c not in known]):
                state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # the restricted unpickler raises many kinds; nothing has been run
        logger.warning("%s: kept whole, because it cannot be read safely (%s)", path, str(error).partition("\n")[0])
        return data
    if not isinstance(state, dict) or not any(key in state for key in _TRAINING_STATE):
        return data
    target = io.BytesIO()
    torch.save({key: value for key, value in state.items() if key not in _TRAINING_STATE}, target)
    return target.getvalue()
