"""Attacks: strangers' files, odd data, forged messages; what is done with each, and what has to come out.

An attack is tried in a fork of its own, with a limit of time and of memory, so that what goes wrong is told and not
suffered. Used by tests/test_attacks.py, which tries a part of them, and by benchmarks/attack.py, which tries all.
"""

import contextlib
import gzip
import io
import itertools
import json
import os
import pickle
import random
import resource
import signal
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nemo_demix.artifacts import ModelRecord, load_record, read_json, read_json_lines
from nemo_demix.checkpoints.checksums import check_small_files, write_checksums
from nemo_demix.checkpoints.inspect import describe, print_summary
from nemo_demix.checkpoints.layouts import detect
from nemo_demix.checkpoints.metadata import read_metadata
from nemo_demix.checkpoints.reader import CheckpointReader, relative_distance
from nemo_demix.checkpoints.saved import checkpoint_fingerprint
from nemo_demix.checkpoints.vetted import vetted
from nemo_demix.config import DemixConfig, ImportedConfig
from nemo_demix.config.demix import name_errors
from nemo_demix.datasets.benchmarks import _user_items
from nemo_demix.datasets.megatron import read_prefix
from nemo_demix.datasets.readers import read_file
from nemo_demix.errors import DemixError, one_line, refuse
from nemo_demix.merging.output import load_output_record
from nemo_demix.merging.verify import verify
from nemo_demix.mixture import load_mixtures
from nemo_demix.plain_yaml import parse_yaml
from nemo_demix.ranks.seal import Seal
from nemo_demix.runtime.generation import read_generation
from nemo_demix.scoring.imported import read_imported
from nemo_demix.search.baselines import heuristic_shares
from nemo_demix.stages.convert import _hf_json, _indexed
from tests.helpers import merge_checkpoints
from tests.hostile_checkpoints import (
    BOMBS,
    FILE_NAMES,
    ODD_FILES,
    PASSED_OVER,
    PLACES,
    REFUSED,
    TENSOR_NAMES,
    YAML_REFUSED,
    in_tensor,
    planted,
    swap,
)
from tests.merging.grids import write_checkpoint

TIME_S = 20.0
MEMORY = 3 << 30  # bytes that an attack may make the process larger by
SECRET = "the secret of this machine"
PAYLOADS = {**REFUSED, **PASSED_OVER, "tensor": in_tensor}
NORM, FC1 = "module.decoder.final_layernorm.weight", "module.decoder.layers.mlp.linear_fc1.weight"
Right = Callable[[Any, Path], bool]


@dataclass(frozen=True)
class Attack:
    """One input, and what is done with it.

    Attributes:
        act: Makes the input in an empty folder and uses it; a file `ran` in the folder says that code of it ran.
        right: Whether a result, where there is one, is what it has to be; None: any result will do.
        must_fail: A result is wrong.
    """

    area: str
    name: str
    act: Callable[[Path], Any]
    right: Right | None = None
    must_fail: bool = False


def attempt(attack: Attack, folder: Path) -> tuple[str, str]:
    """Try an attack in a fork: (refused | harmless | trace | hang | wrong, what was said)."""
    folder.mkdir(parents=True)
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reader)
        try:
            os.write(writer, json.dumps(_in_fork(attack, folder)).encode()[:60_000])
        finally:
            os._exit(0)
    os.close(writer)
    said, deadline = b"", time.monotonic() + TIME_S
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(reader)
            return "hang", f"ran for {TIME_S:g} s"
        time.sleep(0.002)
    while piece := os.read(reader, 65_536):
        said += piece
    os.close(reader)
    if (folder / "ran").exists():
        return "wrong", "code of the input ran"
    if not said:
        return "trace", "the process was killed"
    kind, text = json.loads(said)
    return kind, text.replace(str(folder), "...")[:300]


def _in_fork(attack: Attack, folder: Path) -> tuple[str, str]:
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
    quiet = open(os.devnull, "w")  # noqa: SIM115
    try:
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            found = attack.act(folder)
    except DemixError as error:
        return ("refused" if "\n" not in str(error) else "trace"), one_line(str(error))
    except BaseException as error:
        return "trace", one_line("".join(traceback.format_exception(error)[-2:]))[-250:]
    if attack.must_fail or (attack.right is not None and not attack.right(found, folder)):
        return "wrong", one_line(f"taken: {found!r:.200}")
    return "harmless", ""


# Checkpoints.


def good_checkpoint(folder: Path) -> Path:
    """A NeMo 2 checkpoint of two tensors and two byte objects."""
    none = io.BytesIO()
    torch.save([None], none)
    names = [f"module.decoder.layers.mlp.linear_fc1._extra_state/shard_{layer}_2" for layer in range(2)]
    tensors = {FC1: torch.arange(64.0).view(2, 8, 4), NORM: torch.ones(4)}
    return write_checkpoint(folder, tensors, objects=dict.fromkeys(names, none.getvalue()))


def read_all(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint."""
    reader = CheckpointReader(checkpoint)
    return {name: reader.read_tensor(name) for name in reader}


def merge_with_itself(checkpoint: Path) -> dict[str, torch.Tensor]:
    """What a merge of a checkpoint with itself gives."""
    numbers = itertools.count()
    output = next(path for number in numbers if not (path := checkpoint.with_name(f"merged{number}")).exists())
    merge_checkpoints({"a": checkpoint, "b": checkpoint}, output, {"m": {"a": 0.5, "b": 0.5}})
    return read_all(output / "m")


ENTRIES: dict[str, Callable[[Path], Any]] = {
    "adopt": checkpoint_fingerprint,
    "distance to the base": lambda checkpoint: relative_distance(checkpoint, checkpoint),
    "inspect": lambda checkpoint: print_summary(describe(checkpoint)),
    "merge": merge_with_itself,
    "live model, score, export": read_all,
    "checksums": write_checksums,
    "start, resume": lambda checkpoint: vetted(checkpoint, checkpoint.with_name("vetted")),
}


def checkpoint_attacks(good: Path) -> Iterator[Attack]:
    """Payloads, odd files, impossible metadata and damage, by every entry.

    Args:
        good: As `good_checkpoint` makes it.
    """
    true = read_all(good)
    same: Right = lambda found, folder: set(found) == set(true) and all(torch.equal(found[n], true[n]) for n in true)  # noqa: E731
    for payload, plant in PAYLOADS.items():
        for entry, act in ENTRIES.items():
            yield Attack(
                "checkpoint", f"a call in the {payload}: {entry}",
                lambda folder, plant=plant, act=act: act(planted(good, folder / "c", folder / "ran", plant)),
            )  # fmt: skip
    for file in ("weights/.metadata", "weights/__0_0.distcp", "weights/common.pt", "context/model.yaml"):
        for odd, make in ODD_FILES.items():
            for entry in ("merge", "start, resume", "live model, score, export"):

                def act(folder: Path, file: str = file, make: Any = make, entry: str = entry) -> Any:
                    (folder / "secret").write_text(SECRET)
                    checkpoint = planted(good, folder / "c", folder / "ran")
                    swap(checkpoint / file, make)
                    return ENTRIES[entry](checkpoint)

                yield Attack("checkpoint", f"{odd} for {file}: {entry}", act, _keeps_secret)
    for bomb in BOMBS:
        yield Attack("checkpoint", f"metadata: {bomb}", _metadata_of(BOMBS[bomb]), must_fail=True)
    for number in range(60):
        yield Attack("checkpoint", f"metadata damaged, {number}", _damaged(good, "weights/.metadata", number), same)
    for file in ("weights/common.pt", "weights/metadata.json", "context/model.yaml", "weights/__0_0.distcp"):
        for number in range(20):
            yield Attack("checkpoint", f"{file} damaged, {number}", _damaged(good, file, number), same)
    for name in FILE_NAMES:
        yield Attack("checkpoint", f"a file named {name!r:.30}", _changed(good, _rename_files, name), must_fail=True)
    for name in TENSOR_NAMES:
        yield Attack("checkpoint", f"a tensor named {name!r:.30}", _changed(good, _rename_tensor, name), must_fail=True)
    for value in PLACES:
        for where in ("offsets", "sizes", "size", "offset", "length"):
            change = lambda found, value, where=where: _misplace(found, where, value)  # noqa: E731
            yield Attack("checkpoint", f"{where} of {value!r}", _changed(good, change, value), must_fail=True)
    for name in ("a[/b]", "[link=http://x]click", "[red]w", "\u202egpj.exe", "名"):
        yield Attack("checkpoint", f"a tensor named {name!r}, shown", _shown(name))
    for text in (b"-1", b"9" * 400, b"../x", b"release\n\n", b"\xff\xfe", b"", b"1e3", b"\0", b"5" * 19):
        yield Attack("checkpoint", f"a tracker that says {text!r:.20}", _tracked(good, text), must_fail=True)
    for text in ("{", "[]", '{"files": 3}', '{"files": {"../../secret": "x"}}', '{"a": 1, "a": 2}', "9" * 6000, "null"):
        yield Attack("checkpoint", f"checksums that are {text:.24}", _with_checksums(good, text), must_fail=True)
    for name in ("../secret", "/dev/zero", "/etc/passwd", "pipe", "", ".", "a\0b", "x" * 5000, "context"):
        for record, check in (("checksums.json", _checked_by_itself), ("merge.json", verify)):
            act = _listing(good, name, record, check)
            yield Attack("checkpoint", f"a {record} that lists {name!r:.30}", act, must_fail=True)


def _keeps_secret(found: Any, folder: Path) -> bool:
    places = [*folder.glob("merged*/**/*"), *folder.glob("vetted/**/*")]
    return not any(SECRET.encode() in path.read_bytes() for path in places if path.is_file())


def _metadata_of(data: bytes) -> Callable[[Path], Any]:
    def act(folder: Path) -> Any:
        (folder / ".metadata").write_bytes(data)
        return read_metadata(folder)

    return act


def _damaged(good: Path, file: str, seed: int) -> Callable[[Path], Any]:
    """Bytes changed, cut out, put in, or the end gone; and the whole checkpoint is merged."""

    def act(folder: Path) -> Any:
        checkpoint, chance = planted(good, folder / "c", folder / "ran"), random.Random(seed)
        data = bytearray((checkpoint / file).read_bytes())
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(data))
            match chance.randrange(5):
                case 0:
                    data[place] = chance.randrange(256)
                case 1:
                    data[place] ^= 1 << chance.randrange(8)
                case 2:
                    del data[place : place + chance.randint(1, 40)]
                case 3:
                    data[place:place] = chance.randbytes(chance.randint(1, 12))
                case _:
                    del data[place:]
            data = data or bytearray(b"x")
        (checkpoint / file).write_bytes(data)
        return merge_with_itself(checkpoint)

    return act


def _changed(good: Path, change: Callable[[Any, Any], None], value: Any) -> Callable[[Path], Any]:
    def act(folder: Path) -> Any:
        found = pickle.loads((good / "weights/.metadata").read_bytes())
        change(found, value)
        (folder / ".metadata").write_bytes(pickle.dumps(found))
        return read_metadata(folder)

    return act


def _rename_files(found: Any, name: Any) -> None:
    for place in found.storage_data.values():
        place.relative_path = name


def _rename_tensor(found: Any, name: Any) -> None:
    found.state_dict_metadata[name] = found.state_dict_metadata.pop(NORM)
    for index in list(found.storage_data):
        if index.fqn == NORM:
            found.storage_data[type(index)(name, index.offset, index.index)] = found.storage_data.pop(index)


def _misplace(found: Any, where: str, value: Any) -> None:
    entry = found.state_dict_metadata[NORM]
    index = next(index for index in found.storage_data if index.fqn == NORM)
    for target in (entry.chunks[0], entry, found.storage_data[index]):
        if hasattr(target, where):
            setattr(target, where, value if isinstance(getattr(target, where), int) else (value,))


def _shown(name: str) -> Callable[[Path], Any]:
    return lambda folder: print_summary(describe(write_checkpoint(folder / name, {name: torch.ones(2)})))


def _tracked(good: Path, text: bytes) -> Callable[[Path], Any]:
    def act(folder: Path) -> Any:
        checkpoint = planted(good, folder / "c", folder / "ran")
        (checkpoint / "latest_checkpointed_iteration.txt").write_bytes(text)
        return detect(checkpoint)

    return act


def _with_checksums(good: Path, text: str) -> Callable[[Path], Any]:
    def act(folder: Path) -> Any:
        checkpoint = planted(good, folder / "c", folder / "ran")
        (folder / "secret").write_text(SECRET)
        (checkpoint / "checksums.json").write_text(text)
        return check_small_files(detect(checkpoint))

    return act


def _listing(good: Path, name: str, record: str, check: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """A record of files with one that lies elsewhere, or is none; its checksum is the true one where that is known."""

    def act(folder: Path) -> Any:
        checkpoint = planted(good, folder / "c", folder / "ran")
        (folder / "secret").write_text(SECRET)
        os.mkfifo(checkpoint / "pipe")
        files = {name: {"bytes": len(SECRET), "crc32": f"{zlib.crc32(SECRET.encode()):08x}"}}
        lists = {"files": files, "objects": {}, "sources": {}, "weights": {}, "parameters": {}, "dtypes": []}
        whole = {**lists, "method": "linear", "base": None, "template": "a", "fingerprint": "f"}
        (checkpoint / record).write_text(json.dumps(whole))
        return check(checkpoint)

    return act


def _checked_by_itself(checkpoint: Path) -> Any:
    return check_small_files(detect(checkpoint))


# Small files.

DEEP = "[" * 100_000
TEXTS: dict[str, bytes] = {
    "nothing": b"",
    "a space": b" ",
    "half of an object": b'{"mix": {"a": 0.5, "b"',
    "one key twice": b'{"m": {"a": 0.5, "b": 0.5}, "m": {"a": 0.1, "b": 0.9}}',
    "an inner key twice": b'{"m": {"a": 0.5, "b": 0.5, "a": 1.0}}',
    "lists in lists": DEEP.encode(),
    "objects in objects": b'{"a":' * 100_000,
    "a number of 6,000 digits": b'{"m": {"a": ' + b"9" * 6000 + b', "b": 0}}',
    "NaN": b'{"m": {"a": NaN, "b": 1}}',
    "infinity": b'{"m": {"a": 1e999, "b": 0}}',
    "a very large number": b'{"m": {"a": 1e308, "b": 1e308}}',
    "a truth for a number": b'{"m": {"a": true, "b": 0}}',
    "text for a number": b'{"m": {"a": "0.5", "b": "0.5"}}',
    "a list": b"[1, 2]",
    "a number": b"7",
    "null": b"null",
    "null inside": b'{"m": null}',
    "other names": b'{"m": {"x": 1.0}}',
    "weights that sum to 2": b'{"m": {"a": 1, "b": 1}}',
    "a negative weight": b'{"m": {"a": -1, "b": 2}}',
    "Latin-1": b'{"m\xe9": {"a": 0.5, "b": 0.5}}',
    "UTF-16": '{"m": {"a": 0.5, "b": 0.5}}'.encode("utf-16"),
    "lone surrogates": b'{"\\ud800": {"a": 1, "b": 1}}',
    "NUL": b"\0\0\0",
    "a name that leads out": b'{"../m": {"a": 0.5, "b": 0.5}}',
    "a name with a control character": b'{"m\\u001b[2J": {"a": 0.5, "b": 0.5}}',
    "YAML": b"m:\n  a: 0.5\n  b: 0.5\n",
    "a trailing comma": b'{"m": {"a": 0.5, "b": 0.5},}',
    "a million spaces": b" " * 1_000_000 + b"{",
    "an alias bomb": b"a: &a [x]\nb: [*a, *a]\n",
    "a date that is none": b"a: 2001-13-45",
    "an object of Python": b"a: !!python/object/apply:os.system [touch ran]",
    "a gzip": gzip.compress(b"{}"),
}
_MIXTURE: Right = lambda found, folder: all(  # noqa: E731
    set(one) == {"a", "b"} and abs(sum(one.values()) - 1) < 1e-6 and min(one.values()) >= 0 for one in found.values()
)


def _heuristic(path: Path) -> Any:
    config = DemixConfig(name="a")
    config.search.heuristic_from = str(path)
    return heuristic_shares(config, ["a", "b"])


def _record(path: Path) -> Any:
    return load_record(path, ModelRecord)


def _merge_record(path: Path) -> Any:
    path.rename(path.with_name("merge.json"))
    return load_output_record(path.parent), verify(path.parent)


READERS: dict[str, tuple[str, Callable[[Path], Any], Right | None, bool]] = {
    "mixtures": ("m.json", lambda path: load_mixtures(path, ["a", "b"]), _MIXTURE, False),
    "a record of a model": ("record.json", _record, None, True),
    "another run's mixture": ("mixture.json", _heuristic, None, True),
    "a merge's record": ("m.json", _merge_record, None, True),
    "JSON": ("a.json", read_json, None, False),
    "JSON lines": ("a.jsonl", read_json_lines, None, False),
    "YAML": ("a.yaml", lambda path: parse_yaml(path.read_bytes()), None, False),
    "a Hugging Face configuration": ("config.json", _hf_json, None, False),
    "an index of weights": ("index.json", _indexed, None, True),
    "how text is generated": ("generation_config.json", lambda path: read_generation(path.parent, 8), None, False),
}


def small_file_attacks() -> Iterator[Attack]:
    """Every text for every small file that a user or a stranger may give."""
    for reader, (file, read, right, must_fail) in READERS.items():
        for what, data in TEXTS.items():
            if reader == "YAML":  # says ValueError, which its callers turn into what it means there
                read = _yaml
            yield Attack("small file", f"{reader}: {what}", _file(file, data, read), right, must_fail)
    for number, text in enumerate(YAML_REFUSED):
        yield Attack(
            "small file", f"YAML that is not plain, {number}", _file("a.yaml", text.encode(), _yaml), None, True
        )
    for value in (3, "a", [], {}, [1], {"w": 3}, {"w": None}, {"w": ["a"]}, {"w": "../a"}, {"w": "/a"}, {"w": "a\0"}):
        data = json.dumps({"weight_map": value}).encode()
        yield Attack("small file", f"weight_map is {value!r}", _file("index.json", data, _indexed), None, True)


def _yaml(path: Path) -> Any:
    try:
        return parse_yaml(path.read_bytes())
    except ValueError as error:
        raise DemixError(str(error)) from None


def _file(name: str, data: bytes, read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def act(folder: Path) -> Any:
        (folder / name).write_bytes(data)
        return read(folder / name)

    return act


# Data.

_ROW = b'{"text": "A page about a river."}\n'
ROWS: dict[str, bytes] = {
    "nothing": b"",
    "a blank line": b"\n",
    "no field": b'{"body": "a"}\n',
    "a number for text": b'{"text": 7}\n',
    "null for text": b'{"text": null}\n',
    "a list": b"[1]\n",
    "not JSON": _ROW + b"{'text': 'a'}\n",
    "half a line": _ROW + b'{"text": "a',
    "a key twice": b'{"text": "a", "text": "b"}\n',
    "deep": b'{"text": "a", "x": ' + DEEP.encode() + b"}\n",
    "5,000 digits": b'{"text": "a", "x": ' + b"7" * 5000 + b"}\n",
    "Latin-1": b'{"text": "caf\xe9"}\n',
    "a NUL": b'{"text": "a\0b"}\n',
    "an escaped NUL": b'{"text": "a\\u0000b"}\n',
    "a lone surrogate": b'{"text": "a\\ud800"}\n',
    "UTF-16": _ROW.decode().encode("utf-16"),
    "a mark of byte order": b"\xef\xbb\xbf" + _ROW,
    "CR and LF": _ROW.replace(b"\n", b"\r\n"),
    "binary": bytes(range(256)) * 20,
    "a line of 20 MB": b'{"text": "' + b"a" * 20_000_000 + b'"}\n',
}


def data_attacks() -> Iterator[Attack]:
    """Rows and files of text in every format, packed files, parquet, benchmarks and Megatron's prefixes."""
    import megatron.core.datasets.indexed_dataset  # noqa: F401, once, and not in every fork
    import pyarrow.parquet  # noqa: F401

    texts = lambda path: list(read_file(str(path), "text"))  # noqa: E731
    for what, data in ROWS.items():
        yield Attack("data", f"rows: {what}", _file("a.jsonl", data, texts), _all_text)
        yield Attack("data", f"text: {what}", _file("a.txt", data, texts), _all_text)
        packed = gzip.compress(data, 1)
        yield Attack("data", f"packed rows: {what}", _file("a.jsonl.gz", packed, texts), _all_text)
        yield Attack("data", f"benchmark: {what}", _file("a.jsonl", data, lambda path: list(_user_items(path))))
    packed = gzip.compress(_ROW * 200)
    for place in range(0, len(packed), max(1, len(packed) // 20)):
        spoiled = bytearray(packed)
        spoiled[place] ^= 0x20
        name = f"a packed file with byte {place} changed"
        yield Attack("data", name, _file("a.jsonl.gz", bytes(spoiled), texts), lambda found, folder: len(found) == 200)
        yield Attack("data", f"a packed file cut at {place}", _file("a.jsonl.gz", packed[:place], texts), None, True)
    for number in range(30):
        yield Attack("data", f"damaged parquet, {number}", _parquet(number), _all_text)
    for what, columns in {"no text": {"x": [1]}, "numbers": {"text": [1, 2]}, "lists": {"text": [["a"]]}}.items():
        yield Attack("data", f"parquet of {what}", _parquet(None, columns), None, True)
    for number in range(30):
        yield Attack("data", f"damaged index, {number}", _prefix(number))
    item = {"id": "1", "context": "a", "gold": " b"}
    odd: dict[str, dict[str, Any]] = {
        "an empty continuation": {"gold": ""},
        "choices without it": {"choices": [" c"]},
        "choices as text": {"choices": "ab"},
        "an empty choice": {"choices": ["", " b"]},
        "a place that is none": {"choices": [" b"], "gold_index": 7},
        "a place that is a truth": {"choices": [" b"], "gold_index": False},
        "no id": {"id": None},
        "an id of numbers": {"id": 3},
    }
    for what, change in odd.items():
        data = (json.dumps({**item, **change}) + "\n").encode()
        yield Attack("data", f"item: {what}", _file("a.jsonl", data, lambda path: list(_user_items(path))), None, True)


def _all_text(found: Any, folder: Path) -> bool:
    return all(isinstance(text, str) and text.encode() is not None for text in found)


def _parquet(seed: int | None, columns: Mapping[str, Any] | None = None) -> Callable[[Path], Any]:
    def act(folder: Path) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = folder / "a.parquet"
        pq.write_table(pa.table(dict(columns or {"text": [f"page {i}" for i in range(200)]})), path)
        if seed is not None:
            data, chance = bytearray(path.read_bytes()), random.Random(seed)
            for _ in range(chance.randint(1, 3)):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            path.write_bytes(data if seed % 3 else data[: chance.randrange(len(data))])
        return list(read_file(str(path), "text"))

    return act


def _prefix(seed: int) -> Callable[[Path], Any]:
    def act(folder: Path) -> Any:
        from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

        builder = IndexedDatasetBuilder(f"{folder}/a.bin", dtype=np.uint16)
        for length in (3, 5, 2):
            builder.add_document(torch.arange(length), [length])
        builder.finalize(f"{folder}/a.idx")
        path, chance = folder / ("a.idx" if seed % 4 else "a.bin"), random.Random(seed)
        data = bytearray(path.read_bytes())
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data if seed % 3 else data[: chance.randrange(len(data))])
        return read_prefix(f"{folder}/a", 64, "datasets.a.sources[0].megatron")

    return act


# Scores.

_TABLE = "name,d1,d2,arc_acc\nm0,0.5,0.5,0.31\nm1,0.2,0.8,0.33\nm2,0.9,0.1,0.35\n"
TABLES: dict[str, str] = {
    "nothing": "",
    "a heading alone": _TABLE.splitlines()[0],
    "a column twice": _TABLE.replace("d2", "d1"),
    "a row twice with another score": _TABLE + "m0,0.5,0.5,0.9\n",
    "a row too short": _TABLE + "m3,0.5\n",
    "a row too long": _TABLE + "m3,0.5,0.5,0.1,7,8\n",
    "a word for a score": _TABLE.replace("0.33", "good"),
    "infinity for a score": _TABLE.replace("0.33", "inf"),
    "1e308": _TABLE.replace("0.33", "1e308").replace("0.31", "-1e308"),
    "digits with underscores": _TABLE.replace("0.33", "1_000"),
    "full-width digits": _TABLE.replace("0.33", "\uff10.\uff13"),
    "weights that sum to 2": _TABLE.replace("0.2,0.8", "1,1"),
    "a negative weight": _TABLE.replace("0.2,0.8", "-1,2"),
    "an open quote": _TABLE + '"m3,0.5,0.5,0.1\n',
    "a NUL": _TABLE + "m\0,0.5,0.5,0.1\n",
    "a name with a control character": _TABLE.replace("m1", "m\x1b[2J"),
    "only standard errors": "name,d1,d2,arc_acc_stderr\nm0,0.5,0.5,0.01\nm1,0.2,0.8,0.01\n",
}


def score_attacks() -> Iterator[Attack]:
    """Tables and results of an evaluation from elsewhere."""

    def imported(path: Path) -> Any:
        return read_imported(ImportedConfig(scores=str(path)), [])

    finite: Right = lambda found, folder: all(  # noqa: E731
        np.isfinite(score) for row in found.rows for score in row.scores.values()
    )
    for what, text in TABLES.items():
        yield Attack("scores", f"table: {what}", _file("a.csv", text.encode(), imported), finite)
    wide = ",".join(f"c{i}" for i in range(50_000))
    many = f"name,d1,d2,{wide}\n" + "".join(f"m{i},0.5,0.5" + ",1" * 50_000 + "\n" for i in range(3))
    yield Attack("scores", "table: 50,000 columns", _file("a.csv", many.encode(), imported), finite)
    for what, data in TEXTS.items():
        yield Attack("scores", f"results: {what}", _file("a.json", data, imported), finite)
        yield Attack("scores", f"text as a table: {what}", _file("a.csv", data, imported), finite)
    for number in range(20):
        chance = random.Random(number)
        data = bytearray(_TABLE.encode())
        for _ in range(3):
            data[chance.randrange(len(data))] = chance.randrange(256)
        yield Attack("scores", f"a damaged table, {number}", _file("a.csv", bytes(data), imported), finite)
    for value in ("x", 3, None, [], {"acc": "x"}, {"acc,none": True}, {"acc,none": 1e308}, {"acc,none": [1]}):
        text = json.dumps({"results": {"arc": value}, "configs": {}}).encode()
        yield Attack("scores", f"results of a task that are {value!r}", _file("m0.json", text, imported), finite)


# Names.

NAMES = [
    *("", ".", "..", "a/b", "../a", "a|b", "a b", "a=b", "a'b", 'a"b', "a$b", "$(touch ran)", "`touch ran`", "a;b"),
    *("a\nb", "a\0b", "-a", "~", "a[/b]", "a\x1b[2J", "\u202ea", "名", "x" * 300, "a,b", "a{b}", "*", "${x}"),
]


def name_attacks(good: Path) -> Iterator[Attack]:
    """Names of runs, and of mixtures that become folders."""
    for name in NAMES:

        def run(folder: Path, name: str = name) -> Any:
            config = DemixConfig(name=name)
            refuse(name_errors(config))
            return name

        yield Attack("names", f"a run named {name!r:.30}", run, None, True)

        def merge(folder: Path, name: str = name) -> Any:
            merge_checkpoints({"a": good, "b": good}, folder / "out", {name: {"a": 0.5, "b": 0.5}})
            return name

        yield Attack("names", f"a mixture named {name!r:.30}", merge, lambda found, folder: _only_in(folder / "out"))


def _only_in(folder: Path) -> bool:
    return [path.name for path in folder.parent.iterdir()] == [folder.name]


# Messages of the store.


def store_attacks() -> Iterator[Attack]:
    """Messages that nobody of the run wrote under the key they are read from."""
    seal = Seal(b"s" * 32)
    key, payload = "launch/1/group/0/reply/3", pickle.dumps({"score": 1.0})
    true = seal.close(key, payload)
    forged: dict[str, bytes] = {
        "nothing": b"",
        "a payload without a code": payload,
        "a code alone": true[:32],
        "of another place": seal.close(key + "1", payload),
        "of another secret": Seal(b"t" * 32).close(key, payload),
        "of a derived secret": seal.derived("a").close(key, payload),
        "longer": true + b"\0",
        "shorter": true[:-1],
        "a pickle that calls": b"\0" * 32 + b"cos\nsystem\n(S'touch ran'\ntR.",
        "a key within the payload": seal.close("launch/1/group/0/reply/", b"3" + payload),
    }
    for place in range(0, len(true), 2):
        spoiled = bytearray(true)
        spoiled[place] ^= 1
        forged[f"byte {place} changed"] = bytes(spoiled)
    for what, message in forged.items():
        yield Attack("store", f"a message {what}", lambda folder, message=message: seal.open(key, message), None, True)


def all_attacks(good: Path) -> Iterator[Attack]:
    """Every attack but programs, which are tests/sandbox/hostile.py's."""
    yield from checkpoint_attacks(good)
    yield from small_file_attacks()
    yield from data_attacks()
    yield from score_attacks()
    yield from name_attacks(good)
    yield from store_attacks()
