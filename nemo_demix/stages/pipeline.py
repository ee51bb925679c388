"""The stages of a run in order, what each waits for, and what of it is done, by the stages' own fingerprints."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nemo_demix.artifacts import is_done, read_json
from nemo_demix.config import DemixConfig
from nemo_demix.config.overrides import stage_config
from nemo_demix.config.stages import STAGES
from nemo_demix.errors import DatasetError
from nemo_demix.fidelity.record import fidelity_path, load_fidelity
from nemo_demix.prepared import PreparedRun
from nemo_demix.search.identity import search_fingerprint
from nemo_demix.search.space import search_folder
from nemo_demix.search.strategies import strategy_of
from nemo_demix.stages.identity import final_fingerprint, final_shares, verify_fingerprint
from nemo_demix.training.jobs import TrainJob

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PipelineStage:
    """One stage of a run."""

    name: str
    after: tuple[str, ...]  # stages that it needs
    config: DemixConfig  # with what launch.jobs.<stage>.overrides changes
    models: tuple[str, ...] | None  # names of an array's models, in order; None: no array
    done: tuple[bool, ...]  # of each model; one value where it is no array

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to do."""
        return all(self.done)

    @property
    def todo(self) -> tuple[int | None, ...]:
        """Indices of the models that are to be trained; (None,) for a stage that is no array."""
        if self.models is None:
            return () if self.is_done else (None,)
        return tuple(index for index, done in enumerate(self.done) if not done)


def pipeline(config: DemixConfig) -> list[PipelineStage]:
    """Return the stages that this run has, each after those it waits for.

    What the search needs depends on its strategy: component models, or the base alone. A plain mixture needs neither,
    but only one stage at a time may hold the run, so it waits for the base too.

    Raises:
        ConfigError: if an override of launch.jobs.<stage> cannot be applied.
    """
    left_out: set[str] = set() if config.launch.verify else {"references", "verify"}
    if not strategy_of(config.search).mixes_components() and not config.launch.verify:
        left_out.add("components")
    prepared = _prepared(config)
    stages = []
    for name, stage in STAGES.items():
        if name in left_out:
            continue
        parents = tuple(need for need in stage.needs if need not in left_out)
        if stage.needs and not parents:
            parents = ("base",)
        own = stage_config(config, name)
        models = _models(own, name)
        nothing = (False,) * (1 if models is None else len(models))
        done = nothing if prepared is None else _done(replace(prepared, config=own), name)
        stages.append(PipelineStage(name, parents, own, models, done))
    return stages


def trained_jobs(stages: Sequence[PipelineStage]) -> list[TrainJob]:
    """Return the base and the components that these stages train, where the data are prepared."""
    found: list[TrainJob] = []
    for stage in stages:
        if stage.name in ("base", "components") and (run := PreparedRun.find(stage.config)) is not None:
            found += (run.base,) if stage.name == "base" else run.components
    return found


def _prepared(config: DemixConfig) -> PreparedRun | None:
    """Find what `prepare` made; where an input is gone, as where it is another, all is to do: who looks is told."""
    try:
        return PreparedRun.find(config)
    except DatasetError as error:
        logger.warning("%s; what was made of it counts as to do", error)
        return None


def _models(config: DemixConfig, stage: str) -> tuple[str, ...] | None:
    if stage == "components":
        return tuple(config.datasets)
    if stage != "references":
        return None
    from nemo_demix.fidelity.references import reference_names

    return tuple(name for _, name, _ in reference_names(config))


def _done(run: PreparedRun, stage: str) -> tuple[bool, ...]:
    if stage == "prepare":
        return (True,)
    if stage == "base":
        return (run.base.is_done,)
    if stage == "components":
        return tuple(job.is_done for job in run.components)
    if stage == "references":
        return tuple(job.is_done for job in _references(run))
    if stage == "verify":
        return (is_done(fidelity_path(run.config), verify_fingerprint(run, _references(run))),)
    path = search_folder(run.config) / "mixture.json"
    searched = is_done(path, search_fingerprint(run))
    if stage == "search" or not searched:
        return (searched,)
    mixture = read_json(path)
    jobs = run.finals(final_shares(run, mixture))
    expected = final_fingerprint(run, mixture, jobs, load_fidelity(run))
    return (is_done(run.folder / "final" / "result.json", expected),)


def _references(run: PreparedRun) -> list[TrainJob]:
    from nemo_demix.fidelity.references import draw_references, jobs_of

    return jobs_of(run, draw_references(run))
