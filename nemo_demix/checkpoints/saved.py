"""Where a checkpoint's weights are, whether its save is whole, and which save it is: known without reading a tensor."""

import hashlib
from pathlib import Path

from nemo_demix.artifacts import fingerprint
from nemo_demix.checkpoints.files import read_file
from nemo_demix.checkpoints.layouts import locate
from nemo_demix.checkpoints.layouts.training_folder import RUN_CONFIG
from nemo_demix.plain_yaml import parse_yaml


def find_weights(checkpoint: Path) -> Path:
    """Return the torch_dist folder of a checkpoint in any layout that is read.

    Raises:
        CheckpointError: if there is none, its save was cut off, or it is of a form that is not read; see `detect`.
    """
    return locate(checkpoint).weights


def is_complete(checkpoint: Path) -> bool:
    """Return whether a checkpoint of a training run was saved to its end.

    NeMo 2 writes metadata.json last, and then removes a marker; Megatron-Bridge writes run_config.yaml last.
    """
    if (checkpoint / "metadata.json").exists():
        return _is_whole_yaml(checkpoint / RUN_CONFIG)
    marker = checkpoint.with_name(checkpoint.name + "-unfinished")
    return (checkpoint / "weights" / "metadata.json").exists() and not marker.exists()


def _is_whole_yaml(path: Path) -> bool:
    """Return whether it ends as Megatron-Bridge ends it: cut off within a line, or before its last section, it does
    not.
    """
    try:
        content = parse_yaml(read_file(path.parent, path), unknown_tags=True)
    except (FileNotFoundError, ValueError):
        return False
    return isinstance(content, dict) and "validation" in content


def checkpoint_fingerprint(checkpoint: Path) -> str:
    """Fingerprint what tells a brought checkpoint from another: its place, and the metadata that name its save.

    Raises:
        CheckpointError: if there is none.
    """
    return fingerprint(path=str(checkpoint.resolve()), metadata=metadata_sha256(find_weights(checkpoint)))


def metadata_sha256(weights: Path) -> str:
    """Return the SHA-256 of the file in a torch_dist folder that names the save it is of."""
    return hashlib.sha256(read_file(weights, weights / ".metadata")).hexdigest()
