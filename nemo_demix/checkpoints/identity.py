"""Where a checkpoint's weights are, and which save they are of: known without torch, and without reading a tensor."""

from pathlib import Path

from nemo_demix.artifacts import file_sha256, fingerprint
from nemo_demix.checkpoints.layouts import locate


def find_weights(checkpoint: Path) -> Path:
    """The torch_dist folder of a checkpoint in any layout that is read.

    Raises:
        CheckpointError: if there is none, its save was cut off, or it is of a form that is not read; see `detect`.
    """
    return locate(checkpoint).weights


def is_complete(checkpoint: Path) -> bool:
    """Whether a NeMo 2 checkpoint was saved to its end: metadata.json is written last, the marker then removed."""
    marker = checkpoint.with_name(checkpoint.name + "-unfinished")
    return (checkpoint / "weights" / "metadata.json").exists() and not marker.exists()


def checkpoint_identity(checkpoint: Path) -> str:
    """What tells a brought checkpoint from another: its place, and its metadata, which names the save it is of.

    Raises:
        CheckpointError: if there is none.
    """
    metadata = find_weights(checkpoint) / ".metadata"
    return fingerprint(path=str(checkpoint.resolve()), metadata=file_sha256(metadata))
