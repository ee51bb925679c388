"""Whatever is wrong with the input is refused in one line, or makes no difference; what is published is whole."""

import json
import os
import pickle
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nemo_demix.checkpoints.blob import find_payload
from nemo_demix.checkpoints.checksums import CHECKSUMS, check_small_files, write_checksums
from nemo_demix.checkpoints.layouts import detect
from nemo_demix.checkpoints.metadata import read_metadata
from nemo_demix.checkpoints.reader import CheckpointReader
from nemo_demix.errors import CheckpointError, DemixError, MixtureError
from nemo_demix.merging import run
from nemo_demix.merging.verify import verify
from nemo_demix.mixture import load_mixtures
from tests.helpers import run_cli
from tests.merging.faults import contents, draw_flips, flip, meaning, plan_of, run_merge, save_checkpoint

NAMES = ("code_1", "general", "math_1")
MIXTURES = {"mix": {"code_1": 0.5, "general": 0.25, "math_1": 0.25}}
TENSOR = "module.decoder.layers.mlp.linear_fc2.weight"
Components = dict[str, Path]


def _component(run_dir: Path, name: str) -> Path:
    (path,) = (run_dir / "models/component" / name / "checkpoints").glob("step_*")
    return path


@pytest.fixture(scope="module")
def originals(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Components:
    """Three component models of a run, with the checksums that training leaves; nothing here changes them."""
    folder = tmp_path_factory.mktemp("originals")
    for name in NAMES:
        shutil.copytree(_component(smoke_run, name), folder / name)
        write_checksums(folder / name)
    return {name: folder / name for name in NAMES}


@pytest.fixture(scope="module")
def expected(originals: Components, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the undamaged components merge to."""
    output = tmp_path_factory.mktemp("expected")
    run_merge(plan_of(originals, MIXTURES), output)
    return meaning(output)


@pytest.fixture
def components(originals: Components, tmp_path: Path) -> Components:
    """Copies to be damaged; the first gives the outputs their grid and small files."""
    for name in NAMES:
        shutil.copytree(originals[name], tmp_path / name)
    return {name: tmp_path / name for name in NAMES}


def _refused(
    components: Components, output: Path, message: str, mixtures: dict[str, dict[str, float]] = MIXTURES, **options: Any
) -> str:
    """The merge raises a user's error of one line, and leaves nothing that could be taken for a checkpoint."""
    with pytest.raises(DemixError, match=message) as caught:
        run_merge(plan_of(components, mixtures, **options), output)
    _nothing_published(output)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def _nothing_published(output: Path) -> None:
    if output.exists():
        assert [path.name for path in output.iterdir() if not path.name.startswith(".")] == []
        for metadata in output.rglob(".metadata"):
            raise AssertionError(f"{metadata}: an unpublished output looks whole")


def _without_record(component: Path) -> Path:
    """As a checkpoint that others trained: nothing lists its small files."""
    (component / CHECKSUMS).unlink()
    return component


# What the files are like.


def _remove(path: Path) -> None:
    path.unlink()


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


@pytest.mark.parametrize("name", ["code_1", "math_1"])
@pytest.mark.parametrize(
    ("damage", "file", "message"),
    [
        (_remove, "weights/__0_1.distcp", r"__0_1\.distcp: missing.*copy that again"),
        (
            _cut,
            "weights/__1_0.distcp",
            r"__1_0\.distcp: truncated: .metadata expects at least \d+ bytes, found \d+; copy",
        ),
        (_remove, "weights/.metadata", r"cut off|\.metadata: not found|\.metadata: No such file"),
        (
            _cut,
            "weights/.metadata",
            r"\.metadata: \d+ bytes with CRC-32 .*, expected \d+ with .*copy the checkpoint again",
        ),
        (_remove, "weights/metadata.json", r"metadata\.json.*is missing"),
        (_remove, "weights/common.pt", r"common\.pt: No such file.*lists it; copy the checkpoint again"),
        (_cut, "weights/common.pt", r"common\.pt: \d+ bytes with CRC-32"),
        (_cut, "context/tokenizer/tokenizer.json", r"tokenizer\.json: \d+ bytes with CRC-32"),
        (_remove, "context/io.json", r"io\.json: No such file"),
        (_cut, CHECKSUMS, r"checksums\.json: damaged .*copy the checkpoint again"),
    ],
)
def test_a_file_that_is_missing_or_short_is_named(
    components: Components, tmp_path: Path, name: str, damage: Callable[[Path], None], file: str, message: str
) -> None:
    damage(components[name] / file)
    text = _refused(components, tmp_path / "output", message)
    assert str(components[name]) in text


def test_a_short_metadata_file_is_refused_without_checksums_too(components: Components, tmp_path: Path) -> None:
    _cut(_without_record(components["code_1"]) / "weights/.metadata")
    _refused(components, tmp_path / "output", r"\.metadata: damaged \(.*copy the checkpoint again")


def _places(component: Path) -> dict[str, tuple[Path, int]]:
    """One byte of each kind of content: (file, offset)."""
    stored = read_metadata(component / "weights")
    dtype = stored.tensors[TENSOR].dtype
    chunk = stored.tensors[TENSOR].chunks[1]
    shard = component / "weights" / chunk.file
    with open(shard, "rb") as file:
        payload = find_payload(file.fileno(), shard, TENSOR, chunk, dtype)
        file.seek(chunk.file_offset)
        blob = file.read(chunk.num_bytes)
    start, directory = payload.offset - chunk.file_offset, blob.rindex(b"PK\x01\x02")
    item = next(iter(stored.objects.values()))  # of an archive: the third byte of its first header, and the middle
    places = {
        "first byte of a payload": payload.offset,
        "last byte of a payload": payload.offset + payload.num_bytes - 1,
        "data.pkl": chunk.file_offset + blob.index(b"_rebuild_tensor"),
        "strides in data.pkl": chunk.file_offset + blob.index(b"_rebuild_tensor") + 80,
        "local header of data.pkl": chunk.file_offset,
        "local header of the payload": chunk.file_offset + blob.rindex(b"PK\x03\x04", 0, start) + 1,
        "name in a local header": chunk.file_offset + blob.rindex(b"data/0", 0, start),
        "padding before the payload": payload.offset - 2,
        "CRC behind the payload": payload.offset + payload.num_bytes + 5,
        "central directory": chunk.file_offset + directory,
        "CRC in the central directory": chunk.file_offset + blob.index(b"PK\x01\x02") + 17,
        "size in the central directory": chunk.file_offset + directory + 21,
        "end of the archive": chunk.file_offset + len(blob) - 20,
    }
    found = {what: (shard, offset) for what, offset in places.items()}
    found["byte object"] = (component / "weights" / item.file, item.file_offset + item.num_bytes // 2)
    found["date in a byte object's header"] = (component / "weights" / item.file, item.file_offset + 12)
    for file in (".metadata", "common.pt", "metadata.json"):
        path = component / "weights" / file
        found[file] = (path, path.stat().st_size // 2)
    for file in ("context/model.yaml", "context/io.json", "context/tokenizer/tokenizer.json", CHECKSUMS):
        found[file] = (component / file, (component / file).stat().st_size // 2)
    return found


def _outcome(components: Components, output: Path, expected: dict[str, Any], **options: Any) -> str:
    """`refused`, or `harmless` where the output is what it has to be; anything else is a failure."""
    try:
        run_merge(plan_of(components, MIXTURES, **options), output)
    except DemixError:
        _nothing_published(output)
        return "refused"
    found = meaning(output)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == [], "silently different"
    return "harmless"


@pytest.mark.parametrize(("name", "objects_from"), [("code_1", None), ("code_1", "code_1"), ("math_1", None)])
def test_a_flipped_bit_is_found_wherever_it_is(
    components: Components, tmp_path: Path, expected: dict[str, Any], name: str, objects_from: str | None
) -> None:
    outcomes = {}
    for number, (what, (path, offset)) in enumerate(_places(components[name]).items()):
        flip(path, offset, 3)
        outcomes[what] = _outcome(components, tmp_path / f"output_{number}", expected, objects_from=objects_from)
        flip(path, offset, 3)
    harmless = {what for what, outcome in outcomes.items() if outcome == "harmless"}
    # Nothing is made from padding, and only the directory's copy of a size or of a flag is used.
    assert harmless <= {"padding before the payload", "CRC behind the payload", "local header of data.pkl"}, outcomes
    assert _outcome(components, tmp_path / "healed", expected) == "harmless"


def test_bits_flipped_at_random_are_found_or_make_no_difference(
    components: Components, tmp_path: Path, expected: dict[str, Any]
) -> None:
    rng = np.random.default_rng(0)
    outcomes = []
    for name, number, options in (
        ("code_1", 25, {}),
        ("code_1", 20, {"objects_from": "code_1"}),  # then nothing else is compared with its byte objects
        ("math_1", 15, {}),
    ):
        for path, offset, bit in draw_flips(components[name], number, rng):
            flip(path, offset, bit)
            outcomes.append(_outcome(components, tmp_path / f"output_{len(outcomes)}", expected, **options))
            flip(path, offset, bit)
    assert len(outcomes) == 60
    assert outcomes.count("refused") > 40  # the others hit padding, dates and the like


@pytest.mark.parametrize("method", ["linear", "ties"])
def test_a_damaged_base_is_refused(components: Components, smoke_run: Path, tmp_path: Path, method: str) -> None:
    (path,) = (smoke_run / "models/base/base/checkpoints").glob("step_*")
    base = shutil.copytree(path, tmp_path / "base")
    shard, offset = _places_of_payload(base)
    flip(shard, offset, 1)
    options = {"base": base, "method": "task_arithmetic" if method == "linear" else method}
    _refused(components, tmp_path / "output", r"base.*the chunk of .* is damaged: its CRC is", **options)
    flip(shard, offset, 1)  # mended in place: same size, inode and times, so the same merge goes on
    run_merge(plan_of(components, MIXTURES, **options), tmp_path / "output")
    run_merge(plan_of(components, MIXTURES, **options), tmp_path / "again")
    assert contents(tmp_path / "output") == contents(tmp_path / "again")


def _places_of_payload(component: Path) -> tuple[Path, int]:
    entry = read_metadata(component / "weights").tensors[TENSOR]
    shard = component / "weights" / entry.chunks[0].file
    with open(shard, "rb") as file:
        payload = find_payload(file.fileno(), shard, TENSOR, entry.chunks[0], entry.dtype)
    return shard, payload.offset + 40


# What the record of the small files is worth.


def test_checksums_cover_every_file_but_the_shards(originals: Components) -> None:
    root = originals["code_1"]
    listed = set(json.loads((root / CHECKSUMS).read_text())["files"])
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert listed == {file for file in files if not file.endswith(".distcp")} - {CHECKSUMS}
    assert {"weights/.metadata", "weights/common.pt", "context/model.yaml"} <= listed
    assert set(json.loads((root / CHECKSUMS).read_text())["objects"]) == set(read_metadata(root / "weights").objects)
    check_small_files(detect(root))


def test_training_leaves_checksums(smoke_run: Path) -> None:
    for name in NAMES:
        assert (_component(smoke_run, name) / CHECKSUMS).is_file()
        check_small_files(detect(_component(smoke_run, name)))


def test_outputs_do_not_carry_the_checksums_of_the_component_they_are_made_after(expected: dict[str, Any]) -> None:
    assert not any(CHECKSUMS in path for path in expected)
    assert "mix/merge.json" in expected


def test_a_merged_model_is_checked_as_a_source_by_its_own_record(components: Components, tmp_path: Path) -> None:
    run_merge(plan_of(components, MIXTURES), tmp_path / "first")
    merged = {"one": tmp_path / "first/mix", "two": components["general"]}
    run_merge(plan_of(merged, {"m": {"one": 0.5, "two": 0.5}}), tmp_path / "second")
    path = tmp_path / "first/mix/context/model.yaml"
    flip(path, path.stat().st_size // 3, 0)
    with pytest.raises(CheckpointError, match=r"model\.yaml: .*, or remove .*merge\.json if you changed it yourself"):
        plan_of(merged, {"m": {"one": 0.5, "two": 0.5}})


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"files": {"weights/common.pt": {"bytes": 1}}}', '{"files": [1]}', "\udcff"]
)
def test_a_damaged_record_is_named_itself(components: Components, text: str) -> None:
    (components["code_1"] / CHECKSUMS).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(CheckpointError, match=r"checksums\.json: damaged"):
        plan_of(components, MIXTURES)


def test_small_files_that_differ_are_said_where_no_record_protects_them(
    components: Components, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan_of(components, MIXTURES)
    assert "differs" not in caplog.text
    path = _without_record(components["code_1"]) / "context/tokenizer/tokenizer.json"
    flip(path, path.stat().st_size // 2, 0)
    for template in (None, "code_1", "general"):
        caplog.clear()
        plan_of(components, MIXTURES, objects_from=template)
        taken = template or "code_1"
        assert f"tokenizer.json differs between {taken}" in caplog.text
        assert f"the outputs take over that of {taken}" in caplog.text


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
        _refused({"one": one, "two": other}, tmp_path / "output", message, mixtures)
    for name, message in (
        ("narrower", r"its shape is \(.*\) and \("),
        ("deeper", r"only two has module\.decoder\.layers\.1"),
    ):
        (tmp_path / name / "context/model.yaml").unlink()
        _without_record(tmp_path / name)
        _refused({"one": one, "two": tmp_path / name}, tmp_path / "output", message, mixtures)


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
        _refused(pair, tmp_path / method, message, mixtures, method=method, base=base)
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
        text = _refused(
            pair, tmp_path / method, r"base: .*linear_fc2\.weight has 3", {"mix": {"one": 1.0}}, method=method,
            base=found["base"],
        )  # fmt: skip
        assert "leave the component out" not in text


def test_what_was_let_through_is_not_taken_over_once_it_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted merge that let NaN through, gone on with by one that does not."""
    found = _poisoned(tmp_path, {"two": float("nan")})
    pair = {name: found[name] for name in ("one", "two")}
    with monkeypatch.context() as patch:
        patch.setattr(run, "bad_units", lambda *arguments: (_ for _ in ()).throw(RuntimeError("stopped here")))
        with pytest.raises(RuntimeError, match="stopped here"):
            run_merge(plan_of(pair, {"mix": {"one": 0.5, "two": 0.5}}, allow_nonfinite=True), tmp_path / "output")
    _refused(pair, tmp_path / "output", "has 3 values", {"mix": {"one": 0.5, "two": 0.5}})


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
        ('{"m": {"code_1": NaN, "general": 0.5}}', "code_1: expected a finite number, found nan"),
        ('{"m": {"code_1": Infinity}}', "code_1: expected a finite number, found inf"),
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


@pytest.mark.parametrize("change", ["touch", "replace", "remove", "small file"])
@pytest.mark.parametrize("moment", ["before", "while finishing"])
def test_a_source_that_changes_is_noticed_before_anything_is_published(
    components: Components, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, moment: str
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

    plan = plan_of(components, MIXTURES)
    finish = run.finish

    def tampered_finish(*arguments: Any, **options: Any) -> None:
        finish(*arguments, **options)
        tamper()

    if moment == "before":
        tamper()
    else:
        monkeypatch.setattr(run, "finish", tampered_finish)
    with pytest.raises(DemixError, match=r"changed while it was merged; nothing was published|missing"):
        run_merge(plan, tmp_path / "output")
    assert not (tmp_path / "output/mix").exists()


def test_a_folder_that_comes_while_the_merge_runs_is_left_alone(
    components: Components, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, Any]
) -> None:
    output = tmp_path / "output"
    finish = run.finish

    def slow_finish(*arguments: Any, **options: Any) -> None:
        finish(*arguments, **options)
        (output / "mix").mkdir()
        (output / "mix/thesis.tex").write_text("years of work")

    for force in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr(run, "finish", slow_finish)
            with pytest.raises(CheckpointError, match=r"mix: exists; it came while the merge ran. Move it away"):
                run_merge(plan_of(components, MIXTURES), output, force=force)
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
def test_a_full_disk_ends_the_merge_and_the_same_command_goes_on(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leave: int
) -> None:
    pair = {name: save_checkpoint(tmp_path / name, number, 1, 512) for number, name in enumerate(("one", "two"))}
    mixtures = {"mix": {"one": 0.25, "two": 0.75}}
    run_merge(plan_of(pair, mixtures), tmp_path / "expected")
    output = small_disk / "output"
    output.mkdir()
    with monkeypatch.context() as patch:  # space that goes while the merge runs
        patch.setattr(run, "_check_space", lambda *arguments: _fill(small_disk / "filler", leave))
        with pytest.raises(DemixError, match=r"the disk is full \(No space.*goes on"):
            run_merge(plan_of(pair, mixtures), output)
    _nothing_published(output)
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
    (_without_record(components["general"]) / "weights/.metadata").write_bytes(pickle.dumps(_Hostile(witness)))
    _refused(
        components, tmp_path / "output", r"\.metadata: names (posix|os)\.system, which no checkpoint metadata needs"
    )
    assert not witness.exists()


def test_a_hostile_archive_is_refused_and_not_run(components: Components, tmp_path: Path) -> None:
    """A shard whose tensor's pickle is exchanged, at the same length and with the right CRCs."""
    witness = tmp_path / "ran"
    root = _without_record(components["general"])
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
    text = _refused(components, tmp_path / "output", r"is damaged, or is not the plain archive of a tensor")
    assert "it names posix.system; nothing of it was run" in text
    assert not witness.exists()


def test_a_hostile_common_state_is_not_run(components: Components, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    torch.save({"optimizer": _Hostile(witness)}, _without_record(components["code_1"]) / "weights/common.pt")
    plan = plan_of(components, MIXTURES)
    run_merge(plan, tmp_path / "output")  # carried along as bytes, with a warning
    assert not witness.exists()
    verify(tmp_path / "output/mix")
    assert not witness.exists()


def test_a_place_outside_of_the_folder_is_refused(components: Components, tmp_path: Path) -> None:
    path = _without_record(components["code_1"]) / "weights/.metadata"
    data = path.read_bytes()
    path.write_bytes(data.replace(b"__0_0.distcp", b"../__0.distc"))
    _refused(components, tmp_path / "output", r"points outside its folder|missing")


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
    shard, offset = _places_of_payload(components["general"])
    flip(shard, offset, 0)
    result = run_cli(*_command(components, tmp_path, MIXTURES, "merge.workers=2"), expect=2)
    _one_line(result, r"general/weights/__\d_\d\.distcp: .* is damaged: its CRC is .*copy the checkpoint again$")
    _nothing_published(tmp_path / "output")
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
            assert asdict(reader.tensors[name])
            reader.read_tensor(name)
