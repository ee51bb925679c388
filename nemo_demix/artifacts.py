"""Records: frozen dataclasses kept as JSON beside what they describe, and the fingerprints that say what is done.

A record is written last, so its absence means "not done". Its fingerprint covers every input that can change
the output; a stage whose record carries the expected fingerprint is skipped.
"""

import dataclasses
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from nemo_demix.errors import DemixError

T = TypeVar("T")


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, shortest round-trip floats.

    Raises:
        TypeError: if the value has no stable identity (a set, an object, NaN or infinity).
    """
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def plain(value: Any) -> Any:
    """Return a value or a record as what JSON has, in its order.

    Raises:
        TypeError: as `canonical_json`.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{value} has no place in a record: record the failure and its reason instead")
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} has no stable identity: {value!r}")


def fingerprint(**inputs: Any) -> str:
    """Return the SHA-256 (first 16 hex digits) over the canonical JSON of named inputs."""
    return hashlib.sha256(canonical_json(inputs).encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, read in 1 MiB pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: temporary name in the same folder, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Return when a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a value or a record as readable JSON, whole or not at all."""
    write_text(path, json.dumps(plain(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path, is_ours: bool = True) -> Any:
    """Read a JSON file.

    Args:
        is_ours: Whether a stage wrote it, and would write it again.
    Raises:
        DemixError: if the file is absent or is not JSON, or an object of it has a key twice.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        remedy = "run the stage that writes it first" if is_ours else "expected a file of JSON"
        raise DemixError(f"{path}: not found; {remedy}") from None
    return parse_json(data, path, is_ours)


def parse_json(data: bytes, path: Path, is_ours: bool = False) -> Any:
    """Return the value of a JSON text; a byte order mark before it is passed over.

    Args:
        path: Path of the file, for the error.
        is_ours: Whether a stage wrote it, and would write it again.
    Raises:
        DemixError: if it is not JSON, or an object of it has a key twice: neither of the two values would be meant.
    """
    try:
        return json_value(data.decode("utf-8-sig"), _unique)
    except ValueError as error:
        remedy = "delete it and run its stage again" if is_ours else "correct it"
        raise DemixError(f"{path}: expected JSON, found: {error}; {remedy}") from None


def json_value(text: str | bytes, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Return the value of a JSON text that anyone may have written.

    Args:
        pairs: What makes an object of its keys and values; None: a dict, in which the last of equal keys stays.
    Raises:
        ValueError: if it is none: also of values nested too deeply, and of numbers with thousands of digits.
    """
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError("values nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice[:80]!r} twice in one object")
    return found


def read_json_lines(path: Path) -> list[Any]:
    """Return the values of a file of JSON lines that may be growing: a last line that is not whole yet is left out.

    Raises:
        DemixError: if the file is absent or a whole line is not JSON.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return [json_value(line) for line in text.split("\n")[:-1]]
    except FileNotFoundError:
        raise DemixError(f"{path}: not found; run the stage that writes it first") from None
    except ValueError as error:
        raise DemixError(f"{path}: expected one JSON value in each line, found: {error}; move the file away") from None


def load_record(path: Path, kind: type[T]) -> T:
    """Read a record back into its frozen dataclass; unknown fields, and missing ones without a default, are refused."""
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    names = {f.name for f in fields}
    required = {f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING}
    value = read_json(path)
    if not isinstance(value, dict) or not required <= set(value) <= names:
        found = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise DemixError(
            f"{path}: expected the fields {sorted(names)}, found {found}; delete it and run its stage again"
        )
    return kind(**value)


def is_done(path: Path, expected_fingerprint: str) -> bool:
    """Return whether a record exists at `path` and carries the expected fingerprint."""
    if not path.exists():
        return False
    value = read_json(path)
    return isinstance(value, dict) and value.get("fingerprint") == expected_fingerprint


@dataclasses.dataclass(frozen=True)
class DatasetRecord:
    """A candidate dataset on disk: `<train_prefix>.bin/.idx` and `<heldout_prefix>.bin/.idx` (Megatron's format)."""

    name: str
    capability: str
    train_prefix: str
    heldout_prefix: str | None
    num_documents: int
    num_duplicates: int  # exact-duplicate documents dropped
    num_train_tokens: int
    num_heldout_tokens: int
    num_train_bytes: int  # UTF-8 bytes of training text; 0 for a prefix used in place
    num_heldout_bytes: int
    sources: list[dict[str, Any]]  # origin, licence, files, bytes
    overlap: dict[str, Any]  # 13-gram overlap of the training text with each benchmark
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class BenchmarkRecord:
    """A benchmark on disk: JSON lines of {id, context, gold, choices}; `gold` is the reference continuation."""

    name: str
    capability: str
    path: str
    num_items: int
    source: dict[str, Any]
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class TaskRecord:
    """The documents of a task of lm-evaluation-harness on disk, so that scoring needs no network.

    JSON lines of {task, split, doc}: several tasks where a group is named, and the split that few-shot examples come
    from beside the one that is scored.
    """

    name: str
    capability: str
    path: str
    sha256: str
    num_documents: int  # of the splits that are scored
    source: dict[str, Any]  # the task's name, where its definition and its documents come from
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class DataManifest:
    """What `prepare` made; written last, so it stands for the whole stage."""

    tokenizer: dict[str, Any]  # path, vocab_size, eos_id, kind, fingerprint
    datasets: dict[str, DatasetRecord]
    benchmarks: dict[str, BenchmarkRecord]
    fingerprint: str
    tasks: dict[str, TaskRecord] = dataclasses.field(default_factory=dict)

    @staticmethod
    def load(path: Path) -> "DataManifest":
        """Read the manifest with its nested records."""
        raw = load_record(path, DataManifest)
        return DataManifest(
            tokenizer=raw.tokenizer,
            datasets={name: DatasetRecord(**value) for name, value in raw.datasets.items()},  # type: ignore[arg-type]
            benchmarks={name: BenchmarkRecord(**value) for name, value in raw.benchmarks.items()},  # type: ignore[arg-type]
            fingerprint=raw.fingerprint,
            tasks={name: TaskRecord(**value) for name, value in raw.tasks.items()},  # type: ignore[arg-type]
        )


@dataclasses.dataclass(frozen=True)
class ModelRecord:
    """A trained (or brought) model: its checkpoint, what it was trained on, and how far it moved."""

    role: str  # base | component | reference | proxy | final
    name: str
    checkpoint: str  # the finished NeMo 2 checkpoint directory
    checkpoints: dict[str, str]  # tokens seen -> directory, for the kept intermediate ones
    blend: dict[str, float]  # data shares it was trained on
    num_tokens: int
    num_steps: int
    start: str | None  # checkpoint its weights came from
    delta: float | None  # |theta - base| / (|theta| + |base|)  (DeMix Eq. 4); None for the base
    final_loss: float | None
    wall_time_s: float
    fingerprint: str
