"""Slices of the tensors of a torch_dist checkpoint, by global offset, whatever layout it was saved at."""

from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path

import torch
from isal.isal_zlib import crc32

from nemo_demix.checkpoints.blob import damaged, find_payload
from nemo_demix.checkpoints.files import File, open_file, read_into
from nemo_demix.checkpoints.metadata import Chunk, TensorEntry, is_training_state, read_metadata
from nemo_demix.checkpoints.saved import find_weights
from nemo_demix.checkpoints.store import StoreFile
from nemo_demix.errors import CheckpointError

_AHEAD = 8 << 20  # a chunk of less comes from a store in one piece


def stored_name(name: str, tensors: Collection[str]) -> str:
    """Return a live model's name for a tensor as a checkpoint has it: NeMo stores the module's prefix, the others do
    not.
    """
    bare = name.removeprefix("module.")
    return bare if name not in tensors and bare in tensors else name


class CheckpointReader:
    """Reads slices of one checkpoint's tensors.

    Nothing is unpickled freely: metadata goes through a restricted unpickler, tensors as bytes
    whose CRC is compared.
    Memory: one stored chunk at a time, besides what is returned.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.folder = find_weights(checkpoint)
        self.tensors: dict[str, TensorEntry] = {
            name: entry for name, entry in read_metadata(self.folder).tensors.items() if not is_training_state(name)
        }
        self._stored: dict[Path, StoreFile] = {}  # objects of a store that were looked at: they hold no descriptor

    def _open(self, path: Path) -> File:
        if path in self._stored:
            return self._stored[path]
        file = open_file(self.folder, path)
        if isinstance(file, StoreFile):
            file.ahead = _AHEAD
            self._stored[path] = file
        return file

    def _load_chunk(self, name: str, chunk: Chunk, tensor: torch.Tensor) -> torch.Tensor:
        """Fill a contiguous tensor of the chunk's shape and dtype."""
        path = self.folder / chunk.file
        try:
            opened = self._open(path)
        except FileNotFoundError:
            raise CheckpointError(f"{path}: missing; it holds a part of {name}") from None
        with closing(opened) as file:
            payload = find_payload(file, path, name, chunk, self.tensors[name].dtype)
            data = tensor.view(-1).view(torch.uint8).numpy().data
            read_into(file, data, payload.offset, payload.offset + payload.num_bytes)
        if (crc := crc32(data)) != payload.crc:
            raise damaged(path, name, chunk, crc, payload.crc)
        return tensor

    def read_slice(self, name: str, offsets: tuple[int, ...], sizes: tuple[int, ...], out: torch.Tensor) -> None:
        """Copy the box [offsets, offsets + sizes) of a tensor into `out` (any dtype, shape `sizes`).

        Raises:
            CheckpointError: if the tensor is absent, smaller than the box, or not wholly covered by its chunks.
        """
        name = stored_name(name, self.tensors)
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
            target = out[tuple(slice(a - o, b - o) for a, b, o in zip(low, high, offsets, strict=True))]
            copied += target.numel()
            if tuple(target.shape) == chunk.sizes and target.dtype == entry.dtype and target.is_contiguous():
                self._load_chunk(name, chunk, target)
                continue
            source = self._load_chunk(name, chunk, torch.empty(chunk.sizes, dtype=entry.dtype))
            target.copy_(source[tuple(slice(a - c, b - c) for a, b, c in zip(low, high, chunk.offsets, strict=True))])
        if copied != out.numel():
            raise CheckpointError(
                f"{self.checkpoint}: the chunks of {name} cover {copied} of {out.numel()} elements; it is incomplete"
            )

    def read_tensor(self, name: str) -> torch.Tensor:
        """Read a whole tensor, in its stored shape and dtype."""
        entry = self.tensors[name]
        out = torch.empty(entry.shape, dtype=entry.dtype)
        self.read_slice(name, (0,) * len(entry.shape), entry.shape, out)
        return out

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.tensors))


def relative_distance(checkpoint: Path, base: Path) -> float:
    """Return delta = |theta - theta_base| / (|theta| + |theta_base|) over all weights, in float64 (DeMix Eq. 4).

    The two may be of different frameworks: of one name, but for the module's prefix.
    Memory: two whole tensors.

    Raises:
        CheckpointError: if the two are not of one architecture.
    """
    model, origin = CheckpointReader(checkpoint), CheckpointReader(base)
    names = {name: stored_name(f"module.{name.removeprefix('module.')}", origin.tensors) for name in model}
    if set(names.values()) != set(origin):
        odd = sorted(set(names.values()) ^ set(origin))
        raise CheckpointError(f"{checkpoint} and {base} differ in their tensors, first in {odd[0]}")
    difference = own = other = 0.0
    for name in model:
        a, b = model.read_tensor(name).double(), origin.read_tensor(names[name]).double()
        if a.shape != b.shape:
            raise CheckpointError(f"{checkpoint}: {name} is {tuple(a.shape)}, in {base} it is {tuple(b.shape)}")
        difference += float((a - b).square().sum())
        own += float(a.square().sum())
        other += float(b.square().sum())
    return difference**0.5 / (own**0.5 + other**0.5)
