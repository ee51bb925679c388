"""What we write as `.metadata` is what torch itself would have pickled."""

import pickle

import torch
import torch.distributed.checkpoint.metadata as dcp
from torch.distributed.checkpoint.filesystem import _StorageInfo

from nemo_demix.checkpoints.metadata import Chunk, ObjectEntry, TensorEntry
from nemo_demix.checkpoints.metadata_writer import metadata_bytes
from nemo_demix.checkpoints.pickled import Dtype


def test_torch_reads_its_own_records_from_it() -> None:
    chunks = (Chunk((0, 0), (2, 3), "__0_0.distcp", 0, 1500), Chunk((2, 0), (2, 3), "__1_0.distcp", 2**40, 300))
    tensors = {"a.weight": TensorEntry((4, 3), Dtype("bfloat16"), chunks), "é": TensorEntry((), Dtype("int64"), ())}
    objects = {"a._extra_state/shard_0_1": ObjectEntry("__0_0.distcp", 1500, 70)}
    planner_data = {"a.weight": ("a", "weight", 3)}
    data = metadata_bytes(tensors, objects, planner_data, "x")
    expected = dcp.Metadata(
        state_dict_metadata={
            "a.weight": dcp.TensorStorageMetadata(
                dcp.TensorProperties(dtype=torch.bfloat16),
                torch.Size((4, 3)),
                [dcp.ChunkStorageMetadata(torch.Size(c.offsets), torch.Size(c.sizes)) for c in chunks],
            ),
            "é": dcp.TensorStorageMetadata(dcp.TensorProperties(dtype=torch.int64), torch.Size(()), []),
            "a._extra_state/shard_0_1": dcp.BytesStorageMetadata(),
        },
        planner_data=planner_data,
        storage_data={
            dcp.MetadataIndex("a.weight", torch.Size((0, 0))): _StorageInfo("__0_0.distcp", 0, 1500),
            dcp.MetadataIndex("a.weight", torch.Size((2, 0))): _StorageInfo("__1_0.distcp", 2**40, 300),
            dcp.MetadataIndex("a._extra_state/shard_0_1"): _StorageInfo("__0_0.distcp", 1500, 70),
        },
        storage_meta=dcp.StorageMeta(save_id="x"),
    )
    assert pickle.loads(data) == expected
    assert type(pickle.loads(data)) is dcp.Metadata
    assert metadata_bytes(tensors, objects, planner_data, "x") == data
