"""What a run has still to do, and how long that takes by what its earlier stages took."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from nemo_demix.artifacts import ModelRecord, load_record
from nemo_demix.config import DemixConfig
from nemo_demix.config.stages import STEPS
from nemo_demix.prepared import PreparedRun
from nemo_demix.progress import Progress
from nemo_demix.search.baselines import final_names
from nemo_demix.search.layout import search_groups
from nemo_demix.search.proxy_row import read_rows
from nemo_demix.search.space import search_folder
from nemo_demix.search.strategies import strategy_of
from nemo_demix.terminal import clock
from nemo_demix.training.jobs import TrainJob

_KEPT_S = 2.0  # files are looked at again after so long


@dataclass
class Outlook:
    """What one run has still to do, seen from inside one of its stages.

    Attributes:
        stage: The stage that is at work, one of `STEPS`.
    """

    config: DemixConfig
    stage: str = STEPS[0]
    _seen: tuple[float, Sequence[TrainJob], float | None, float | None] | None = field(default=None, repr=False)

    def __call__(self, progress: Progress | None = None) -> str:
        """Return what follows the work at hand, and the time for all of it; a stage that was never timed is named as
        such.
        """
        jobs, tokens_per_s, proxy_s = self._looked()
        tokens_per_s = tokens_per_s if progress is None else progress.tokens_per_s or tokens_per_s
        parts, seconds, unknown = [], 0.0 if progress is None else progress.remaining_s or 0.0, []
        for stage, count, unit, amount in self._todo(jobs, progress):
            parts.append(f"{stage}: {count} {unit}")
            pace = proxy_s if unit == "proxies" else None if tokens_per_s is None else 1 / tokens_per_s
            if pace is None:
                unknown.append(stage)
            else:
                seconds += amount * pace
        if not parts:
            return ""
        text = f"then {', '.join(parts)}"
        if unknown:
            which = " and ".join(filter(None, [", ".join(unknown[:-1]), unknown[-1]]))
            return f"{text} (how long {which} will take was not measured yet)"
        return f"{text}; about {clock(seconds)} in all"

    def _todo(self, jobs: Sequence[TrainJob], progress: Progress | None) -> list[tuple[str, int, str, float]]:
        """Return stage, count, unit, and what its time goes by: tokens, or proxies."""
        found, settings, place = [], self.config.search, STEPS.index(self.stage)
        if place <= STEPS.index("train"):
            at_hand = None if progress is None else progress.what
            more = [job for job in jobs if f"{job.role}/{job.name}" != at_hand]
            if more:
                found.append(
                    (
                        "train",
                        len(more),
                        "model" if len(more) == 1 else "models",
                        float(sum(job.num_tokens for job in more)),
                    )
                )
        num_proxies = strategy_of(settings).num_proxies(settings)
        if place < STEPS.index("search") and num_proxies:
            found.append(("search", num_proxies, "proxies", float(num_proxies)))
        if place < STEPS.index("final"):
            count = len(final_names(self.config))
            found.append(
                ("final", count, "model" if count == 1 else "models", float(count * self.config.final.num_tokens))
            )
        return found

    def _looked(self) -> tuple[Sequence[TrainJob], float | None, float | None]:
        """Return models to train, tokens a second of those that are trained, and seconds a proxy, by the run's
        records.
        """
        now = time.monotonic()
        if self._seen is None or now - self._seen[0] > _KEPT_S:
            self._seen = (now, _untrained(self.config), _training_pace(self.config), _proxy_s(self.config))
        return self._seen[1:]


def _untrained(config: DemixConfig) -> list[TrainJob]:
    run = PreparedRun.find(config)
    if run is None:
        return []
    jobs = [run.base]
    if strategy_of(config.search).mixes_components():
        jobs += run.components
    return [job for job in jobs if not job.is_done]


def _training_pace(config: DemixConfig) -> float | None:
    records = [load_record(path, ModelRecord) for path in (config.run_dir / "models").glob("*/*/record.json")]
    timed = [record for record in records if record.wall_time_s and record.num_tokens]
    return sum(one.num_tokens for one in timed) / sum(one.wall_time_s for one in timed) if timed else None


def _proxy_s(config: DemixConfig) -> float | None:
    times = [row.wall_time_s for row in read_rows(search_folder(config) / "scores.jsonl") if row.is_ok]
    return sum(times) / len(times) / search_groups(config) if times else None
