"""The stages that a run is made of, in their order: told here, asked everywhere else."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One stage, as it is for every run.

    Attributes:
        needs: Stages whose results it uses, of those that a run has.
        command: Words of the command that does it, by which a job does it too.
        step: The part of `run` that does it. None: `run` leaves it to whoever asks for it.
        role: What the models are called that it trains. None: it trains none.
    """

    name: str
    needs: tuple[str, ...]
    command: tuple[str, ...]
    step: str | None
    role: str | None = None


STAGES = {
    stage.name: stage
    for stage in (
        Stage("prepare", (), ("prepare",), "prepare"),
        Stage("base", ("prepare",), ("train", "role=base"), "train", "base"),
        Stage("components", ("base",), ("train", "role=component"), "train", "component"),
        Stage("references", ("base",), ("train", "role=reference"), None, "reference"),
        Stage("verify", ("components", "references"), ("verify",), None),
        Stage("search", ("components", "verify"), ("search",), "search"),
        Stage("final", ("search",), ("final",), "final", "final"),
    )
}
STEPS = tuple(dict.fromkeys(stage.step for stage in STAGES.values() if stage.step is not None))  # of `run`
STAGE_OF = {stage.role: stage.name for stage in STAGES.values() if stage.role is not None}  # by the role of its models
