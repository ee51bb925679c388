"""Checkpoints come from other people: damaged ones are refused, hostile ones do nothing."""

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from nemo_demix.checkpoints.reader import CheckpointReader, relative_distance
from nemo_demix.checkpoints.saved import find_weights, is_complete
from nemo_demix.errors import CheckpointError


@pytest.fixture
def checkpoint(smoke_run: Path, tmp_path: Path) -> Path:
    """A NeMo 2 checkpoint to damage."""
    source = smoke_run / "models/component/math_1/checkpoints/step_00000016"
    shutil.copytree(source, tmp_path / source.name)
    return tmp_path / source.name


def test_tensors_are_what_torch_itself_reads(checkpoint: Path) -> None:
    reader = CheckpointReader(checkpoint)
    assert len(list(reader)) >= 9
    expected = {name: torch.empty(entry.shape, dtype=entry.dtype) for name, entry in reader.tensors.items()}
    dcp.load(expected, checkpoint_id=str(checkpoint / "weights"), no_dist=True)
    for name in reader:
        assert torch.equal(reader.read_tensor(name), expected[name]), name


def test_a_slice_is_the_box_of_the_whole_tensor_across_chunks(checkpoint: Path) -> None:
    reader = CheckpointReader(checkpoint)
    name = next(name for name in reader if name.endswith("linear_fc1.weight"))
    assert len(reader.tensors[name].chunks) > 1
    full = reader.read_tensor(name)
    offsets, sizes = (0, 50, 3), (2, 150, 40)
    out = torch.empty(sizes)
    reader.read_slice(name, offsets, sizes, out)
    assert torch.equal(out, full[0:2, 50:200, 3:43])


def test_delta_is_the_papers_formula(smoke_run: Path) -> None:
    base = smoke_run / "models/base/base/checkpoints/step_00000040"
    other = smoke_run / "models/component/math_1/checkpoints/step_00000016"
    a, b = ({n: r.read_tensor(n).double() for n in r} for r in (CheckpointReader(other), CheckpointReader(base)))
    flat_a, flat_b = (torch.cat([x[n].flatten() for n in sorted(x)]) for x in (a, b))
    expected = float((flat_a - flat_b).norm() / (flat_a.norm() + flat_b.norm()))
    assert relative_distance(other, base) == pytest.approx(expected, rel=1e-12)
    assert relative_distance(base, base) == 0.0


class _Hostile:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.witness}",)


def test_a_hostile_metadata_file_runs_nothing(checkpoint: Path, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    (checkpoint / "weights/.metadata").write_bytes(pickle.dumps(_Hostile(witness)))
    with pytest.raises(CheckpointError, match="system, which no checkpoint metadata needs"):
        CheckpointReader(checkpoint)
    assert not witness.exists()


def test_a_hostile_tensor_runs_nothing(checkpoint: Path, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    reader = CheckpointReader(checkpoint)
    name = next(iter(reader))
    chunk = reader.tensors[name].chunks[0]
    blob = tmp_path / "blob"
    torch.save(_Hostile(witness), blob)
    data = blob.read_bytes()
    path = checkpoint / "weights" / chunk.file
    content = bytearray(path.read_bytes())
    content[chunk.file_offset : chunk.file_offset + len(data)] = data
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match="damaged"):
        reader.read_tensor(name)
    assert not witness.exists()


def test_damage_is_named(checkpoint: Path) -> None:
    reader = CheckpointReader(checkpoint)
    name = next(iter(reader))
    path = checkpoint / "weights" / reader.tensors[name].chunks[0].file
    content = path.read_bytes()
    path.write_bytes(content[: reader.tensors[name].chunks[0].file_offset + 10])
    with pytest.raises(CheckpointError, match=rf"{path.name}: truncated"):
        reader.read_tensor(name)
    path.unlink()
    with pytest.raises(CheckpointError, match=rf"{path.name}: missing"):
        reader.read_tensor(name)
    (checkpoint / "weights/.metadata").write_bytes(b"\x80\x04garbage")
    with pytest.raises(CheckpointError, match="damaged"):
        CheckpointReader(checkpoint)


def test_an_unfinished_or_absent_checkpoint_is_refused(checkpoint: Path) -> None:
    assert is_complete(checkpoint)
    assert find_weights(checkpoint) == checkpoint / "weights"
    checkpoint.with_name(checkpoint.name + "-unfinished").touch()
    assert not is_complete(checkpoint)
    with pytest.raises(CheckpointError, match="cut off"):
        find_weights(checkpoint)
    with pytest.raises(CheckpointError, match="not found"):
        find_weights(checkpoint.parent / "nothing")
    with pytest.raises(CheckpointError, match=r"expected weights/.metadata"):
        find_weights(checkpoint / "context")


def test_another_architecture_is_named(checkpoint: Path) -> None:
    reader = CheckpointReader(checkpoint)
    name = next(name for name in reader if name.endswith("linear_fc1.weight"))
    with pytest.raises(CheckpointError, match="another architecture"):
        reader.read_slice(name, (0, 0, 0), (3, 256, 64), torch.empty(3, 256, 64))
    with pytest.raises(CheckpointError, match=r"no tensor module\.nothing"):
        reader.read_slice("module.nothing", (0,), (1,), torch.empty(1))
