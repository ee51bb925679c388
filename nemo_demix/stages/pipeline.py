"""The stages of a run in order, what each waits for, and what of it is done, by the stages' own fingerprints."""

from collections.abc import Sequence
from dataclasses import dataclass

from nemo_demix.artifacts import DataManifest, is_done, read_json
from nemo_demix.config import DemixConfig
from nemo_demix.config.overrides import stage_config
from nemo_demix.datasets.identity import expected_fingerprint
from nemo_demix.fidelity.record import fidelity_path, load_fidelity
from nemo_demix.search.identity import search_fingerprint
from nemo_demix.search.space import search_folder
from nemo_demix.search.strategies import strategy_of
from nemo_demix.stages.identity import final_fingerprint, final_shares, verify_fingerprint
from nemo_demix.training.jobs import TrainJob, base_job, component_jobs, final_jobs, reference_jobs


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
    """The stages that this run has, each after those it waits for.

    The search is last but one; what it needs depends on its strategy: component models, or the base alone. A plain
    mixture needs neither, but only one stage at a time may hold the run, so it waits for the base too.

    Raises:
        ConfigError: if an override of launch.jobs.<stage> cannot be applied.
    """
    after: dict[str, tuple[str, ...]] = {"prepare": (), "base": ("prepare",)}
    if strategy_of(config.search).mixes_components() or config.launch.verify:
        after["components"] = ("base",)
    if config.launch.verify:
        after |= {"references": ("base",), "verify": ("components", "references")}
    before_search = [name for name in ("components", "verify") if name in after]
    after |= {"search": tuple(before_search) or ("base",), "final": ("search",)}

    manifest = prepared(config)
    stages = []
    for name, parents in after.items():
        own = stage_config(config, name)
        models = _models(own, name)
        nothing = (False,) * (1 if models is None else len(models))
        done = nothing if manifest is None else _done(own, manifest, name)
        stages.append(PipelineStage(name, parents, own, models, done))
    return stages


def trained_jobs(stages: Sequence[PipelineStage]) -> list[TrainJob]:
    """The base and the components that these stages train, where the data are prepared."""
    found: list[TrainJob] = []
    for stage in stages:
        if stage.name in ("base", "components") and (manifest := prepared(stage.config)) is not None:
            is_base = stage.name == "base"
            found += [base_job(stage.config, manifest)] if is_base else component_jobs(stage.config, manifest)
    return found


def prepared(config: DemixConfig) -> DataManifest | None:
    """What `prepare` made of this configuration; None where it is to do."""
    path = config.run_dir / "datasets" / "manifest.json"
    return DataManifest.load(path) if path.exists() and is_done(path, expected_fingerprint(config)) else None


def _models(config: DemixConfig, stage: str) -> tuple[str, ...] | None:
    if stage == "components":
        return tuple(config.datasets)
    if stage != "references":
        return None
    from nemo_demix.fidelity.references import reference_names

    return tuple(name for _, name, _ in reference_names(config))


def _done(config: DemixConfig, manifest: DataManifest, stage: str) -> tuple[bool, ...]:
    if stage == "prepare":
        return (True,)
    if stage == "base":
        return (base_job(config, manifest).is_done,)
    components = component_jobs(config, manifest)
    if stage == "components":
        return tuple(job.is_done for job in components)
    if stage == "references":
        return tuple(job.is_done for job in _references(config, manifest))
    if stage == "verify":
        expected = verify_fingerprint(config, manifest, components, _references(config, manifest))
        return (is_done(fidelity_path(config), expected),)
    path = search_folder(config) / "mixture.json"
    searched = is_done(path, search_fingerprint(config, manifest, components))
    if stage == "search" or not searched:
        return (searched,)
    mixture = read_json(path)
    jobs = final_jobs(config, manifest, final_shares(config, manifest, mixture))
    expected = final_fingerprint(config, manifest, mixture, jobs, load_fidelity(config, components))
    return (is_done(config.run_dir / "final" / "result.json", expected),)


def _references(config: DemixConfig, manifest: DataManifest) -> Sequence[TrainJob]:
    from nemo_demix.fidelity.references import draw_references

    references = draw_references(config, manifest)
    shares = {reference.name: reference.data_shares for reference in references}
    return reference_jobs(config, manifest, shares, {reference.name: reference.seed for reference in references})
