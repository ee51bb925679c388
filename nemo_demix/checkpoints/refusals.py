"""Folders that hold a checkpoint which is not read, each refused with what it is and how to convert it."""

import re
from pathlib import Path

from nemo_demix.artifacts import parse_json
from nemo_demix.checkpoints.files import read_file
from nemo_demix.checkpoints.metadata import Stored, read_metadata
from nemo_demix.errors import CheckpointError, DemixError

_LEGACY_RANK = re.compile(r"mp_rank_\d{2}(_\d{3})*")
_TO_TORCH_DIST = (
    "start the Megatron-LM training script that wrote it once with `--ckpt-convert-format torch_dist "
    "--ckpt-convert-save FOLDER`"
)
# Megatron-FSDP saves {"model": ..., "args": ...} with torch.distributed.checkpoint, and gate and up apart.
_FSDP_MODEL = re.compile(r"model\d*\.")
_FSDP_HALVES = re.compile(r"\.linear_fc1\.(weight|bias)_[wv]$")
# `args` and `iteration` stand in many others' checkpoints too.
_FSDP_OBJECTS = frozenset({"checkpoint_version", "content_metadata", "pytorch-lightning_version"})


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds another form of checkpoint, or none.

    Raises:
        CheckpointError: saying what it holds and what to do.
    """
    names = {child.name for child in folder.iterdir()}
    ranks = sorted(name for name in names if _LEGACY_RANK.fullmatch(name))
    if ranks:
        raise CheckpointError(
            f"{folder / ranks[0]}: the legacy format of Megatron-LM (one file a rank), expected torch_dist; convert it "
            f"with tools/checkpoint/convert.py of Megatron-LM (--loader, --saver), or {_TO_TORCH_DIST}"
        )
    if _is_zarr(folder):
        raise CheckpointError(
            f"{folder}: the zarr format, which Megatron-core no longer reads from 0.16 on, expected torch_dist; with "
            f"an earlier one, {_TO_TORCH_DIST}, or load and save it with the NeMo version that wrote it"
        )
    if ".metadata" in names:
        return
    if "config.json" in names and any(name.endswith(".safetensors") or _is_torch_bin(name) for name in names):
        raise CheckpointError(
            f"{folder}: a Hugging Face model, expected a NeMo or Megatron checkpoint; convert it with "
            f"`nemo-demix import convert.source={folder} convert.output=FOLDER`"
        )
    if any(name.endswith(".distcp") for name in names):
        raise CheckpointError(f"{folder}: its save was cut off (.distcp files without .metadata); use an earlier one")
    found = ", ".join(sorted(names)[:8]) or "nothing"
    raise CheckpointError(
        f"{folder}: expected weights/.metadata (NeMo 2), latest_checkpointed_iteration.txt (Megatron-LM, "
        f"Megatron-Bridge) or .metadata (torch_dist), found {found}"
    )


def check_metadata(folder: Path, by_megatron: bool) -> None:
    """Refuse a folder with `.metadata` whose save was cut off, or whose tensors are not torch_dist's.

    Args:
        folder: A folder that holds a `.metadata` file.
        by_megatron: Whether what stands around it shows that NeMo or Megatron wrote it, not torch alone.
    Raises:
        CheckpointError: saying what it is and what to do.
    """
    if (folder / "metadata.json").is_file():
        backend = _backend(folder)
        if backend != "torch_dist":
            raise CheckpointError(f"{folder / 'metadata.json'}: sharded_backend is {backend!r}, expected 'torch_dist'")
        return
    if _is_fsdp(read_metadata(folder), by_megatron):
        raise CheckpointError(
            f"{folder}: written by Megatron-FSDP (fsdp_dtensor: tensors under model., no metadata.json), expected "
            "torch_dist; convert it with Megatron-LM's `tools/checkpoint/checkpoint_inspector.py "
            "convert-fsdp-dtensor-to-torch-dist`"
        )
    if by_megatron:
        raise CheckpointError(
            f"{folder}: its save was cut off (metadata.json, which is written last, is missing); use an earlier one"
        )


def _is_fsdp(stored: Stored, by_megatron: bool) -> bool:
    """Return whether Megatron-FSDP wrote it, rather than another program whose names begin with `model.` too."""
    if any(_FSDP_HALVES.search(name) for name in stored.tensors):
        return True
    prefixed = any(_FSDP_MODEL.match(name) for name in stored.tensors)
    return prefixed and (by_megatron or not _FSDP_OBJECTS.isdisjoint(stored.objects))


def _is_zarr(folder: Path) -> bool:
    if (folder / "metadata.json").is_file() and _backend(folder) == "zarr":
        return True
    return any((child / ".zarray").is_file() for child in folder.iterdir() if child.is_dir())


def _is_torch_bin(name: str) -> bool:
    return name.startswith("pytorch_model") and name.endswith(".bin")


def _backend(folder: Path) -> object:
    try:
        found = parse_json(read_file(folder, folder / "metadata.json"), folder / "metadata.json")
    except CheckpointError:
        raise
    except DemixError as error:
        raise CheckpointError(str(error).partition(";")[0] + "; copy the checkpoint again") from None
    return found.get("sharded_backend") if isinstance(found, dict) else None
