"""`status`: the stages of a run, their jobs, how far they are and when they will be done, by files and by Slurm."""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from nemo_demix.artifacts import parse_json, read_json
from nemo_demix.cluster.job_log import JobLog, task_name
from nemo_demix.config import DemixConfig
from nemo_demix.config.stages import STAGES
from nemo_demix.errors import ConfigError
from nemo_demix.search.layout import search_groups
from nemo_demix.search.proxy_row import of_last_search, read_rows
from nemo_demix.search.strategies import strategy_of
from nemo_demix.stages.launch import job_log
from nemo_demix.stages.pipeline import PipelineStage, pipeline

_RECENT_PROXIES = 16  # whose pace is taken for that of the rest
_WATCH_S, _WATCH_LINES_S = 2.0, 60.0  # between two looks, on a terminal and elsewhere
_STALE_S = 900.0  # files that have not grown for so long are of nothing that runs


@dataclass(frozen=True)
class StageProgress:
    """How far work is."""

    text: str
    remaining_s: float | None = None  # at the present pace; None: not known


def status_stage(config: DemixConfig) -> None:
    """Print a row a stage. Where there is no Slurm, files alone say what they know. Nothing is written.

    With `config.watch` again and again, until the run is done: in place on a terminal.

    Raises:
        ConfigError: if there is no such run.
    """
    if not config.run_dir.is_dir():
        raise ConfigError(f"no run here: {config.run_dir.absolute()}; name its folder with --run, or start it")
    console = Console(width=118)
    if not config.watch:
        console.print(_overview(config)[0])
        return
    with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as living:
        while True:
            shown, is_done = _overview(config)
            console.print(shown) if living is None else living.update(shown, refresh=True)
            if is_done:
                return
            time.sleep(_WATCH_S if living is not None else _WATCH_LINES_S)


def _overview(config: DemixConfig) -> tuple[RenderableType, bool]:
    """Return all stages as a table, and whether they are done."""
    log = job_log(config)
    table = Table(title=escape(f"{config.run_dir}"), title_justify="left")
    for heading in ("stage", "state", "jobs", "progress", "ETA"):
        table.add_column(heading)
    stages = pipeline(config)
    for stage in stages:
        progress = stage_progress(stage)
        states, jobs = stage_jobs(stage, log)
        running = not stage.is_done and "RUNNING" in states
        table.add_row(
            stage.name,
            escape("done" if stage.is_done else states or "to do"),
            jobs,
            escape(progress.text),
            _duration(progress.remaining_s) if running or not states else "",
        )
    is_done = all(stage.is_done for stage in stages)
    if not log.silence:
        return table, is_done
    return Group(table, escape(f"By files alone; what is queued is not known ({log.silence}).")), is_done


def stage_jobs(stage: PipelineStage, log: JobLog) -> tuple[str, str]:
    """Return what the jobs of a stage are doing, and their names: of each model the last job that was submitted."""
    states: Counter[str] = Counter()
    names: dict[str, list[str]] = {}
    indices: Sequence[int | None] = (None,) if stage.models is None else range(len(stage.models))
    for index, done in zip(indices, stage.done, strict=True):
        found = log.latest(stage.name, index)
        if found is None:
            states["done" if done else "to do"] += 1
            continue
        job, state = found
        names.setdefault(job.job, []).append(task_name((job.job, index)))
        if done:
            states["done"] += 1
        elif state is None:
            states["submitted" if log.silence else "unknown to Slurm"] += 1
        else:
            states[f"{state.state} ({state.reason})" if state.state == "PENDING" else state.state] += 1
    if not names and not any(stage.done):
        return "", ""
    jobs = ", ".join(job if len(tasks) == len(stage.done) else ", ".join(tasks) for job, tasks in names.items())
    if stage.models is None:
        return next(iter(states)), jobs
    return ", ".join(f"{count} {state}" for state, count in states.items()), jobs


def stage_progress(stage: PipelineStage) -> StageProgress:
    """Return how far a stage is, by its files."""
    config = stage.config
    if stage.is_done:
        return StageProgress("" if stage.models is None else f"{len(stage.models)} models")
    if (role := STAGES[stage.name].role) is not None:
        folder = config.run_dir / "models" / role
        names = stage.models or (("base",) if stage.name == "base" else _folders(folder))
        return _of_models([folder / name for name in names])
    if stage.name == "search":
        return _of_search(config)
    return StageProgress("")


def _folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _of_models(folders: Sequence[Path]) -> StageProgress:
    """Return steps of the models that are being trained; several at a time end when the last of them does."""
    parts = [found for folder in folders if (found := model_progress(folder)) is not None]
    done = sum((folder / "record.json").exists() for folder in folders)
    trained = f"{done}/{len(folders)} models" if len(folders) > 1 else ""
    text = ", ".join(filter(None, (trained, *(part.text for part in parts))))
    times = [part.remaining_s for part in parts if part.remaining_s is not None]
    return StageProgress(text, max(times, default=None) if len(parts) + done == len(folders) else None)


def model_progress(folder: Path) -> StageProgress | None:
    """Return steps done of a model that is being trained, and the time that the others need; None where none is.

    The pace is that since the training was started last, from the checkpoint that it resumed from.
    """
    claim, losses = folder / "job.json", folder / "losses.jsonl"
    if (folder / "record.json").exists() or not claim.exists() or not losses.exists():
        return None
    total = int(read_json(claim)["num_steps"])
    step = _last_step(losses)
    started, now = claim.stat().st_mtime, losses.stat().st_mtime
    saved = [(path.stat().st_mtime, int(path.name[5:])) for path in folder.glob("checkpoints/step_????????")]
    before = [number for saved_at, number in saved if saved_at <= started]
    # Where the checkpoint that it started from is gone, the first one since will do.
    since = (started, max(before, default=0)) if before or not saved else min(saved)
    runs = step > since[1] and now > since[0] and not _is_stale(losses)
    pace = (now - since[0]) / (step - since[1]) if runs else None
    return StageProgress(f"{folder.name} step {step:,}/{total:,}", pace * (total - step) if pace is not None else None)


def _of_search(config: DemixConfig) -> StageProgress:
    """Return proxies scored by the configuration that scored the last one; the others may be of an earlier one."""
    path = config.run_dir / "search" / "scores.jsonl"
    rows = of_last_search(read_rows(path))
    if not rows:
        return StageProgress("")
    total = strategy_of(config.search).num_proxies(config.search)
    recent = [row.wall_time_s for row in rows[-_RECENT_PROXIES:]]
    left = max(0, total - len(rows)) / search_groups(config)
    remaining_s = None if _is_stale(path) else left * sum(recent) / len(recent)
    return StageProgress(f"{len(rows)}/{total} proxies", remaining_s)


def _is_stale(path: Path) -> bool:
    return time.time() - path.stat().st_mtime > _STALE_S


def _last_step(losses: Path) -> int:
    """Return the step of the last whole line; the file has a line a step, so only its end is read."""
    with open(losses, "rb") as file:
        file.seek(max(0, losses.stat().st_size - 4096))
        lines = file.read().split(b"\n")[:-1]
    return int(parse_json(lines[-1], losses, is_ours=True)["step"]) if lines else 0


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min" if minutes else f"{rest} s"
