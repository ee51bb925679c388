"""The common state: what a checkpoint keeps once for all ranks, read without running anything of it. A merged model
takes it over without training state.
"""

import argparse
import io
import logging
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nemo_demix.checkpoints.objects import CommonState
from nemo_demix.errors import CheckpointError

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
# Of the classes that Megatron takes for plain; a file that names others is refused without importing it.
_MEGATRONS_MODULES = ("megatron.", "numpy.", "types.", "pathlib.", "argparse.")


def load_plain(data: bytes, path: Path | str, allowed: Sequence[Any] = ()) -> Any:
    """Return what a file of `torch.save` holds: tensors, plain values, and classes of torch's own list and of
    `allowed`.

    Args:
        data: All of the file. What is checked is what is read, whoever changes the file meanwhile.
        allowed: Classes, in the form that `torch.serialization.safe_globals` takes them in.
    Raises:
        CheckpointError: if it would be larger than the file, once unpacked.
        Exception: of any kind, if it is damaged or names other classes; nothing of it was run.
    Memory: twice the data.
    """
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            records = archive.infolist()
        packed = [record.filename for record in records if record.compress_type != zipfile.ZIP_STORED]
        if packed or sum(record.file_size for record in records) > len(data):
            raise CheckpointError(
                f"{path}: is compressed, which torch.save never does: it would grow when it is read; refused"
            )
    # Leaving the context forgets its classes, also those that Megatron itself had made known before.
    known = torch.serialization.get_safe_globals()
    with torch.serialization.safe_globals([one for one in allowed if one not in known]):
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def load_common(common: CommonState, allowed: Sequence[Any] = (), megatrons: bool = False) -> dict[str, Any]:
    """Return the common state of a checkpoint; nothing where it is no mapping.

    Args:
        megatrons: Whether to allow, where they are needed, the classes that Megatron itself takes for plain.
    Raises: as `load_plain`.
    """
    return _mapping(_load(common, allowed, megatrons))


def _load(common: CommonState, allowed: Sequence[Any] = (), megatrons: bool = False) -> Any:
    try:
        return load_plain(common.data, common.where, allowed)
    except pickle.UnpicklingError as error:
        if not megatrons or not str(error).partition("GLOBAL ")[2].startswith(_MEGATRONS_MODULES):
            raise
        from megatron.core.safe_globals import SAFE_GLOBALS  # imports Megatron, so only where it is needed

        return load_plain(common.data, common.where, (*allowed, argparse.Namespace, *SAFE_GLOBALS))


def without_training_state(common: CommonState) -> bytes:
    """Return the bytes of a common state without optimizer, scheduler and random state.

    One that has none is returned as it is. One that names classes outside of torch's and Megatron's own lists is not
    opened at all: it is returned whole, and a warning says so.
    """
    data = common.data
    if not any(key.encode() in data for key in _TRAINING_STATE):
        return data
    try:
        state = _load(common, megatrons=True)
    except CheckpointError:
        raise
    except Exception as error:  # the restricted unpickler raises many kinds; nothing has been run
        reason = str(error).partition("\n")[0]
        logger.warning("%s: kept whole, because it cannot be read safely (%s)", common.where, reason)
        return data
    found = _mapping(state)
    if not any(key in found for key in _TRAINING_STATE):
        return data
    kept = {key: value for key, value in found.items() if key not in _TRAINING_STATE}
    target = io.BytesIO()
    torch.save([kept] if isinstance(state, list) else kept, target)
    return target.getvalue()


def _mapping(state: Any) -> dict[str, Any]:
    """Return the state itself: as a byte object it is the only item of a list."""
    if isinstance(state, list) and len(state) == 1:
        state = state[0]
    return state if isinstance(state, dict) else {}
