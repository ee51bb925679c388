"""The worker processes of a merge on this machine: forked, watched, and ended with the one that forked them."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch

from nemo_demix.errors import DemixError
from nemo_demix.merging import passes
from nemo_demix.merging.files import as_mistake
from nemo_demix.merging.journal import Journal, UnitRecord
from nemo_demix.merging.plan import MergePlan
from nemo_demix.merging.stream import Worker
from nemo_demix.runtime.lifetime import die_with_parent

_STATISTICS, _MERGE = "statistics", "merge"


class WorkerFailure(RuntimeError):
    """A worker process died or failed; what it had finished is kept."""


class Workers:
    """Processes that take part in a merge as workers `first` to `first + count - 1` of `total`.

    Forked, not spawned: importing torch again would take longer than many a merge.
    """

    def __init__(
        self,
        plan: MergePlan,
        folders: Mapping[str, Path],
        work: Path,
        numbers: tuple[int, int, int],
        claimed: Mapping[int, UnitRecord],
    ) -> None:
        first, count, total = numbers
        torch.set_num_threads(1)  # before the fork: OpenMP's threads do not survive it
        context = multiprocessing.get_context("fork")
        self._processes = []
        self._pipes: list[Connection] = []
        for number in range(first, first + count):
            ours, theirs = context.Pipe()
            arguments = (plan, folders, work, (number, total), claimed, theirs, os.getpid())
            process = context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)
        self.bytes_read = 0

    def run(self, phase: str, progress: Callable[[str, int], None]) -> None:
        """Let all workers do a phase, and wait for them.

        Raises:
            DemixError: the user's mistake that a worker found.
            WorkerFailure: if one died or failed otherwise.
        """
        for pipe in self._pipes:
            try:
                pipe.send(phase)
            except BrokenPipeError:
                continue  # it died; told below
        pending = dict(zip(self._pipes, self._processes, strict=True))
        while pending:
            for ready in wait(list(pending)):
                pipe = next(pipe for pipe in pending if pipe is ready)
                try:
                    kind, value = pipe.recv()
                except (EOFError, ConnectionResetError):
                    process = pending[pipe]
                    process.join()
                    self.stop()
                    raise WorkerFailure(
                        f"a worker was lost (process {process.pid}, exit code {process.exitcode}); what is finished is "
                        "kept, the same command goes on from there"
                    ) from None
                if kind == "progress":
                    progress(phase, value)
                elif kind == "done":
                    self.bytes_read += value
                    del pending[pipe]
                else:
                    self.stop()
                    raise value if kind == "mistake" else WorkerFailure(value)

    def stop(self) -> None:
        """End all workers at once."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()


def _work(
    plan: MergePlan,
    folders: Mapping[str, Path],
    work: Path,
    number: tuple[int, int],
    claimed: Mapping[int, UnitRecord],
    pipe: Connection,
    parent: int,
) -> None:
    die_with_parent()
    if os.getppid() != parent:
        os._exit(1)  # it ended before it could be asked for
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        while True:
            phase = pipe.recv()
            if phase == _STATISTICS:
                known = passes.load_statistics(work)
                keys = [key for key in passes.matrices_of(plan, *number) if key not in known]
                path = passes.journal_path(work, "statistics")
                passes.gather(plan, keys, path, lambda count: pipe.send(("progress", count)))
                pipe.send(("done", 0))
            elif phase == _MERGE:
                statistics = passes.load_statistics(work)
                worker = Worker(plan, statistics, folders, Journal(passes.journal_path(work, "journal")))
                units = plan.units_of(*number)
                worker.run(units, claimed, lambda unit: pipe.send(("progress", unit.num_elements)))
                pipe.send(("done", worker.bytes_read))
                return
    except EOFError:
        os._exit(1)
    except Exception as error:
        mistake = as_mistake(error, work.parent)
        if isinstance(mistake, DemixError):
            pipe.send(("mistake", mistake))
        else:
            import traceback

            pipe.send(("failure", traceback.format_exc()))


def phases(plan: MergePlan) -> tuple[str, ...]:
    """Return what workers do, in order; everyone has to have finished one before anyone begins the next."""
    return (_STATISTICS, _MERGE) if plan.method.needs_statistics else (_MERGE,)
