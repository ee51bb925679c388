"""Slices of the tensors of a torch_dist checkpoint, by global offset, whatever layout it was saved at."""

import io
from collections.abc import Iterator
from pathlib import Path

import torch

from nemo_demix.artifacts import file_sha256, fingerprint
from nemo_demix.checkpoints.metadata import Chunk, TensorEntry, read_metadata
from nemo_demix.errors import CheckpointError

_OPTIMIZER_PREFIXES = ("optimizer.", "chained_")


def find_weights(checkpoint: Path) -> Path:
    """The torch_dist folder of a checkpoint: NeMo 2's `weights/`, or the folder itself.

    Raises:
        CheckpointError: if there is none, or a save into it was cut off.
    """
    if not checkpoint.is_dir():
        raise CheckpointError(f"{checkpoint}: not found; expected a checkpoint folder")
    marker = checkpoint.with_name(checkpoint.name + "-unfinished")
    if marker.exists():
        raise CheckpointError(
            f"{checkpoint}: its save was cut off ({marker.name} stands beside it); use an earlier one"
        )
    for folder in (checkpoint / "weights", checkpoint):
        if (folder / ".metadata").exists():
            return folder
    raise CheckpointError(f"{checkpoint}: expected weights/.metadata (NeMo 2) or .metadata (torch_dist), found neither")


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


class CheckpointReader:
    """Reads slices of one checkpoint's tensors.

    Nothing is unpickled freely: metadata goes through a restricted unpickler, tensors through `weights_only`.
    Memory: one stored chunk at a time, besides what is returned.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.folder = find_weights(checkpoint)
        self.tensors: dict[str, TensorEntry] = {
            name: entry
            for name, entry in read_metadata(self.folder).items()
            if not name.startswith(_OPTIMIZER_PREFIXES)
        }

    def _load_chunk(self, name: str, chunk: Chunk) -> torch.Tensor:
        path = self.folder / chunk.file
        try:
            with open(path, "rb") as file:
                file.seek(chunk.file_offset)
                blob = file.read(chunk.num_bytes)
        except FileNotFoundError:
            raise CheckpointError(f"{path}: missing; it holds a part of {name}") from None
        if len(blob) != chunk.num_bytes:
            raise CheckpointError(
                f"{path}: truncated: {name} needs {chunk.num_bytes} bytes at {chunk.file_offset}, found {len(blob)}"
            )
        try:
            tensor = torch.load(io.BytesIO(blob), map_location="cpu", weights_only=True)
        except Exception as error:
            raise CheckpointError(f"{path}: the chunk of {name} at {chunk.file_offset} is damaged: {error}") from None
        if not isinstance(tensor, torch.Tensor) or tuple(tensor.shape) != chunk.sizes:
            raise CheckpointError(f"{path}: the chunk of {name} is not a tensor of shape {chunk.sizes}")
        return tensor

    def read_slice(self, name: str, offsets: tuple[int, ...], sizes: tuple[int, ...], out: torch.Tensor) -> None:
        """Copy the box [offsets, offsets + sizes) of a tensor into `out` (any dtype, shape `sizes`).

        Raises:
            CheckpointError: if the tensor is absent, smaller than the box, or not wholly covered by its chunks.
        """
        entry = self.tensors.get(name)
        if entry is None:
            raise CheckpointError(f"{self.checkpoint}: has no tensor {name}; it is of another architecture")
        if len(entry.shape) != len(offsets) or any(
            o + s > g for o, s, g in zip(offsets, sizes, entry.shape, strict=True)
        ):
            raise CheckpointError(
                f"{self.checkpoint}: {name} has shape {entry.shape}, expected to hold {sizes} at {offsets}; "
                "it is of another architecture"
            )
        copied = 0
        for chunk in entry.chunks:
            low = [max(o, c) for o, c in zip(offsets, chunk.offsets, strict=True)]
            high = [min(o + s, c + z) for o, s, c, z in zip(offsets, sizes, chunk.offsets, chunk.sizes, strict=True)]
            if any(h <= start for start, h in zip(low, high, strict=True)):
                continue
            source = self._load_chunk(name, chunk)
            source = source[tuple(slice(a - c, b - c) for a, b, c in zip(low, high, chunk.offsets, strict=True))]
            target = out[tuple(slice(a - o, b - o) for a, b, o in zip(low, high, offsets, strict=True))]
            target.copy_(source)
            copied += source.numel()
        if copied != out.numel():
            raise CheckpointError(
                f"{self.checkpoint}: the chunks of {name} cover {copied} of {out.numel()} elements; it is incomplete"
            )

    def read_tensor(self, name: str) -> torch.Tensor:
        """A whole tensor in its stored dtype."""
        entry = self.tensors[name]
        out = torch.empty(entry.shape, dtype=entry.dtype)
        self.read_slice(name, (0,) * len(entry.shape), entry.shape, out)
        return out

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.tensors))


def relative_distance(checkpoint: Path, base: Path) -> float:
    """delta = |theta - theta_base| / (|theta| + |theta_base|) over all weights, in float64 (DeMix Eq. 4).

    Memory: two whole tensors.

    Raises:
        CheckpointError: if the two are not of one architecture.
    """
    model, origin = CheckpointReader(checkpoint), CheckpointReader(base)
    if set(model) != set(origin):
        odd = sorted(set(model) ^ set(origin))
        raise CheckpointError(f"{checkpoint} and {base} differ in their tensors, first in {odd[0]}")
    difference = own = other = 0.0
    for name in model:
        a, b = model.read_tensor(name).double(), origin.read_tensor(name).double()
        if a.shape != b.shape:
            raise CheckpointError(f"{checkpoint}: {name} is {tuple(a.shape)}, in {base} it is {tuple(b.shape)}")
        difference += float((a - b).square().sum())
        own += float(a.square().sum())
        other += float(b.square().sum())
    return difference**0.5 / (own**0.5 + other**0.5)
