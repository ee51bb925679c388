"""Models that are there and would be trained again: which, because of which input, at what cost."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nemo_demix.artifacts import ModelRecord, load_record, read_json
from nemo_demix.training.jobs import TrainJob

_SETTINGS = {
    "num_steps": "its number of steps (num_tokens, train.global_batch_size, train.seq_length)",
    "schedule": "its schedule (max_lr, min_lr_ratio, warmup_share)",
    "keep": "the checkpoints it keeps (keep_tokens)",
    "start": "the model it starts from",
    "tokenizer": "the tokenizer",
    "seed": "seed",
    "adopt": "the checkpoint it is",
    "load_optimizer": "load_optimizer",
    "save_optimizer": "components.save_optimizer, or load_optimizer of a later role",
    "format": "this package's way of training",
}


@dataclass(frozen=True)
class Retraining:
    """One finished model that another configuration trained."""

    name: str  # role/name
    reasons: tuple[str, ...]  # inputs that are others now
    num_tokens: int
    wall_time_s: float | None  # at the old one's pace; None: it has none

    def __str__(self) -> str:
        pace = "" if self.wall_time_s is None else f", about {self.wall_time_s:,.0f} s at its earlier pace"
        return f"{self.name}: {'; '.join(self.reasons)} changed; {self.num_tokens:,} tokens{pace}"


def retrainings(jobs: Sequence[TrainJob]) -> list[Retraining]:
    """Find the jobs whose folders hold a finished model of other inputs."""
    return [_retraining(job) for job in jobs if job.record_path.exists() and not job.is_done and job.adopt is None]


def _retraining(job: TrainJob) -> Retraining:
    record = load_record(job.record_path, ModelRecord)
    claim = read_json(job.claim_path) if job.claim_path.exists() else {}
    earlier = claim.get("inputs") if isinstance(claim, dict) else None
    reasons = tuple(changed_inputs(earlier, job.inputs)) if earlier else ("an input (its job.json does not say which)",)
    is_timed = record.num_tokens and record.wall_time_s
    wall_time_s = job.num_tokens * record.wall_time_s / record.num_tokens if is_timed else None
    return Retraining(f"{job.role}/{job.name}", reasons or ("an input",), job.num_tokens, wall_time_s)


def changed_inputs(earlier: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """Yield what differs between the inputs of two trainings, by the names that a user knows it by."""
    for key in {**earlier, **now}:
        if earlier.get(key) == now.get(key):
            continue
        if key == "blend":
            yield from _changed_blend(earlier.get(key) or {}, now.get(key) or {})
        elif key in ("model", "train"):
            yield from _changed_settings(key, earlier.get(key), now.get(key))
        else:
            old, new = earlier.get(key), now.get(key)
            shown = "" if key in ("tokenizer", "start", "adopt") else f" ({old} -> {new})"
            yield f"{_SETTINGS.get(key, key)}{shown}"


def _changed_blend(earlier: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    for name in {**earlier, **now}:
        old, new = earlier.get(name), now.get(name)
        if old is None or new is None or old[0] != new[0]:
            yield f"the share of {name} ({old[0] if old else 0:g} -> {new[0] if new else 0:g})"
        if old is not None and new is not None and old[1] != new[1]:
            yield f"the data of {name} (its text, max_bytes, the held-out share or the tokenizer)"


def _changed_settings(key: str, earlier: Any, now: Any) -> Iterator[str]:
    if not isinstance(earlier, dict) or not isinstance(now, dict):
        yield f"{key} ({earlier} -> {now})"
        return
    for name in {**earlier, **now}:
        if earlier.get(name) != now.get(name):
            yield from _changed_settings(f"{key}.{name}", earlier.get(name), now.get(name))
