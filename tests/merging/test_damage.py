"""Whatever is damaged is refused in one line, or makes no difference to what is published."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemo_demix.checkpoints.blob import find_payload
from nemo_demix.checkpoints.checksums import CHECKSUMS, check_small_files
from nemo_demix.checkpoints.files import LocalFile
from nemo_demix.checkpoints.layouts import detect, locate
from nemo_demix.checkpoints.metadata import read_metadata
from nemo_demix.errors import CheckpointError, DemixError
from nemo_demix.merging import sources
from nemo_demix.merging.verify import verify
from tests.merging.faults import (
    MIXTURES,
    NAMES,
    TENSOR,
    Components,
    component_of,
    contents,
    draw_flips,
    flip,
    meaning,
    nothing_published,
    payload_place,
    plan_of,
    refused,
    run_merge,
    without_record,
)

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
    text = refused(components, tmp_path / "output", message)
    assert str(components[name]) in text


def test_a_short_metadata_file_is_refused_without_checksums_too(components: Components, tmp_path: Path) -> None:
    _cut(without_record(components["code_1"]) / "weights/.metadata")
    refused(components, tmp_path / "output", r"\.metadata: damaged \(.*copy the checkpoint again")


def test_metadata_that_processes_read_side_by_side_are_the_same(
    components: Components, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_MUCH", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})  # also where there is one core
    folders = {name: locate(path).weights for name, path in components.items()}
    expected = {folder: read_metadata(folder) for folder in folders.values()}
    assert sources.read_side_by_side(list(components.values())) == expected
    _cut(without_record(components["code_1"]) / "weights/.metadata")
    known = sources.read_side_by_side(list(components.values()))
    assert expected.keys() - known.keys() == {folders["code_1"]}
    refused(components, tmp_path / "output", r"\.metadata: damaged \(.*copy the checkpoint again")


def _places(component: Path) -> dict[str, tuple[Path, int]]:
    """One byte of each kind of content: (file, offset)."""
    stored = read_metadata(component / "weights")
    dtype = stored.tensors[TENSOR].dtype
    chunk = stored.tensors[TENSOR].chunks[1]
    shard = component / "weights" / chunk.file
    with open(shard, "rb") as file:
        payload = find_payload(LocalFile(file.fileno()), shard, TENSOR, chunk, dtype)
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
        nothing_published(output)
        return "refused"
    found = meaning(output)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == [], "silently different"
    return "harmless"


@pytest.mark.slow
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


@pytest.mark.slow
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
    shard, offset = payload_place(base)
    flip(shard, offset, 1)
    options = {"base": base, "method": "task_arithmetic" if method == "linear" else method}
    refused(components, tmp_path / "output", r"base.*the chunk of .* is damaged: its CRC is", **options)
    flip(shard, offset, 1)  # mended in place: same size, inode and times, so the same merge goes on
    run_merge(plan_of(components, MIXTURES, **options), tmp_path / "output")
    run_merge(plan_of(components, MIXTURES, **options), tmp_path / "again")
    assert contents(tmp_path / "output") == contents(tmp_path / "again")


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
        assert (component_of(smoke_run, name) / CHECKSUMS).is_file()
        check_small_files(detect(component_of(smoke_run, name)))


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
    path = without_record(components["code_1"]) / "context/tokenizer/tokenizer.json"
    path.write_text(path.read_text() + " ")  # what is no JSON any more is refused
    for template in (None, "code_1", "general"):
        caplog.clear()
        plan_of(components, MIXTURES, objects_from=template)
        taken = template or "code_1"
        assert f"tokenizer.json differs between {taken}" in caplog.text
        assert f"the outputs take over that of {taken}" in caplog.text


def test_verify_finds_a_flip_in_any_file_of_an_output(originals: Components, tmp_path: Path) -> None:
    run_merge(plan_of(originals, MIXTURES), tmp_path)
    rng = np.random.default_rng(0)
    for path, offset, bit in draw_flips(tmp_path / "mix", 60, rng):
        flip(path, offset, bit)
        try:
            verify(tmp_path / "mix", 1)
            noticed = path.name == "merge.json"  # some of its bytes only tell how it came about
        except DemixError as error:
            noticed = len(str(error).splitlines()) == 1
        assert noticed, (path, offset, bit)
        flip(path, offset, bit)
    verify(tmp_path / "mix")
