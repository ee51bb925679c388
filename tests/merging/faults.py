"""Checkpoints to be damaged, merges to be killed, and what a merge left, in a form that compares.

Used by test_damage, test_interrupt, benchmarks/merge_faults.py and benchmarks/foreign_faults.py.
"""

import json
import os
import pickle
import re
import shutil
import signal
import sys
import traceback
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from isal.isal_zlib import crc32
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from nemo_demix.checkpoints.blob import find_payload
from nemo_demix.checkpoints.checksums import CHECKSUMS, write_checksums
from nemo_demix.checkpoints.files import LocalFile
from nemo_demix.checkpoints.metadata import read_metadata
from nemo_demix.errors import DemixError
from nemo_demix.merging.merge import MergeOptions, MergeReport, merge
from nemo_demix.merging.methods import build_method
from nemo_demix.merging.peers import Peers
from nemo_demix.merging.plan import MergePlan, make_plan
from nemo_demix.merging.sources import open_sources
from nemo_demix.ranks.lock import folder_lock

Mixtures = Mapping[str, Mapping[str, float]]
Components = dict[str, Path]
NAMES = ("code_1", "general", "math_1")  # of the smoke run
MIXTURES = {"mix": {"code_1": 0.5, "general": 0.25, "math_1": 0.25}}
TENSOR = "module.decoder.layers.mlp.linear_fc2.weight"
_NOT_THE_MERGES = (".lock", "last_merge.json")


def save_checkpoint(
    root: Path, seed: int, num_layers: int, hidden: int, dtype: torch.dtype = torch.float32, optimizer: bool = False
) -> Path:
    """A NeMo 2 checkpoint of random tensors: four shards, integers and a byte object among them, and its checksums.

    Its weights take about 12 x num_layers x hidden^2 elements; an optimizer's state twice as many, in the same shards.
    """
    generator = torch.Generator().manual_seed(seed)

    def random(*sizes: int) -> torch.Tensor:
        return torch.randn(sizes, generator=generator).to(dtype)

    layer = "module.decoder.layers"
    state: dict[str, Any] = {"module.embedding.word_embeddings.weight": random(512, hidden)}
    for index in range(num_layers):
        state[f"{layer}.{index}.self_attention.linear_proj.weight"] = random(4 * hidden, hidden)
        state[f"{layer}.{index}.mlp.linear_fc2.weight"] = random(hidden, 8 * hidden)
        state[f"{layer}.{index}.input_layernorm.weight"] = random(hidden)
    state["module.steps"] = torch.arange(7)
    state["module.decoder._extra_state/shard_0_1"] = [1, 2, 3]
    if optimizer:
        state |= {
            f"optimizer.state.{moment}.{name}": torch.zeros_like(value)
            for name, value in state.items()
            for moment in ("exp_avg", "exp_avg_sq")
            if isinstance(value, torch.Tensor)
        }
    weights, context = root / "weights", root / "context"
    dcp.save(state, storage_writer=FileSystemWriter(weights, thread_count=4), no_dist=True)
    torch.save({"global_step": 16}, weights / "common.pt")
    context.mkdir()
    (context / "io.json").write_text("{}")
    (context / "model.yaml").write_text(f"config: {{num_layers: {num_layers}, hidden_size: {hidden}}}\n")
    (weights / "metadata.json").write_text('{"sharded_backend": "torch_dist", "sharded_backend_version": 1}')
    write_checksums(root)
    return root


def nemo_checkpoint(root: Path, seed: int, num_layers: int = 2, hidden: int = 48) -> Path:
    """As `save_checkpoint`, with the context that NeMo itself writes, and a tokenizer in it, and without checksums."""
    from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import AutoTokenizer
    from nemo.collections.llm import Qwen3Config1P7B, Qwen3Model
    from nemo.lightning.io.pl import TrainerContext

    from nemo_demix.config import TokenizerConfig
    from nemo_demix.datasets.tokenizer_build import build_tokenizer

    save_checkpoint(root, seed, num_layers, hidden)
    texts = [f"the {number} tokens of a text" for number in range(40)]
    build_tokenizer(TokenizerConfig("train_bpe", vocab_size=300), texts, root / "tokenizer")
    for file in (root / "context").iterdir():
        file.unlink()
    config = Qwen3Config1P7B(num_layers=num_layers, hidden_size=hidden, ffn_hidden_size=8 * hidden, vocab_size=512,
                             apply_rope_fusion=False)  # fmt: skip
    model = Qwen3Model(config, tokenizer=AutoTokenizer(str(root / "tokenizer")))
    TrainerContext(model, None, {}).io_dump(root / "context", yaml_attrs=["model"])
    shutil.rmtree(root / "tokenizer")
    return without_record(root)


def plan_of(
    components: Mapping[str, Path],
    mixtures: Mixtures,
    *,
    base: Path | None = None,
    method: str = "linear",
    objects_from: str | None = None,
    **options: Any,
) -> MergePlan:
    """A plan, as the merge stage makes one."""
    built = build_method(method, {}, 0, len(components), base is not None)
    sources, base_source = open_sources(components, base, objects_from)
    return make_plan(sources, base_source, built, mixtures, objects_from=objects_from, **options)


def run_merge(plan: MergePlan, output: Path, workers: int = 1, **options: Any) -> MergeReport:
    """A merge in this process, under the lock that the stage takes."""
    with folder_lock(output, "merge.output="):
        return merge(plan, output, MergeOptions(workers, 4.0, **options), Peers(), lambda phase, count: None)


def fork_merge(plan: MergePlan, output: Path, workers: int = 1, **options: Any) -> int:
    """The same in a process of its own, to be killed; returns its id. It exits with 0 when the merge is done."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        run_merge(plan, output, workers, **options)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


class Killed(Exception):
    """A process was."""


Moment = Callable[[str, tuple[Any, ...]], bool]  # of an event of `sys.addaudithook` and its arguments


def just_before(event: str, path: Path) -> Moment:
    """Where a process is about to do this to a file or folder; a rename is known by the new name."""
    place = 1 if event == "os.rename" else 0
    return lambda found, arguments: found == event and str(arguments[place]) == str(path)


def meeting_merge(plan: MergePlan, output: Path, moment: Moment, happens: Callable[[], None], **options: Any) -> None:
    """A merge in a process of its own, in which something happens at a moment; raises the error that it ends with."""
    meeting(lambda: run_merge(plan, output, **options), moment, happens)


def meeting(work: Callable[[], object], moment: Moment, happens: Callable[[], None]) -> None:
    """As `meeting_merge`, of any work."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        parent = os.getpid()
        error, met = None, False

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal met
            if not met and os.getpid() == parent and moment(event, arguments):
                met = True
                happens()

        sys.addaudithook(watch)
        try:
            work()
        except BaseException as found:
            error = found
        os.write(writer, pickle.dumps((met, error)))
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as stream:
        said = stream.read()
    if os.waitpid(pid, 0)[1] == signal.SIGKILL:
        raise Killed
    met, error = pickle.loads(said)
    assert met, f"it did not come to that: {error!r}"
    if error is not None:
        raise error


def kill_merge(plan: MergePlan, output: Path, moment: Moment, **options: Any) -> None:
    """A merge that is killed at a moment."""
    with pytest.raises(Killed):
        meeting_merge(plan, output, moment, lambda: os.kill(os.getpid(), signal.SIGKILL), **options)


def children(parent: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def contents(output: Path) -> dict[str, str]:
    """A checksum of every file that merges left in a folder, by path."""
    return {
        str(path.relative_to(output)): f"{path.stat().st_size} {crc32(path.read_bytes()):08x}"
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.name not in _NOT_THE_MERGES
    }


def meaning(output: Path) -> dict[str, Any]:
    """As `contents`, without what names the sources on disk: paths, fingerprints, and the save's id made of them."""
    found: dict[str, Any] = dict(contents(output))
    for name in list(found):
        path = output / name
        if path.name == ".metadata":
            found[name] = read_metadata(path.parent)
        elif path.name == "common.pt":  # as torch reads it: what lies between its parts is not
            with zipfile.ZipFile(path) as archive:
                found[name] = {item: archive.read(item) for item in archive.namelist()}
        elif path.name == "merge.json":
            record = json.loads(path.read_text())
            record["sources"] = list(record["sources"])
            del record["fingerprint"]
            read_above = (".metadata", "common.pt")
            record["files"] = {key: value for key, value in record["files"].items() if not key.endswith(read_above)}
            found[name] = record
    return found


def flip(path: Path, offset: int, bit: int) -> None:
    """Turn one bit of a file over; size, inode and times stay, as when a disk does it."""
    before = path.stat()
    with open(path, "r+b") as file:
        file.seek(offset)
        value = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([value ^ (1 << bit)]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def draw_flips(root: Path, number: int, rng: np.random.Generator) -> list[tuple[Path, int, int]]:
    """Places to flip: every file of a checkpoint first, then files by their size and by chance; (path, offset, bit)."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    sizes = np.array([path.stat().st_size for path in files], dtype=np.float64)
    half = (number - len(files)) // 2  # half of the rest over files alike, half over bytes alike
    chosen = [*range(len(files)), *rng.integers(len(files), size=max(0, half)).tolist()][:number]
    chosen += rng.choice(len(files), size=number - len(chosen), p=sizes / sizes.sum()).tolist()
    return [(files[index], int(rng.integers(int(sizes[index]))), int(rng.integers(8))) for index in chosen]


def component_of(run_dir: Path, name: str) -> Path:
    """A finished component model of a run."""
    (path,) = (run_dir / "models/component" / name / "checkpoints").glob("step_*")
    return path


def refused(components: Components, output: Path, message: str, mixtures: Mixtures = MIXTURES, **options: Any) -> str:
    """Check that a merge raises a user's error of one line and leaves nothing to be taken for whole; what it says."""
    try:
        run_merge(plan_of(components, mixtures, **options), output)
    except DemixError as error:
        text = str(error)
    else:
        raise AssertionError("it was not refused")
    assert re.search(message, text), text
    assert len(text.splitlines()) == 1, text
    nothing_published(output)
    return text


def outcome(plan: Callable[[], MergePlan], output: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """What a merge makes of damage: `refused` with the message, `harmless`, or `silent` with the files that differ.

    Args:
        plan: Makes the merge's plan, which may be refused too.
        output: What is merged into it is removed.
        expected: The `meaning` of the output without the damage.
    """
    try:
        run_merge(plan(), output)
        found = meaning(output)
    except DemixError as error:
        published = sorted(path.name for path in output.iterdir() if path.name[0] != ".") if output.exists() else []
        return {"outcome": "silent" if published else "refused", "message": str(error)[-160:]}
    finally:
        shutil.rmtree(output, ignore_errors=True)
    different = [key for key in {**expected, **found} if found.get(key) != expected.get(key)]
    return {"outcome": "silent", "different": different} if different else {"outcome": "harmless"}


def nothing_published(output: Path) -> None:
    """Check that no output stands in a folder, and that what is under way does not look whole."""
    if output.exists():
        assert [path.name for path in output.iterdir() if not path.name.startswith(".")] == []
        assert not list(output.rglob(".metadata")), "an unpublished output looks whole"


def without_record(component: Path) -> Path:
    """The checkpoint as others train it: nothing lists its small files."""
    (component / CHECKSUMS).unlink()
    return component


def payload_place(component: Path) -> tuple[Path, int]:
    """A byte of a tensor's elements: (file, offset)."""
    entry = read_metadata(component / "weights").tensors[TENSOR]
    shard = component / "weights" / entry.chunks[0].file
    with open(shard, "rb") as file:
        payload = find_payload(LocalFile(file.fileno()), shard, TENSOR, entry.chunks[0], entry.dtype)
    return shard, payload.offset + 40
