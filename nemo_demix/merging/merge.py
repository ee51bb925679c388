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

from nemo_demix.checkpoints.store import StorePath
from nemo_demix.errors import CheckpointError, ConfigError
from nemo_demix.merging.files import as_mistake
from nemo_demix.merging.geometry import BLOCK_ELEMENTS
from nemo_demix.merging.journal import Journal, UnitRecord, read_journals
from nemo_demix.merging.kernel import num_bytes
from nemo_demix.merging.methods.base import BlockMethod
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
from nemo_demix.merging.sending import is_sent, send
from nemo_demix.merging.sources import Source
from nemo_demix.merging.stream import MIXTURES_AT_ONCE
from nemo_demix.merging.workers import Workers, phases

logger = logging.getLogger(__name__)

_WORKER_GIB = 0.06  # what a forked interpreter writes to of its own
_BASE_GIB = 0.45  # the parent, with torch's libraries, shared by all
_RUN_BYTES = 200  # of a run of bytes in the journal, once that is read
_CHUNK_BYTES = 2 * 400  # of a chunk's place, in the parent, and copied where a worker looks at it
_CLIENT_BYTES = 32 << 20  # what talks to an object store, in each process
_DELTA_TEMPORARIES = 8  # blocks of all components that the methods on task vectors hold at once


@dataclass(frozen=True)
class MergeOptions:
    """How a merge is done, none of which changes its result."""

    workers: int
    memory_gib: float
    force: bool = False
    staging_gib: float = 64.0  # of outputs on this machine at a time, on their way to an object store


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


def merge_into_store(
    plan: MergePlan,
    output: StorePath,
    staging: Path,
    options: MergeOptions,
    peers: Peers,
    progress: Callable[[str, int], None],
) -> MergeReport:
    """Merge into an object store: a few outputs at a time are made in a folder here, sent, and removed.

    Args:
        staging: The folder; all machines share it.

    Raises: as `merge`; and
        CheckpointError: if the store refuses, or something else stands at an address.
        ConfigError: if not even one output is to be staged.
    Collective: every peer; one sends.
    """
    at_once = int(options.staging_gib * 2**30 // plan.output_bytes)
    if at_once < 1:
        raise ConfigError(
            f"merge.staging_gib={options.staging_gib}: one output takes {plan.output_bytes / 2**30:.2f} GiB here "
            "until it is in the store; raise it"
        )
    done, todo = sort_out(plan, output, options.force)
    work = staging / plan.fingerprint
    if peers.rank == 0 and staging.is_dir():
        for other in sorted(path for path in staging.iterdir() if path.is_dir() and path != work):
            logger.warning("%s: left by an interrupted merge of other sources or settings; remove it", other)
    reports = []
    for first in range(0, len(todo), at_once):
        some = {name: plan.mixtures[name] for name in todo[first : first + at_once]}
        part = f" (mixtures {first + 1} to {first + len(some)} of {len(todo)})" if len(some) < len(todo) else ""
        reports.append(merge(replace(plan, mixtures=some), work, options, peers, _in_part(progress, part)))
        error: Exception | None = None
        try:
            for name in some if peers.rank == 0 else ():
                target = output / name
                assert isinstance(target, StorePath)
                send(work / name, target)
                discard(work / name)
        except Exception as found:
            error = as_mistake(found, staging)
        peers.agree(error)
    if peers.rank == 0 and work.is_dir():
        discard(work)
    return MergeReport(
        merged=tuple(todo),
        done_before=tuple(done),
        bytes_read=sum(report.bytes_read for report in reports),
        bytes_written=plan.output_bytes * len(todo),
        merge_time_s=sum(report.merge_time_s for report in reports),
        peak_memory_gib=max((report.peak_memory_gib for report in reports), default=0.0),
    )


def _in_part(progress: Callable[[str, int], None], part: str) -> Callable[[str, int], None]:
    return lambda phase, count: progress(f"{phase}{part}", count)


def sort_out(plan: MergePlan, output: Path, force: bool) -> tuple[list[str], list[str]]:
    """Return the mixtures that are there, and those to be made.

    Raises:
        CheckpointError: if something else stands where an output goes, or a source.
    """
    done: list[str] = []
    todo: list[str] = []
    for name in plan.mixtures:
        target = output / name
        if isinstance(target, StorePath):
            if force:
                raise ConfigError(
                    f"force=true: nothing is replaced in an object store, where {output} is; remove it there, or set "
                    "another merge.output"
                )
            (done if is_sent(target, plan.mixture_fingerprint(name)) else todo).append(name)
            continue
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
    num_inputs, num_mixtures = len(plan.inputs), len(plan.mixtures)
    widest = max(tensor.rows.width for tensor in plan.tensors) if plan.method.needs_rows else 0
    elements = max(BLOCK_ELEMENTS, widest)
    held = num_inputs * 8 + 4 + num_bytes(num_inputs, min(num_mixtures, MIXTURES_AT_ONCE)) + 4
    if isinstance(plan.method, BlockMethod):
        held += num_inputs * 4 * _DELTA_TEMPORARIES
    ahead, files = plan.read_ahead
    fetched = ahead * (files + 1) + _CLIENT_BYTES if ahead else 0  # an answer is there before it is put in its place
    runs = len(plan.units) * num_inputs + (len(plan.units) + plan.chunk_counts[-1]) * num_mixtures
    of_many = runs * _RUN_BYTES + sum(plan.chunk_counts) * _CHUNK_BYTES
    return _BASE_GIB + workers * (_WORKER_GIB + (elements * held + fetched) / 2**30) + of_many / 2**30


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
