"""Strangers' checkpoints: nothing of them runs, nothing outside of them is read, what is odd is said in one line."""

import contextlib
import io
import json
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import fiddle as fdl
import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from fiddle._src.experimental import serialization
from hypothesis import given, settings
from hypothesis import strategies as st
from isal.isal_zlib import crc32

from nemo_demix.checkpoints import pickled
from nemo_demix.checkpoints.checksums import check_small_files, file_entry
from nemo_demix.checkpoints.common_state import load_plain
from nemo_demix.checkpoints.inspect import describe, print_summary
from nemo_demix.checkpoints.layouts import detect
from nemo_demix.checkpoints.metadata import Chunk, _is_row, _tiles, read_metadata
from nemo_demix.checkpoints.metadata_writer import metadata_bytes
from nemo_demix.checkpoints.opcodes import decode
from nemo_demix.checkpoints.reader import CheckpointReader
from nemo_demix.checkpoints.vetted import vetted
from nemo_demix.errors import CheckpointError, DemixError
from nemo_demix.merging.verify import check_files
from nemo_demix.plain_yaml import parse_yaml
from tests.hostile_checkpoints import (
    BOMBS,
    FILE_NAMES,
    ODD_FILES,
    PASSED_OVER,
    PLACES,
    REFUSED,
    TENSOR_NAMES,
    YAML_REFUSED,
    in_context,
    planted,
    swap,
)
from tests.hostile_inputs import ENTRIES, PAYLOADS, SECRET, good_checkpoint, merge_with_itself, read_all
from tests.merging.grids import write_checkpoint


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A NeMo 2 checkpoint of two tensors, one of them in four chunks, and two byte objects."""
    return good_checkpoint(tmp_path_factory.mktemp("good") / "c")


def said(entry: Callable[[Path], Any], checkpoint: Path) -> str:
    """The error that a user would read; empty where there is none."""
    try:
        entry(checkpoint)
    except DemixError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_payload_runs_by_any_entry(good: Path, tmp_path: Path, payload: str, entry: str) -> None:
    witness = tmp_path / "ran"
    checkpoint = planted(good, tmp_path / "c", witness, PAYLOADS[payload])
    assert "\n" not in said(ENTRIES[entry], checkpoint)
    assert not witness.exists()


def _freely(folder: Path) -> None:
    """All that Megatron, NeMo and Model Optimizer unpickle or build without restriction where they load a model."""
    weights = folder / "weights"
    found = pickle.loads((weights / ".metadata").read_bytes())
    torch.load(weights / "common.pt", weights_only=False)
    for index, place in found.storage_data.items():
        if isinstance(found.state_dict_metadata[index.fqn], dcp.metadata.BytesStorageMetadata):
            with open(weights / place.relative_path, "rb") as file:
                file.seek(place.offset)
                torch.load(io.BytesIO(file.read(place.length)), weights_only=False)
    for path in weights.glob("modelopt_state/common.pt"):
        torch.load(path, weights_only=False)
    for path in weights.glob("**/shard_*.pt"):
        pickle.loads(path.read_bytes())
    if (context := folder / "context/io.json").exists():
        text = context.read_text().replace('"nemo.lightning.io.pl"', '"argparse"')
        fdl.build(serialization.load_json(text.replace('"TrainerContext"', '"Namespace"')))


@pytest.mark.parametrize("payload", {**REFUSED, **PASSED_OVER})
def test_a_loader_that_runs_everything_is_shown_what_was_checked(good: Path, tmp_path: Path, payload: str) -> None:
    witness = tmp_path / "ran"
    checkpoint = planted(good, tmp_path / "c", witness, PAYLOADS[payload])
    if payload in REFUSED:
        with pytest.raises(CheckpointError, match=r"names (posix|os)\.system, .*nothing of it was run"):
            vetted(checkpoint, tmp_path / "v")
    else:
        _freely(vetted(checkpoint, tmp_path / "v"))
    assert not witness.exists()
    with contextlib.suppress(Exception):  # what a payload leaves behind is no model
        _freely(checkpoint)
    assert witness.exists(), "the payload is none"


def test_what_is_vetted_is_the_checkpoint(good: Path, tmp_path: Path) -> None:
    folder = vetted(good, tmp_path / "v")
    state = {name: torch.zeros(entry.shape) for name, entry in CheckpointReader(good).tensors.items()}
    dcp.load(state, checkpoint_id=folder / "weights", no_dist=True)
    for name, value in state.items():
        assert torch.equal(value, CheckpointReader(good).read_tensor(name)), name
    objects = read_metadata(folder / "weights").objects
    assert set(objects) == set(read_metadata(good / "weights").objects)
    assert torch.load(folder / "weights/common.pt", weights_only=True) == {"global_step": 3}
    assert not (folder / "context").exists()
    assert vetted(good, tmp_path / "v") == folder  # again, over what a run that was killed has left


def test_an_extra_state_that_would_be_unpickled_is_left_out(
    good: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = planted(good, tmp_path / "c", tmp_path / "ran", PASSED_OVER["object"])
    folder = vetted(checkpoint, tmp_path / "v")
    assert "the extra state of 1 layers" in caplog.text
    item = next(iter(read_metadata(folder / "weights").objects.values()))
    data = (folder / "weights" / item.file).read_bytes()[item.file_offset :][: item.num_bytes]
    assert torch.load(io.BytesIO(data), weights_only=True) == [None]


@pytest.mark.parametrize("odd", ODD_FILES)
@pytest.mark.parametrize("file", ["weights/.metadata", "weights/__0_0.distcp", "weights/common.pt", "context/note.txt"])
def test_files_that_are_none_or_lie_elsewhere(good: Path, tmp_path: Path, file: str, odd: str) -> None:
    (tmp_path / "secret").write_text(SECRET)
    checkpoint = planted(good, tmp_path / "c", tmp_path / "ran")
    (checkpoint / "context/note.txt").write_text("a note")
    swap(checkpoint / file, ODD_FILES[odd])
    for entry in ("merge", "start, resume", "live model, score, export"):
        error = said(ENTRIES[entry], checkpoint)
        assert "\n" not in error
        assert SECRET not in error
        if entry == "merge" and odd == "link out":
            assert "outside of the checkpoint" in error
    for path in tmp_path.glob("out*/**/*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()


def test_a_folder_that_is_a_link_out_is_not_followed_but_the_checkpoint_itself_may_be_one(
    good: Path, tmp_path: Path
) -> None:
    (tmp_path / "last").symlink_to(good)
    merge_with_itself(tmp_path / "last")
    read_all(vetted(tmp_path / "last", tmp_path / "v").parent / "last")
    (tmp_path / "c").mkdir()
    (tmp_path / "c/weights").symlink_to(good / "weights")
    for entry in ENTRIES.values():
        with pytest.raises(CheckpointError, match=r"weights: is a link to .*, outside of the checkpoint"):
            entry(tmp_path / "c")


def test_a_link_within_a_checkpoint_is_followed(good: Path, tmp_path: Path) -> None:
    checkpoint = planted(good, tmp_path / "c", tmp_path / "ran")
    (checkpoint / "context/model.yaml").rename(checkpoint / "context/one.yaml")
    (checkpoint / "context/model.yaml").symlink_to("one.yaml")
    assert detect(checkpoint).architecture == detect(good).architecture


@pytest.mark.parametrize("name", FILE_NAMES)
def test_names_of_files_that_lead_elsewhere(good: Path, tmp_path: Path, name: Any) -> None:
    found = pickle.loads((good / "weights/.metadata").read_bytes())
    for place in found.storage_data.values():
        place.relative_path = name
    (tmp_path / ".metadata").write_bytes(pickle.dumps(found))
    with pytest.raises(CheckpointError, match=r"expected a plain name; refused|damaged") as caught:
        read_metadata(tmp_path)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", TENSOR_NAMES)
def test_tensors_whose_name_is_none(good: Path, tmp_path: Path, name: Any) -> None:
    found = pickle.loads((good / "weights/.metadata").read_bytes())
    found.state_dict_metadata[name] = found.state_dict_metadata.pop("module.decoder.final_layernorm.weight")
    (tmp_path / ".metadata").write_bytes(pickle.dumps(found))
    with pytest.raises(CheckpointError) as caught:
        read_metadata(tmp_path)
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("value", PLACES)
def test_places_that_are_no_whole_numbers(good: Path, tmp_path: Path, value: Any) -> None:
    for where in ("offsets", "sizes", "size", "offset", "length"):
        found = pickle.loads((good / "weights/.metadata").read_bytes())
        entry = found.state_dict_metadata["module.decoder.final_layernorm.weight"]
        index = next(index for index in found.storage_data if "layernorm" in index.fqn)
        for target in (entry.chunks[0], entry, found.storage_data[index]):
            if hasattr(target, where):
                old = getattr(target, where)
                setattr(target, where, value if isinstance(old, int) else (value,))
        (tmp_path / ".metadata").write_bytes(pickle.dumps(found))
        with pytest.raises(CheckpointError):
            read_metadata(tmp_path)


@pytest.mark.parametrize("bomb", BOMBS)
def test_metadata_that_would_take_memory_time_or_more(tmp_path: Path, bomb: str) -> None:
    (tmp_path / ".metadata").write_bytes(BOMBS[bomb])
    with pytest.raises(CheckpointError) as caught:
        read_metadata(tmp_path)
    assert len(str(caught.value)) < 500


def test_reading_changes_nothing_for_the_next_reader(good: Path, tmp_path: Path) -> None:
    before = read_metadata(good / "weights")
    for name in pickled.ALLOWED:
        module, attribute = name
        for target in (b"", b")R", b")\x81"):
            data = b"\x80\x04" + f"c{module}\n{attribute}\n".encode() + target
            for state in (b"}X\x05\x00\x00\x00cacheNs", b"N}X\x05\x00\x00\x00cacheNs\x86", b"]"):
                (tmp_path / ".metadata").write_bytes(data + state + b"b.")
                with pytest.raises(CheckpointError):
                    read_metadata(tmp_path)
    assert read_metadata(good / "weights") == before


@settings(max_examples=100)
@given(data=st.data())
def test_any_bytes_give_a_result_or_one_error(good: Path, tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    """True metadata with bytes changed, cut or put in; and bytes of no origin."""
    true = (good / "weights/.metadata").read_bytes()
    changed = bytearray(true)
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(changed) - 1))
        match data.draw(st.sampled_from(["change", "cut", "insert", "repeat"])):
            case "change":
                changed[place] = data.draw(st.integers(0, 255))
            case "cut":
                del changed[place : place + data.draw(st.integers(1, 40))]
            case "insert":
                changed[place:place] = data.draw(st.binary(max_size=12))
            case _:
                changed[place:place] = changed[place : place + 30]
        changed = changed or bytearray(b"x")
    folder = tmp_path_factory.getbasetemp()
    (folder / ".metadata").write_bytes(data.draw(st.one_of(st.just(bytes(changed)), st.binary(max_size=200))))
    error = said(read_metadata, folder)
    assert len(error) < 2000
    if not error:
        found = read_metadata(folder)
        metadata_bytes(found.tensors, found.objects, found.planner_data, "again", found.whole_shapes)


@settings(max_examples=100)
@given(st.data())
def test_boxes_tile_just_if_each_place_is_covered_once(data: Any) -> None:
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    boxes = [[(0, size) for size in shape]]
    for _ in range(data.draw(st.integers(0, 6))):  # cut some box in two
        box = boxes.pop(data.draw(st.integers(0, len(boxes) - 1)))
        axis = data.draw(st.integers(0, len(shape) - 1))
        low, high = box[axis]
        cut = data.draw(st.integers(low + 1, high - 1)) if high - low > 1 else high
        parts = [(low, cut), (cut, high)] if cut < high else [(low, high)]
        boxes += [[*box[:axis], part, *box[axis + 1 :]] for part in parts]
    for _ in range(data.draw(st.integers(0, 2))):  # and spoil it
        which = data.draw(st.integers(0, len(boxes) - 1))
        axis = data.draw(st.integers(0, len(shape) - 1))
        low = data.draw(st.integers(0, shape[axis] - 1))
        boxes[which] = [*boxes[which]]
        boxes[which][axis] = (low, data.draw(st.integers(low + 1, shape[axis])))
    covered = np.zeros(shape, dtype=int)
    for box in boxes:
        covered[tuple(slice(*side) for side in box)] += 1
    array = np.array(boxes).reshape(len(boxes), len(shape), 2)
    once = bool((covered == 1).all())
    assert _tiles(array[..., 0], array[..., 1], np.array(shape)) == once
    sides = [(tuple(low for low, _ in box), tuple(high - low for low, high in box)) for box in boxes]
    is_row = _is_row(tuple(shape), [Chunk(lows, sizes, "f", 0, 1) for lows, sizes in sides])
    divided = sum(bool((array[:, axis] != (0, size)).any()) for axis, size in enumerate(shape))
    assert is_row == (once and divided <= 1)


_PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63), st.floats(allow_nan=False), st.text(max_size=9)
)


@settings(max_examples=100)
@given(
    st.recursive(_PLAIN, lambda inner: st.one_of(st.lists(inner), st.tuples(inner), st.dictionaries(st.text(), inner))),
    st.integers(2, 5),
)
def test_plain_values_are_read_as_they_were_pickled(value: Any, protocol: int) -> None:
    def nothing(module: str, name: str) -> NoReturn:
        raise AssertionError(f"{module}.{name}")

    assert decode(pickle.dumps([value, value], protocol), nothing) == [value, value]


def test_compressed_state_is_not_unpacked() -> None:
    plain, packed = io.BytesIO(), io.BytesIO()
    torch.save({"step": torch.zeros(1 << 16)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for record in source.infolist():
            target.writestr(record.filename, source.read(record))
    assert load_plain(plain.getvalue(), Path("common.pt"))["step"].numel() == 1 << 16
    with pytest.raises(CheckpointError, match=r"common\.pt: is compressed"):
        load_plain(packed.getvalue(), Path("common.pt"))


@pytest.mark.parametrize("text", YAML_REFUSED, ids=range(len(YAML_REFUSED)))
def test_yaml_that_is_not_plain(text: str) -> None:
    with pytest.raises(ValueError, match=YAML_REFUSED[text]) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)


def test_yaml_that_is_too_deep_is_refused_whatever_the_interpreter_would_stand() -> None:
    deep = "[" * 100 + "]" * 100
    assert parse_yaml(deep[1:-1]) == eval(deep[1:-1])
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(50_000)
    try:
        with pytest.raises(ValueError, match="values nested more than 100 deep"):
            parse_yaml("[" * 5000)
    finally:
        sys.setrecursionlimit(before)


def test_yaml_with_aliases_and_a_mark_is_read() -> None:
    assert parse_yaml(b"\xef\xbb\xbfa: &a {x: 1}\nb: *a\nc: {<<: *a, x: 2}") == {
        "a": {"x": 1},
        "b": {"x": 1},
        "c": {"x": 2},
    }
    assert parse_yaml("a: !thing {x: 1}", unknown_tags=True) == {"a": None}
    assert parse_yaml("") is None


def test_checksums_that_lead_elsewhere_are_not_followed(good: Path, tmp_path: Path) -> None:
    checkpoint = planted(good, tmp_path / "c", tmp_path / "ran")
    (tmp_path / "secret").write_text(SECRET)
    entry = file_entry(len(SECRET), crc32(SECRET.encode()))  # so that reading it would find nothing wrong
    os.mkfifo(checkpoint / "pipe")
    for name in (
        "../secret",
        str(tmp_path / "secret"),
        "context/../../secret",
        "/dev/zero",
        "pipe",
        "",
        "a\0b",
        "x" * 5000,
    ):
        (checkpoint / "checksums.json").write_text(json.dumps({"files": {name: entry}, "objects": {}}))
        with pytest.raises(CheckpointError) as caught:
            check_small_files(detect(checkpoint))
        assert "\n" not in str(caught.value)
        with pytest.raises(CheckpointError):
            check_files(checkpoint, {"files": {name: entry}})  # as a merge's record lists them
    for text in ("{", "[]", '{"files": 3}', '{"files": {"a": 1}}', '{"files": {}, "files": {}}', "9" * 6000, "null"):
        (checkpoint / "checksums.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"checksums\.json: damaged"):
            check_small_files(detect(checkpoint))


def test_names_that_look_like_markup_are_printed_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["a[/b]", "[link=http://x]click", "[red]w"]
    folder = tmp_path / "a[/c]"
    print_summary(describe(write_checkpoint(folder, {name: torch.ones(2) for name in names})))
    printed = capsys.readouterr().out
    assert all(name in printed for name in [*names, "a[/c]"])


def test_the_graph_of_a_stranger_is_read_as_data(good: Path, tmp_path: Path) -> None:
    checkpoint = planted(good, tmp_path / "c", tmp_path / "ran", in_context)
    (checkpoint / "context/model.yaml").unlink()
    detect(checkpoint)
    assert not (tmp_path / "ran").exists()
