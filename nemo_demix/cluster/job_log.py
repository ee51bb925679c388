"""`launch/jobs.json`: every job that was submitted for a run, in order."""

from dataclasses import asdict, dataclass
from pathlib import Path

from nemo_demix.artifacts import read_json, write_json
from nemo_demix.cluster.slurm import States, TaskState
from nemo_demix.errors import ClusterError


@dataclass(frozen=True)
class SubmittedJob:
    """A job as it was submitted."""

    stage: str
    job: str  # Slurm's id
    name: str  # the job's
    indices: list[int] | None  # of the tasks of an array
    command: list[str]
    recipe: str  # fingerprint of the configuration
    submitted_at: str  # UTC, ISO 8601

    @property
    def tasks(self) -> list[tuple[str, int | None]]:
        """The job's id with each index of its array, or with None where it is no array."""
        return [(self.job, index) for index in self.indices] if self.indices is not None else [(self.job, None)]


class JobLog:
    """The jobs of a run, and what Slurm says of them.

    Raises:
        ClusterError: if the file is not one of ours.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.jobs: list[SubmittedJob] = []
        self.states: States = {}
        self.silence: str | None = None  # why the states are not known
        if path.exists():
            try:
                self.jobs = [SubmittedJob(**row) for row in read_json(path)["jobs"]]
            except (TypeError, KeyError):
                raise ClusterError(
                    f"{path}: expected a list of submitted jobs; move it away, after `squeue --me`: jobs that it named "
                    "are not known any more"
                ) from None

    def append(self, job: SubmittedJob) -> None:
        """Add a job and make sure that it is on the disk."""
        self.jobs.append(job)
        write_json(self.path, {"jobs": [asdict(job) for job in self.jobs]})

    def state(self, job: SubmittedJob, index: int | None) -> TaskState | None:
        """Return what Slurm says of a task; None where it does not know it, or means another job: ids are
        used again.
        """
        found = self.states.get((job.job, index))
        return found if found is not None and found.name == job.name else None

    def live(self, stage: str | None = None) -> dict[tuple[str, int | None], SubmittedJob]:
        """Return the tasks that are queued or running, of one stage or of all."""
        return {
            task: job
            for job in self.jobs
            if stage in (None, job.stage)
            for task in job.tasks
            if (state := self.state(job, task[1])) is not None and state.is_live
        }

    def latest(self, stage: str, index: int | None) -> tuple[SubmittedJob, TaskState | None] | None:
        """Return the last job that was submitted for a stage, or for one model of it."""
        for job in reversed(self.jobs):
            if job.stage == stage and (job.job, index) in job.tasks:
                return job, self.state(job, index)
        return None


def task_name(task: tuple[str, int | None]) -> str:
    """Return a task as Slurm's clients take it: `12` or `12_3`."""
    job, index = task
    return job if index is None else f"{job}_{index}"
