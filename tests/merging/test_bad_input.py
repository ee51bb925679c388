"""What cannot be merged is refused in one line, whatever happens meanwhile; nothing hostile is run."""

import json
import os
import pickle
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_demix.checkpoints.checksums import check_small_files, write_checksums
from nemo_demix.checkpoints.layouts import detect
from nemo_demix.checkpoints.metadata import read_metadata
from nemo_demix.checkpoints.reader import CheckpointReader
from nemo_demix.errors import CheckpointError, DemixError, MixtureError
from nemo_demix.merging.plan import MergePlan
from nemo_demix.merging.verify import verify
from nemo_demix.mixture import load_mixtures
from tests.helpers import run_cli
from tests.merging.faults import (
    MIXTURES,
    NAMES,
    TENSOR,
    Components,
    Moment,
    contents,
    flip,
    just_before,
    kill_merge,
    meaning,
    meeting_merge,
    nothing_published,
    payload_place,
    plan_of,
    refused,
    run_merge,
    save_checkpoint,
    without_record,
)

# What the models are like.


def test_models_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    one = save_checkpoint(tmp_path / "one", 1, 1, 64)
    mixtures = {"mix": {"one": 0.5, "two": 0.5}}
    others = {
        r"of different models: num_layers is 1 and 2": save_checkpoint(tmp_path / "deeper", 2, 2, 64),
        r"of different models: hidden_size is 64 and 32": save_checkpoint(tmp_path / "narrower", 2, 1, 32),
        r"its dtype is torch\.float32 and torch\.bfloat16.*one precision": save_checkpoint(
            tmp_path / "half", 2, 1, 64, torch.bfloat16
        ),
    }
    for message, other in others.items():
        refused({"one": one, "two": other}, tmp_path / "output", message, mixtures)
    for name, message in (
        ("narrower", r"its shape is \(.*\) and \("),
        ("deeper", r"only two has module\.decoder\.layers\.1"),
    ):
        (tmp_path / name / "context/model.yaml").unlink()
        without_record(tmp_path / name)
        refused({"one": one, "two": tmp_path / name}, tmp_path / "output", message, mixtures)


def _poisoned(tmp_path: Path, where: dict[str, float]) -> Components:
    """Components of which some hold three values that are no numbers."""
    found = {}
    for number, name in enumerate(("one", "two", "base")):
        root = tmp_path / name
        save_checkpoint(root, number, 1, 64)
        if name in where:
            state = {key: CheckpointReader(root).read_tensor(key) for key in CheckpointReader(root).tensors}
            state["module.decoder.layers.0.mlp.linear_fc2.weight"][3, 5:8] = where[name]
            shutil.rmtree(root / "weights")
            _save_tensors(root, state)
        found[name] = root
    return found


def _save_tensors(root: Path, state: dict[str, torch.Tensor]) -> None:
    import torch.distributed.checkpoint as dcp

    dcp.save(
        {**state, "module.decoder._extra_state/shard_0_1": [1, 2, 3]}, checkpoint_id=root / "weights", no_dist=True
    )
    (root / "weights/metadata.json").write_text('{"sharded_backend": "torch_dist", "sharded_backend_version": 1}')
    torch.save({}, root / "weights/common.pt")
    write_checksums(root)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_named_with_its_tensor_and_count(tmp_path: Path, value: float) -> None:
    found = _poisoned(tmp_path, {"two": value})
    pair = {name: found[name] for name in ("one", "two")}
    mixtures = {"mix": {"one": 0.5, "two": 0.5}}
    message = r"two: module\.decoder\.layers\.0\.mlp\.linear_fc2\.weight has 3 values .*merge\.allow_nonfinite=true"
    for method, base in (("linear", None), ("ties", found["base"]), ("task_arithmetic", found["base"])):
        refused(pair, tmp_path / method, message, mixtures, method=method, base=base)
    run_merge(plan_of(pair, mixtures, allow_nonfinite=True), tmp_path / "linear")  # goes on from there
    record = json.loads((tmp_path / "linear/mix/merge.json").read_text())
    assert record["nonfinite"] == {"two: module.decoder.layers.0.mlp.linear_fc2.weight": 3}
    merged = CheckpointReader(tmp_path / "linear/mix").read_tensor("module.decoder.layers.0.mlp.linear_fc2.weight")
    assert int((~merged.isfinite()).sum()) == 3
    assert not merged[3, 5:8].isfinite().any()


def test_a_base_that_is_no_number_is_named(tmp_path: Path) -> None:
    found = _poisoned(tmp_path, {"base": float("nan")})
    pair = {name: found[name] for name in ("one", "two")}
    for method in ("task_arithmetic", "ties"):
        text = refused(
            pair, tmp_path / method, r"base: .*linear_fc2\.weight has 3", {"mix": {"one": 1.0}}, method=method,
            base=found["base"],
        )  # fmt: skip
        assert "leave the component out" not in text


def test_what_was_let_through_is_not_taken_over_once_it_is_not(tmp_path: Path) -> None:
    """An interrupted merge that let NaN through, gone on with by one that does not."""
    found = _poisoned(tmp_path, {"two": float("nan")})
    pair = {name: found[name] for name in ("one", "two")}
    output, mixtures = tmp_path / "output", {"mix": {"one": 0.5, "two": 0.5}}
    kill_merge(plan_of(pair, mixtures, allow_nonfinite=True), output, just_before("os.rename", output / "mix"))
    refused(pair, output, "has 3 values", mixtures)


def test_training_state_is_left_out_and_cannot_do_harm(layouts: dict[str, Path], tmp_path: Path) -> None:
    """Two saves of one model with optimizer state; a flip in that state changes nothing."""
    for name in ("one", "two"):
        shutil.copytree(layouts["megatron_lm"], tmp_path / name)
    pair = {name: tmp_path / name for name in ("one", "two")}
    run_merge(plan_of(pair, {"mix": {"one": 0.5, "two": 0.5}}), tmp_path / "expected")
    stored = read_metadata(tmp_path / "one/iter_0000010")
    name = next(name for name in stored.tensors if name.startswith("optimizer."))
    chunk = stored.tensors[name].chunks[0]
    flip(tmp_path / "one/iter_0000010" / chunk.file, chunk.file_offset + chunk.num_bytes // 2, 0)
    run_merge(plan_of(pair, {"mix": {"one": 0.5, "two": 0.5}}), tmp_path / "output")
    assert meaning(tmp_path / "output") == meaning(tmp_path / "expected")
    merged = read_metadata(tmp_path / "output/mix/iter_0000010")
    assert not any(name.startswith("optimizer.") for name in merged.tensors)


# What the mixtures are like.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"m": {"code_1": 0.5, "general": 0.6}}', r"m: expected shares that sum to 1, found 1\.1; divide"),
        ('{"m": {"code_1": 1.5, "general": -0.5}}', r"general: expected a finite share >= 0, found -0\.5"),
        ('{"m": {"code_1": NaN, "general": 0.5}}', "code_1: expected a finite share >= 0, found nan"),
        ('{"m": {"code_1": Infinity}}', "code_1: expected a finite share >= 0, found inf"),
        ('{"m": {"code_1": "1"}}', "code_1: expected a number, found '1'"),
        ('{"m": {"code1": 1}}', r"unknown name 'code1'; expected some of .*did you mean code_1\?"),
        ('{"m": 1}', "expected {"),
        ("{}", "expected {"),
        ('{"m": ', "expected JSON"),
    ],
)
def test_mixtures_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mixtures.json"
    path.write_text(text)
    with pytest.raises(DemixError, match=message):
        load_mixtures(path, NAMES)


def test_weights_need_not_sum_to_one_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "mixtures.json"
    path.write_text('{"m": {"code_1": 0.7, "general": 0.7}}')
    assert load_mixtures(path, NAMES, any_weights=True) == {"m": {"code_1": 0.7, "general": 0.7, "math_1": 0.0}}
    path.write_text('{"m": {"code_1": NaN}}')
    with pytest.raises(MixtureError, match="expected a finite number"):
        load_mixtures(path, NAMES, any_weights=True)


# What happens meanwhile.


def recording(plan: MergePlan, output: Path) -> Moment:
    """Where an output is whole, and its record is about to say so; it is published next."""
    return just_before("os.rename", output / f".merge-{plan.fingerprint}/outputs/mix/merge.json")


@pytest.mark.parametrize("change", ["touch", "replace", "remove", "small file"])
@pytest.mark.parametrize("moment", ["before", "while finishing"])
def test_a_source_that_changes_is_noticed_before_anything_is_published(
    components: Components, tmp_path: Path, change: str, moment: str
) -> None:
    shard = components["code_1"] / "weights/__0_0.distcp"

    def tamper() -> None:
        if change == "touch":
            os.utime(shard)
        elif change == "replace":
            shutil.copy2(shard, tmp_path / "copy")
            os.replace(tmp_path / "copy", shard)
        elif change == "small file":
            (components["code_1"] / "context/model.yaml").write_text("other: model\n")
        else:
            shard.unlink()

    plan, output = plan_of(components, MIXTURES), tmp_path / "output"
    merge = partial(meeting_merge, plan, output, recording(plan, output), tamper)
    if moment == "before":
        tamper()
        merge = partial(run_merge, plan, output)
    with pytest.raises(DemixError, match=r"changed while it was merged; this mixture is not published|missing"):
        merge()
    assert not (tmp_path / "output/mix").exists()


def test_a_folder_that_comes_while_the_merge_runs_is_left_alone(
    components: Components, tmp_path: Path, expected: dict[str, Any]
) -> None:
    output, plan = tmp_path / "output", plan_of(components, MIXTURES)

    def come() -> None:
        (output / "mix").mkdir()
        (output / "mix/thesis.tex").write_text("years of work")

    for force in (False, True):
        with pytest.raises(CheckpointError, match=r"mix: exists; it came while the merge ran. Move it away"):
            meeting_merge(plan, output, recording(plan, output), come, force=force)
        assert (output / "mix/thesis.tex").read_text() == "years of work"
        shutil.rmtree(output / "mix")
    run_merge(plan_of(components, MIXTURES), output)
    assert meaning(output) == expected


@pytest.mark.parametrize("what", ["file", "folder", "symlink to a folder", "broken symlink", "checkpoint"])
def test_what_stands_where_an_output_goes_is_left_alone(components: Components, tmp_path: Path, what: str) -> None:
    output = tmp_path / "output"
    target = output / "mix"
    output.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").write_text("mine")
    if what == "file":
        target.write_text("mine")
    elif what == "folder":
        target.mkdir()
    elif what == "checkpoint":
        shutil.copytree(components["general"], target)
    else:
        target.symlink_to(tmp_path / ("elsewhere" if what == "symlink to a folder" else "nowhere"))
    before = sorted(output.rglob("*"))
    for force in (False, True):
        with pytest.raises(CheckpointError, match="mix: exists, and no merge made it; it is left alone"):
            run_merge(plan_of(components, MIXTURES), output, force=force)
    assert [path for path in sorted(output.rglob("*")) if path.name != ".lock"] == before
    assert (tmp_path / "elsewhere/file").read_text() == "mine"


def test_the_output_folder_may_be_a_symlink(components: Components, tmp_path: Path, expected: dict[str, Any]) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "output").symlink_to(tmp_path / "disk")
    run_merge(plan_of(components, MIXTURES), tmp_path / "output")
    assert meaning(tmp_path / "disk") == expected
    verify(tmp_path / "output/mix")


# Disks.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 48 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def _fill(path: Path, leave: int) -> None:
    free = shutil.disk_usage(path.parent).free
    with open(path, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, free - leave)


@pytest.mark.parametrize("leave", [0, 4 << 20, 13_400_000])
def test_a_full_disk_ends_the_merge_and_the_same_command_goes_on(small_disk: Path, tmp_path: Path, leave: int) -> None:
    pair = {name: save_checkpoint(tmp_path / name, number, 1, 512) for number, name in enumerate(("one", "two"))}
    mixtures = {"mix": {"one": 0.25, "two": 0.75}}
    run_merge(plan_of(pair, mixtures), tmp_path / "expected")
    output = small_disk / "output"
    output.mkdir()
    plan = plan_of(pair, mixtures)
    starting = just_before("os.mkdir", output / f".merge-{plan.fingerprint}/outputs/mix/weights")
    with pytest.raises(DemixError, match=r"the disk is full \(No space.*goes on"):  # space that goes meanwhile
        meeting_merge(plan, output, starting, lambda: _fill(small_disk / "filler", leave))
    nothing_published(output)
    with pytest.raises(DemixError, match=r"GiB free, and 1 outputs need .* GiB more; free space|the disk is full"):
        run_merge(plan_of(pair, mixtures), output)
    (small_disk / "filler").unlink()
    run_merge(plan_of(pair, mixtures), output)
    assert contents(output) == contents(tmp_path / "expected")


def test_a_file_system_that_is_read_only_is_said(small_disk: Path, components: Components) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(DemixError, match=r"disk.*Read-only file system"):
        run_merge(plan_of(components, MIXTURES), small_disk / "output")


# What is hostile.


class _Hostile:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.witness}",)


def test_hostile_metadata_is_refused_and_not_run(components: Components, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    (without_record(components["general"]) / "weights/.metadata").write_bytes(pickle.dumps(_Hostile(witness)))
    refused(
        components, tmp_path / "output", r"\.metadata: names (posix|os)\.system, which no checkpoint metadata needs"
    )
    assert not witness.exists()


def test_a_hostile_archive_is_refused_and_not_run(components: Components, tmp_path: Path) -> None:
    """A shard whose tensor's pickle is exchanged, at the same length and with the right CRCs."""
    witness = tmp_path / "ran"
    root = without_record(components["general"])
    chunk = read_metadata(root / "weights").tensors[TENSOR].chunks[0]
    shard = root / "weights" / chunk.file
    data = bytearray(shard.read_bytes())
    old = bytes(data[chunk.file_offset :][: chunk.num_bytes])
    (tmp_path / "old").write_bytes(old)
    with zipfile.ZipFile(tmp_path / "old") as archive, zipfile.ZipFile(tmp_path / "new", "w") as other:
        for record in archive.infolist():
            content = archive.read(record)
            if record.filename.endswith("data.pkl"):
                content = pickle.dumps(_Hostile(witness), 2)
            other.writestr(record.filename, content)
    new = (tmp_path / "new").read_bytes()
    assert len(new) <= len(old)
    position = new.rindex(b"PK\x05\x06")  # the end record has to be last: a comment fills up
    padding = len(old) - len(new)
    new = new[: position + 20] + padding.to_bytes(2, "little") + bytes(padding)
    data[chunk.file_offset :][: chunk.num_bytes] = new
    data[chunk.file_offset : chunk.file_offset + chunk.num_bytes] = new
    shard.write_bytes(data)
    text = refused(components, tmp_path / "output", r"is damaged, or is not the plain archive of a tensor")
    assert "it names posix.system; nothing of it was run" in text
    assert not witness.exists()


def test_a_hostile_common_state_is_not_run(components: Components, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    torch.save({"optimizer": _Hostile(witness)}, without_record(components["code_1"]) / "weights/common.pt")
    plan = plan_of(components, MIXTURES)
    run_merge(plan, tmp_path / "output")  # carried along as bytes, with a warning
    assert not witness.exists()
    verify(tmp_path / "output/mix")
    assert not witness.exists()


def test_a_place_outside_of_the_folder_is_refused(components: Components, tmp_path: Path) -> None:
    path = without_record(components["code_1"]) / "weights/.metadata"
    data = path.read_bytes()
    path.write_bytes(data.replace(b"__0_0.distcp", b"../__0.distc"))
    refused(components, tmp_path / "output", r"points outside its folder")


# On the command line: exit code 2, one line.


def _command(components: Components, tmp_path: Path, mixtures: object, *more: str) -> list[str]:
    (tmp_path / "mixtures.json").write_text(mixtures if isinstance(mixtures, str) else json.dumps(mixtures))
    given = [f"+merge.components.{name}={path}" for name, path in components.items()]
    fixed = [
        f"merge.mixtures={tmp_path / 'mixtures.json'}",
        f"merge.output={tmp_path / 'output'}",
        f"runs_dir={tmp_path}",
    ]
    return ["merge", *fixed, *given, *more]


def _one_line(result: subprocess.CompletedProcess[str], pattern: str) -> None:
    lines = [line for line in result.stderr.splitlines() if line.startswith("nemo-demix: ")]
    assert len(lines) == 1, result.stderr
    assert re.search(pattern, lines[0]), lines[0]
    assert "Traceback" not in result.stderr


def test_the_command_line_says_it_in_one_line(components: Components, tmp_path: Path) -> None:
    shard, offset = payload_place(components["general"])
    flip(shard, offset, 0)
    result = run_cli(*_command(components, tmp_path, MIXTURES, "merge.workers=2"), expect=2)
    _one_line(result, r"general/weights/__\d_\d\.distcp: .* is damaged: its CRC is .*copy the checkpoint again$")
    nothing_published(tmp_path / "output")
    flip(shard, offset, 0)
    names = {name: {"code_1": 1} for name in ("..", "a/b", "")}
    for name, weights in names.items():
        result = run_cli(*_command(components, tmp_path, {name: weights}), expect=2)
        _one_line(result, "cannot be a folder's name here; rename the mixture$")
    _one_line(
        run_cli(*_command(components, tmp_path, MIXTURES, "merge.output=/dev/null"), expect=2), "cannot be written to"
    )


def test_records_and_reports_do_not_depend_on_who_damaged_what(originals: Components) -> None:
    """The originals of this module are still whole."""
    for path in originals.values():
        check_small_files(detect(path))
        for name in (reader := CheckpointReader(path)):
            assert reader.read_tensor(name).shape == reader.tensors[name].shape
