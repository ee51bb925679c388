"""Checkpoints that would run something: each payload touches a file, where anything carries it out."""

import argparse
import io
import itertools
import json
import os
import pickle
import shutil
import struct
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from nemo_demix.checkpoints.metadata import ObjectEntry, read_metadata
from nemo_demix.checkpoints.metadata_writer import metadata_bytes


class Payload:
    """Touches the witness when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self._command = f"touch {witness}"

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self._command,)


def _saved(value: object) -> bytes:
    target = io.BytesIO()
    torch.save(value, target)
    return target.getvalue()


def in_metadata(weights: Path, witness: Path) -> None:
    """A call before the true metadata, which follow: an unpickler that runs it has what it expects."""
    path = weights / ".metadata"
    body = path.read_bytes()[2:]
    path.write_bytes(b"\x80\x04" + f"cposix\nsystem\n(S'touch {witness}'\ntR0".encode() + body)


def in_common_state(weights: Path, witness: Path) -> None:
    """`common.pt` with a call among its values."""
    state = torch.load(weights / "common.pt", weights_only=True)
    torch.save({**state, "content_metadata": Payload(witness)}, weights / "common.pt")


def in_object(weights: Path, witness: Path, name: str | None = None) -> None:
    """One of the byte objects replaced: of the model, or another by its name."""
    stored = read_metadata(weights)
    name = name or next(iter(stored.objects))
    data = _saved(Payload(witness))
    (weights / "__9_9.distcp").write_bytes(data)
    objects = {**stored.objects, name: ObjectEntry("__9_9.distcp", 0, len(data))}
    (weights / ".metadata").write_bytes(metadata_bytes(stored.tensors, objects, stored.planner_data, "hostile"))


def in_training_object(weights: Path, witness: Path) -> None:
    """A byte object beside the weights, as an optimizer leaves them."""
    in_object(weights, witness, "optimizer.param_groups")


def in_tensor(weights: Path, witness: Path) -> None:
    """The archive of a tensor's chunk, with a call where the tensor is described."""
    stored = read_metadata(weights)
    name, entry = next(iter(stored.tensors.items()))
    data = _saved(Payload(witness)) + bytes(entry.chunks[0].num_bytes)
    (weights / "__9_9.distcp").write_bytes(data)
    chunk = replace(entry.chunks[0], file="__9_9.distcp", file_offset=0, num_bytes=len(data))
    tensors = {**stored.tensors, name: replace(entry, chunks=(chunk, *entry.chunks[1:]))}
    (weights / ".metadata").write_bytes(metadata_bytes(tensors, stored.objects, stored.planner_data, "hostile"))


def in_modelopt(weights: Path, witness: Path) -> None:
    """What NVIDIA's Model Optimizer reads beside the weights, without restriction, where NeMo restores a model."""
    (weights / "modelopt_state").mkdir()
    torch.save({"modelopt_version": Payload(witness)}, weights / "modelopt_state/common.pt")


def in_context(weights: Path, witness: Path) -> None:
    """A callable in the graph that NeMo builds a checkpoint's tokenizer from."""
    import fiddle as fdl
    from fiddle._src.experimental import serialization

    model = fdl.Config(dict, tokenizer=fdl.Config(subprocess.getoutput, f"touch {witness}"))
    graph = serialization.dump_json(fdl.Config(argparse.Namespace, model=model, trainer=None))
    context = weights.parent / "context"
    context.mkdir(exist_ok=True)
    # As NeMo writes it, without importing NeMo.
    graph = graph.replace('"argparse"', '"nemo.lightning.io.pl"').replace('"Namespace"', '"TrainerContext"')
    (context / "io.json").write_text(graph)


def in_legacy_files(weights: Path, witness: Path) -> None:
    """Object shards of older Megatron, which its loader looks for where a backend says so."""
    stored = read_metadata(weights)
    for name in stored.objects:
        path = weights / f"{name}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(Payload(witness)))
    (weights / "metadata.json").write_text(json.dumps({"sharded_backend": "torch_dist", "sharded_backend_version": 1}))


# Where the payload is what a reader has to look at, it is refused; elsewhere nobody looks.
REFUSED: dict[str, Callable[[Path, Path], None]] = {
    "metadata": in_metadata,
    "common state": in_common_state,
    "training object": in_training_object,
}
PASSED_OVER: dict[str, Callable[[Path, Path], None]] = {
    "modelopt": in_modelopt,
    "context": in_context,
    "object": in_object,
    "legacy files": in_legacy_files,
}


def planted(checkpoint: Path, target: Path, witness: Path, *plants: Callable[[Path, Path], None]) -> Path:
    """A copy of a NeMo 2 checkpoint with payloads in it; it has no checksums any more, as strangers' have none."""
    shutil.copytree(checkpoint, target)
    (target / "checksums.json").unlink(missing_ok=True)
    for plant in plants:
        plant(target / "weights", witness)
    return target


def swap(path: Path, make: Callable[[Path], object]) -> None:
    """Put something else where a file is."""
    path.unlink()
    make(path)


ODD_FILES: dict[str, Callable[[Path], object]] = {
    "link out": lambda path: path.symlink_to(path.parents[2] / "secret"),
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
}
# What a file, a tensor, an offset or a size of `.metadata` may be said to be.
FILE_NAMES = ["", ".", "..", "../c/x", "/etc/passwd", "a\0b", "x" * 5000, "a\nb", 7, None, ("x",)]
TENSOR_NAMES = ["", 7, b"w", "a\x1b[2Jb", "a\nb", "\udc80", "x" * 5000, None]
PLACES = [2**63 - 2, 2**70, -1, 0.5, "a", True]
BOMBS = {
    "a memo of 2^31 places": b"\x80\x04Nr" + struct.pack("<I", 0x7FFFFFFF) + b"0}.",
    "a tuple whose hash takes 2^60 steps": b"\x80\x04}X\x01\x00\x00\x00x\x85\x94"
    + b"".join(b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86\x94" for n in range(60)) + b"Ns.",
    "the same by duplicates": b"\x80\x04}X\x01\x00\x00\x00x\x85" + b"2\x86" * 60 + b"Ns.",
    "a text of 2^62 bytes": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"x.",
    "a frame of 2^62 bytes": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"N.",
    "100,000 lists, one in another": b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "an integer of 255 bytes": b"\x80\x04\x8a\xff" + b"x" * 255 + b".",
    "state for a function": b"\x80\x04ctorch.serialization\n_get_layout\n}X\x05\x00\x00\x00cache}sb.",
    "an item of a class": b"\x80\x04ccollections\nOrderedDict\nX\x01\x00\x00\x00aNs.",
    "an extension code": b"\x80\x04\x82\x01.",
    "a persistent id": b"\x80\x04Pabc\n.",
}  # fmt: skip
_STEPS = list(itertools.pairwise("abcdefgh"))
YAML_REFUSED = {
    "a: 1\nb: 2\na: 3": "the key 'a' stands twice, in line 3",
    "a: !!python/object/apply:os.system [touch ran]": "could not determine a constructor",
    "a: 2001-13-45": r"month must be in 1\.\.12",
    "&a [*a]": "holds itself",
    "a: " + "[" * 1100: "nested",
    "a: &a [x, x]\n" + "\n".join(f"{c}: &{c} [{', '.join([f'*{p}'] * 9)}]" for p, c in _STEPS): "written out",
    "a: &a {x: 1}\n" + "\n".join(f"{c}: &{c} {{<<: [{', '.join([f'*{p}'] * 9)}]}}" for p, c in _STEPS): "written out",
}
