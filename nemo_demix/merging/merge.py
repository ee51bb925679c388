"""A whole merge: plan, workers, publication; and what a killed one finds again.

OUTPUT/<mixture>/            a published checkpoint; its merge.json was written last
OUTPUT/.merge-<fingerprint>/    what is under way: journals, statistics, outputs/<mixture>/, what was replaced
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from nemo_demix.errors import CheckpointError, ConfigError
from nemo_demix.merging.files import as_mistake
from nemo_demix.merging.geometry import BLOCK_ELEMENTS
from nemo_demix.merging.journal import Journal, UnitRecord, read_journals
from nemo_demix.merging.methods.base import DeltaMethod
from nemo_demix.merging.output import (
    RECORD,
    bad_units,
    discard,
    finish,
    load_output_record,
    prepare,
    publish,
    read_objects,
)
from nemo_demix.merging.passes import journal_path
from nemo_demix.merging.peers import Peers
from nemo_demix.merging.plan import MergePlan
from nemo_demix.merging.sources import Source
from nemo_demix.merging.workers import Workers, phases

logger = logging.getLogger(__name__)

_WORKER_GIB = 0.06  # what a forked interpreter writes to of its own
_BASE_GIB = 0.45  # the parent, with torch's libraries, shared by all
_DELTA_TEMPORARIES = 8  # blocks of all components that the methods on task vectors hold at once


@dataclass(frozen=True)
class MergeOptions:
    """How a merge is done, none of which changes its result."""

    workers: int
    memory_gib: float
    force: bool = False


@dataclass(frozen=True)
class MergeReport:
    """What a merge cost."""

    merged: tuple[str, ...]
    done_before: tuple[str, ...]
    bytes_read: int  # of the sources' weights, by the merge itself; passes for statistics come on top
    bytes_written: int
    merge_time_s: float  # reading, summing, writing and making it durable; without starting the process
    peak_memory_gib: float  # planned


def merge(
    plan: MergePlan,
    output: Path,
    options: MergeOptions,
    peers: Peers,
    progress: Callable[[str, int], None],
) -> MergeReport:
    """Make every mixture's checkpoint that is not there yet. Collective: every peer.

    Args:
        progress: Called with the phase and the number of elements of one model that were just done.

    Raises:
        CheckpointError: if a source is damaged or changed, an output exists that is not this one's, the disk is full.
        ConfigError: if the promised memory is too small.
        WorkerFailure: if a worker was lost; what it had finished is kept.
    Memory: `planned_memory_gib`.
    """
    started = time.monotonic()
    done, todo = sort_out(plan, output, options.force)
    work = output / f".merge-{plan.fingerprint}"
    if not todo:
        if peers.rank == 0 and work.is_dir():
            discard(work)  # killed after the last publication
        return MergeReport((), tuple(done), 0, 0, 0.0, 0.0)
    plan = replace(plan, mixtures={name: plan.mixtures[name] for name in todo})
    folders = {name: work / "outputs" / name for name in todo}
    count = affordable_workers(plan, options)
    claimed: dict[int, UnitRecord] = {}
    error: Exception | None = None
    try:
        if peers.rank == 0:
            _tell_of_others(output, work)
            (work / "outputs").mkdir(parents=True, exist_ok=True)
            _check_space(plan, output, folders.values())
            for folder in folders.values():
                prepare(plan, folder)
    except Exception as found:
        error = as_mistake(found, output)
    peers.agree(error)
    if work.exists():
        records = read_journals(work)
        claimed = {n: record for n, record in records.items() if plan.allow_nonfinite or not record.nonfinite}
        if claimed and peers.rank == 0:
            logger.info("merge: %d of %d parts were finished before; checked as we go", len(claimed), len(plan.units))
    workers = Workers(plan, folders, work, (peers.rank * count, count, peers.size * count), claimed)
    try:
        for phase in phases(plan):
            error = None
            try:
                workers.run(phase, progress)
            except Exception as found:
                error = found
            peers.agree(error)
        try:
            if peers.rank == 0:
                _publish_all(plan, output, work, folders, options)
        except Exception as found:
            error = as_mistake(found, output)
        peers.agree(error)
    finally:
        workers.stop()
    return MergeReport(
        merged=tuple(todo),
        done_before=tuple(done),
        bytes_read=peers.total(workers.bytes_read),
        bytes_written=plan.output_bytes * len(todo),
        merge_time_s=time.monotonic() - started,
        peak_memory_gib=planned_memory_gib(plan, count),
    )


def sort_out(plan: MergePlan, output: Path, force: bool) -> tuple[list[str], list[str]]:
    """Return the mixtures that are there, and those to be made.

    Raises:
        CheckpointError: if something else stands where an output goes, or a source.
    """
    done, todo = [], []
    for name in plan.mixtures:
        target = output / name
        if not os.path.lexists(target):
            todo.append(name)
            continue
        if force and (source := _source_in(plan, target)) is not None:
            raise CheckpointError(
                f"{target}: holds {source.name}, a source of this very merge, which is never replaced; set another "
                "merge.output, or rename the mixture"
            )
        record = load_output_record(target)
        if record is None:
            raise CheckpointError(
                f"{target}: exists, and no merge made it; it is left alone. Set another merge.output, or rename the "
                "mixture"
            )
        if record["fingerprint"] == plan.mixture_fingerprint(name) and not force:
            done.append(name)
        elif force:
            todo.append(name)
        else:
            raise CheckpointError(
                f"{target}: was merged from other sources, weights or settings (see its {RECORD}); set another "
                "merge.output, rename the mixture, or force=true to replace it"
            )
    return done, todo


def _source_in(plan: MergePlan, folder: Path) -> Source | None:
    """Return a source of the merge that lies in a folder, or is it, or holds it; None where none does."""
    place = folder.resolve()
    for source in plan.sources:
        for own in (source.layout.root.resolve(), source.layout.weights.resolve()):
            if own.is_relative_to(place) or place.is_relative_to(own):
                return source
    return None


def planned_memory_gib(plan: MergePlan, workers: int) -> float:
    """Return what the processes of one machine need together; shared pages counted once."""
    num_sources, num_mixtures = len(plan.sources), len(plan.mixtures)
    widest = max(tensor.rows.width for tensor in plan.tensors) if plan.method.needs_rows else 0
    elements = max(BLOCK_ELEMENTS, widest)
    held = num_sources * 8 + 4 + (min(num_mixtures, 64) + 1) * 4 + 4
    if isinstance(plan.method, DeltaMethod):
        held += num_sources * 4 * _DELTA_TEMPORARIES
    records = 400 * len(plan.units) * (num_sources + num_mixtures)  # bytes of the journal, once read
    return _BASE_GIB + workers * (_WORKER_GIB + elements * held / 2**30) + records / 2**30


def affordable_workers(plan: MergePlan, options: MergeOptions) -> int:
    """Count the workers that the promised memory holds, at most those asked for.

    Raises:
        ConfigError: if not even one.
    """
    for count in range(max(1, min(options.workers, len(plan.units))), 0, -1):
        if planned_memory_gib(plan, count) <= options.memory_gib:
            return count
    raise ConfigError(
        f"merge.memory_gib={options.memory_gib}: one worker needs {planned_memory_gib(plan, 1):.2f} GiB for "
        f"{len(plan.sources)} sources and {len(plan.mixtures)} mixtures; raise it"
    )


def _tell_of_others(output: Path, work: Path) -> None:
    for other in sorted(output.glob(".merge-*")):
        if other != work:
            gib = sum(path.lstat().st_blocks * 512 for path in other.rglob("*")) / 2**30
            logger.warning(
                "%s: left by an interrupted merge of other sources, mixtures or settings (%.1f GiB); remove it unless "
                "you go on with that",
                other,
                gib,
            )


def _check_space(plan: MergePlan, output: Path, folders: Iterable[Path]) -> None:
    there = sum(path.stat().st_blocks * 512 for folder in folders for path in folder.rglob("*.distcp"))
    needed = plan.output_bytes * len(plan.mixtures) - there
    free = shutil.disk_usage(output).free
    if needed > free:
        raise CheckpointError(
            f"{output}: the disk has {free / 2**30:.1f} GiB free, and {len(plan.mixtures)} outputs need "
            f"{needed / 2**30:.1f} GiB more; free space, or merge fewer mixtures"
        )


def _publish_all(plan: MergePlan, output: Path, work: Path, folders: Mapping[str, Path], options: MergeOptions) -> None:
    records = read_journals(work)
    bad = bad_units(plan, records)
    if bad:
        if plan.method.needs_statistics:  # of damaged matrices too, and every unit is made from some
            discard(work)
        else:
            _forget(work, {number: record for number, record in records.items() if number not in bad})
        raise CheckpointError(next(iter(bad.values())))
    objects = read_objects(plan)
    for name, folder in folders.items():
        for source in plan.sources:
            source.check_unchanged()
        finish(plan, name, folder, records, objects)
        for source in plan.sources:  # its small files were copied just now
            source.check_unchanged()
        publish(folder, output / name, work / "replaced" / name if options.force else None)
    discard(work)


def _forget(work: Path, kept: Mapping[int, UnitRecord]) -> None:
    """Leave only what is sound in the journals."""
    old = list(work.glob("journal-*.jsonl"))
    journal = Journal(journal_path(work, "journal-kept"))
    for record in kept.values():
        journal.append(record)
    journal.close()
    for path in old:
        path.unlink()
