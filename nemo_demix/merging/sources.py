"""The checkpoints of a merge, compared before a byte of weight is read."""

import dataclasses
import logging
import multiprocessing
import os
import re
import signal
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nemo_demix.artifacts import fingerprint, parse_json
from nemo_demix.checkpoints.checksums import check_objects, check_small_files
from nemo_demix.checkpoints.common_state import without_training_state
from nemo_demix.checkpoints.companions import check_companions
from nemo_demix.checkpoints.files import open_file, read_file
from nemo_demix.checkpoints.layouts import Layout, detect, locate
from nemo_demix.checkpoints.metadata import Chunk, ObjectEntry, Stored, TensorEntry, is_training_state, read_metadata
from nemo_demix.checkpoints.objects import check_archive, common_objects
from nemo_demix.checkpoints.saved import metadata_sha256
from nemo_demix.checkpoints.store import State, StorePath, one_look
from nemo_demix.errors import CheckpointError
from nemo_demix.merging.moments import moments_in
from nemo_demix.merging.precision import check_precision, rounded_to_fp8
from nemo_demix.runtime.lifetime import die_with_parent

logger = logging.getLogger(__name__)

# Small files that are the same in all components of one model: the rest names runs, paths and steps.
_SHARED_NAMES = ("model.yaml", "metadata.json")
_SHARED_FOLDER = "tokenizer"
_MUCH = 4 << 20  # bytes of metadata, of all checkpoints together, that take a second or more
# LoRA and its relatives, as NeMo, Megatron-Bridge, PEFT and DoRA name their factors.
_ADAPTER = re.compile(r"(^|[._])(lora_(a|b|embedding_a|embedding_b|magnitude_vector)|adapters?)([._]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """A checkpoint to merge: a component, or the base."""

    name: str
    path: Path
    layout: Layout
    stored: Stored  # without training state
    common: Mapping[str, bytes]  # the common state without training state, where it is a byte object: by its name
    moments: Mapping[str, TensorEntry]  # the optimizer's second moments, by the weight's name, where asked for
    left_out: tuple[str, ...]  # names of training state
    files: Mapping[str, State]  # by path below the root

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of all files that an output is made from, which changes when one of them is written again."""
        metadata = metadata_sha256(self.layout.weights)
        return fingerprint(path=str(self.layout.root.resolve()), metadata=metadata, files=self.files)

    def object_bytes(self, name: str) -> int:
        """Return the length of a byte object as an output has it."""
        return len(self.common[name]) if name in self.common else self.stored.objects[name].num_bytes

    def check_unchanged(self) -> None:
        """Refuse a source that was written to since it was opened.

        Raises:
            CheckpointError: naming the file.
        """
        for file, now in _states(self.layout, map(Path, self.files)).items():
            if now != self.files[file]:
                raise CheckpointError(
                    f"{self.layout.root / file}: changed while it was merged; this mixture is not published. Merge "
                    "again when nothing writes to it"
                )


@one_look()
def open_source(name: str, path: Path, known: Mapping[Path, Stored] | None = None, moments: bool = False) -> Source:
    """Find a checkpoint and read what it says of itself.

    Args:
        known: What was read before, by the folder of the weights.
        moments: Whether the optimizer's second moments are to be read too.
    Raises:
        CheckpointError: if it is absent, damaged, of a layout that cannot be read, or lacks a file.
    """
    layout = detect(path)
    check_small_files(layout)
    stored = (known or {}).get(layout.weights) or read_metadata(layout.weights)
    tensors = {key: entry for key, entry in stored.tensors.items() if not is_training_state(key)}
    objects = {key: entry for key, entry in stored.objects.items() if not is_training_state(key)}
    if adapters := [name for name in tensors if _ADAPTER.search(name)]:
        raise CheckpointError(
            f"{layout.weights}: holds the factors of adapters ({adapters[0]} and {len(adapters) - 1} more), expected "
            "whole weights: an average of factors is not the average of the models. Merge each adapter into its base "
            "first (NeMo: llm.peft.merge_lora; Hugging Face: merge_and_unload), and merge the results"
        )
    left_out = sorted({*stored.tensors, *stored.objects} - {*tensors, *objects})
    if not tensors:
        raise CheckpointError(f"{layout.weights}: holds no weights, only {', '.join(left_out[:3]) or 'nothing'}")
    small = [*layout.companions, layout.weights_relative / ".metadata"]
    needed = {path: 0 for path in small if path.name not in layout.moving}
    ends: dict[str, int] = {}  # by file: a path for each of many chunks would take most of the time
    found_moments = moments_in(stored) if moments else {}
    places: list[Chunk | ObjectEntry] = [
        *objects.values(),
        *(chunk for item in (*tensors.values(), *found_moments.values()) for chunk in item.chunks),
    ]
    for place in places:
        ends[place.file] = max(ends.get(place.file, 0), place.file_offset + place.num_bytes)
    needed |= {layout.weights_relative / file: end for file, end in ends.items()}
    files = _states(layout, sorted(needed))
    for relative, num_bytes in sorted(needed.items()):
        if files[str(relative)][0] < num_bytes:
            raise CheckpointError(
                f"{layout.root / relative}: truncated: .metadata expects at least {num_bytes} bytes, found "
                f"{files[str(relative)][0]}; copy the checkpoint again"
            )
    check_companions(layout, tensors)
    check_objects(layout, objects)
    common = {}
    for key, found in common_objects(layout.weights, objects).items():
        check_archive(found.data, found.where)
        common[key] = without_training_state(found)
    kept = Stored(tensors, objects, stored.planner_data, {})
    return Source(name, path, layout, kept, common, found_moments, tuple(left_out), files)


def recorded_base(source: Source) -> tuple[str, str] | None:
    """Return the checkpoint that a component model of a nemo_demix run started from, and what tells it from others.

    None where nothing records it, or it is no longer there. A copy of a run names another path and the same base.
    """
    folder = source.layout.root.parent.parent
    record = folder / "record.json"
    try:
        if not record.is_file():
            return None
    except CheckpointError:  # of an object store, where what is above the checkpoint may be hidden
        return None
    value = parse_json(read_file(folder, record), record, is_ours=True)
    if not isinstance(value, dict) or value.get("role") != "component" or not isinstance(value.get("start"), str):
        return None
    try:
        return value["start"], metadata_sha256(locate(Path(value["start"])).weights)
    except (CheckpointError, OSError):
        return None


def _states(layout: Layout, paths: Iterable[Path]) -> dict[str, State]:
    """Return the size of each file, and what changes when it is written again, by path below the root.

    Raises:
        CheckpointError: if one is missing, or no file.
    """
    weights = layout.weights
    # One listing instead of a question a file.
    listed = weights.states() if isinstance(weights, StorePath) else {}
    below = {layout.weights_relative / path: state for path, state in listed.items()}
    return {str(path): below.get(path) or _state(layout.home(path), layout.root / path) for path in paths}


def _state(root: Path, path: Path) -> State:
    try:
        with closing(open_file(root, path)) as file:
            return file.state
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; it is a part of the checkpoint: copy that again") from None


def open_sources(
    components: Mapping[str, Path], base: Path | None, objects_from: str | None, moments: bool = False
) -> tuple[list[Source], Source | None]:
    """Open what is to be merged, and compare it.

    Args:
        base: Where the method uses one.
        moments: Whether the method uses the optimizer's second moments.

    Raises:
        CheckpointError: as `open_source` and `compare`.
    """
    opened = open_each([*components.items(), *([] if base is None else [("base", base)])], moments)
    base_source = None if base is None else opened.pop()
    compare(opened, base_source, objects_from)
    return opened, base_source


def open_each(paths: Sequence[tuple[str, Path]], moments: bool = False) -> list[Source]:
    """Open checkpoints, given by name and path, in that order, as `open_source` does.

    Raises:
        CheckpointError: as `open_source`.
    """
    known = read_side_by_side([path for _, path in paths])
    return [open_source(name, path, known, moments) for name, path in paths]


def read_side_by_side(paths: Sequence[Path]) -> dict[Path, Stored]:
    """Return the metadata of checkpoints by the folder of their weights, read by a process each where there is much.

    Twenty thousand tensors take a core some ten seconds a checkpoint. What cannot be read is left out: whoever opens it
    says why.
    """
    try:
        folders = [locate(path).weights for path in paths]
        num_bytes = sum((folder / ".metadata").stat().st_size for folder in folders)
    except (CheckpointError, OSError):
        return {}
    cores = len(os.sched_getaffinity(0))
    if num_bytes < _MUCH or cores == 1 or any(isinstance(folder, StorePath) for folder in folders):
        return {}
    context = multiprocessing.get_context("fork")  # the parent has torch, which would take longer to import
    with ProcessPoolExecutor(min(cores, len(folders)), context, _end_with_parent) as pool:
        reading = {folder: pool.submit(read_metadata, folder) for folder in folders}
        return {folder: found.result() for folder, found in reading.items() if found.exception() is None}


def _end_with_parent() -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides


def compare(components: Sequence[Source], base: Source | None, objects_from: str | None) -> None:
    """Refuse checkpoints that are not of one model.

    Raises:
        CheckpointError: naming the first difference: architecture, tensor names, shapes, dtypes, byte objects.
    """
    first, *others = components if base is None else (*components, base)
    starts = {source.name: start for source in (first, *others) if (start := recorded_base(source)) is not None}
    for name, (path, print_) in starts.items():
        known, (other_path, other_print) = next(iter(starts.items()))
        if print_ != other_print:
            raise CheckpointError(
                f"{known} was trained from {other_path}, {name} from {path}: components are averaged only where they "
                "share their base"
            )
    for source in (first, *others):
        check_precision(source.path, source.stored)
    if rounded := [source.name for source in (first, *others) if source.layout.architecture.fp8_weights]:
        logger.warning("%s", rounded_to_fp8(rounded))
    for other in others:
        where = f"{first.name} ({first.path}) and {other.name} ({other.path})"
        for field in dataclasses.fields(first.layout.architecture):
            if field.name == "fp8_weights":  # how it was trained, not what it is
                continue
            if field.name in ("model_class", "vocab_size") and first.layout.kind != other.layout.kind:
                continue  # each layout names and pads them in its own way; the tensors' shapes decide
            one, two = (getattr(source.layout.architecture, field.name) for source in (first, other))
            if one != two and one is not None and two is not None:
                raise CheckpointError(f"{where} are of different models: {field.name} is {one} and {two}")
        odd = sorted(set(first.stored.tensors) ^ set(other.stored.tensors))
        if odd:
            has = first.name if odd[0] in first.stored.tensors else other.name
            hint = "; one has tied embeddings, the other not" if "output_layer.weight" in odd[0] else ""
            raise CheckpointError(f"{where} differ in {len(odd)} tensors: only {has} has {odd[0]}{hint}")
        for name, entry in first.stored.tensors.items():
            _compare_tensor(where, name, entry, other.stored.tensors[name])
        if objects_from is None:
            # The common state is the template's, as a `common.pt` is: what matters of it is the architecture.
            ours, theirs = (set(source.stored.objects) - set(source.common) for source in (first, other))
            odd = sorted(ours ^ theirs)
            if odd:
                raise CheckpointError(
                    f"{where} differ in {len(odd)} byte objects, first {odd[0]}; name the component to take them from: "
                    "merge.objects_from="
                )
    template = next((source for source in components if source.name == objects_from), first)
    for source in components:
        _compare_small_files(template, source)


def _compare_small_files(template: Source, other: Source) -> None:
    """Say where the files that outputs take over are not those of another component."""
    for path in template.layout.companions:
        theirs = other.layout.root / path
        shared = path.name in _SHARED_NAMES or path.parent.name == _SHARED_FOLDER
        if shared and theirs.is_file() and template.layout.read(path) != other.layout.read(path):
            logger.warning(
                "%s differs between %s and %s; the outputs take over that of %s",
                path, template.name, other.name, template.name,
            )  # fmt: skip


def _compare_tensor(where: str, name: str, one: TensorEntry, two: TensorEntry) -> None:
    for what in ("shape", "dtype"):
        if getattr(one, what) != getattr(two, what):
            raise CheckpointError(
                f"{where} differ in {name}: its {what} is {getattr(one, what)} and {getattr(two, what)}; merge "
                "checkpoints of one model, saved in one precision"
            )
