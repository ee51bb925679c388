"""Slurm's clients: submit a job, ask what became of jobs, cancel them. Every call has a time limit."""

import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nemo_demix.errors import ClusterError

# https://slurm.schedmd.com/squeue.html, JOB STATE CODES: these have not ended for good.
LIVE = (
    "PENDING CONFIGURING RUNNING SUSPENDED STOPPED SIGNALING STAGE_OUT RESIZING REQUEUED REQUEUE_FED REQUEUE_HOLD "
    "RESV_DEL_HOLD SPECIAL_EXIT"
).split()
ENDING = "COMPLETING"  # has ended, but its processes are still being ended, or it is on its way back into the queue
_TIMEOUT_S = 60.0
_ENDING_S = 90.0


@dataclass(frozen=True)
class TaskState:
    """What Slurm says of a job, or of one task of an array."""

    state: str  # RUNNING, PENDING, FAILED, ...
    reason: str  # why it is pending, as Slurm names it
    name: str  # the job's
    start: str  # local time, ISO 8601; N/A where it is not known

    @property
    def is_live(self) -> bool:
        """Whether it is queued or running."""
        return self.state in LIVE


States = dict[tuple[str, int | None], TaskState]  # by job id and index in the array (None: no array)


def has_slurm() -> bool:
    """Return whether this machine can submit jobs."""
    return all(shutil.which(name) for name in ("sbatch", "squeue", "scancel", "scontrol"))


def sbatch(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Submit a job; returns its id.

    Args:
        command: The whole command line, with --parsable.

    Raises:
        ClusterError: with sbatch's own words, if it refuses.
    """
    return _client(command, environment).partition(";")[0].strip()


def job_states(jobs: Iterable[str], settle: bool = False) -> States:
    """Return what became of jobs, task by task; one that Slurm no longer knows is left out.

    squeue knows jobs for some minutes after they ended, sacct for good where there is accounting.

    Args:
        settle: Wait, for a while, until no job is just ending: it may be on its way back into the queue.

    Raises:
        ClusterError: if Slurm does not answer.
    """
    wanted = sorted(set(jobs))
    if not wanted:
        return {}
    deadline = time.monotonic() + (_ENDING_S if settle else 0.0)
    while True:
        states = _from_squeue(wanted)
        if time.monotonic() >= deadline or all(task.state != ENDING for task in states.values()):
            break
        time.sleep(0.5)
    if unknown := set(wanted) - {job for job, _ in states}:
        states |= _from_sacct(sorted(unknown))
    return states


def cancel(tasks: Sequence[str]) -> None:
    """Cancel jobs or tasks of arrays (`12`, `12_3`) and wait until they have ended."""
    if not tasks:
        return
    _client(["scancel", *tasks])
    job_states({task.partition("_")[0] for task in tasks}, settle=True)


def set_dependency(job: str, dependency: str) -> None:
    """Make a queued job wait for others than before."""
    _client(["scontrol", "update", f"JobId={job}", f"Dependency={dependency}"])


def max_array_size() -> int:
    """Return one more than the largest index in an array."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _client(["scontrol", "show", "config"]), re.MULTILINE)
    if found is None:
        raise ClusterError("`scontrol show config` does not say what MaxArraySize is")
    return int(found[1])


def _from_squeue(jobs: Sequence[str]) -> States:
    command = [
        "squeue",
        "--noheader",
        "--array",
        "--states=all",
        f"--jobs={','.join(jobs)}",
        "--format=%F|%K|%T|%S|%j|%r",
    ]
    try:
        rows = _client(command).splitlines()
    except ClusterError as error:
        if "Invalid job id" in str(error):  # said of a single id; of several, unknown ones are passed over
            return {}
        raise
    states: States = {}
    for row in rows:
        job, index, state, start, name, reason = row.strip().split("|", 5)
        states[job, int(index) if index.isdecimal() else None] = TaskState(state, reason, name, start)
    return states


def _from_sacct(jobs: Sequence[str]) -> States:
    command = ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={','.join(jobs)}"]
    try:
        rows = _client([*command, "--format=JobID,State,Start,JobName"]).splitlines()
    except ClusterError:
        return {}  # a cluster without accounting: what ended some minutes ago is known by its files alone
    states: States = {}
    for row in rows:
        task, state, start, name = row.split("|", 3)
        job, _, index = task.partition("_")
        states[job, int(index) if index.isdecimal() else None] = TaskState(state.split()[0], "", name, start)
    return states


def _client(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    try:
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        raise ClusterError(f"{command[0]}: not on PATH") from None
    except subprocess.TimeoutExpired:
        raise ClusterError(f"{command[0]}: no answer within {_TIMEOUT_S:.0f} s; is slurmctld up?") from None
    if result.returncode:
        said = " ".join((result.stderr or result.stdout).split())
        raise ClusterError(said or f"{command[0]}: exit code {result.returncode}")
    return result.stdout
