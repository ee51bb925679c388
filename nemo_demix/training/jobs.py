"""What is to be trained: one job a model, with the fingerprint of all that can change its weights.

Jobs are worked out from the configuration and the manifest alone, so that what is done and what is stale is known
before any rank is started.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from nemo_demix.artifacts import DataManifest, ModelRecord, canonical_json, fingerprint, is_done, load_record
from nemo_demix.checkpoints.saved import checkpoint_fingerprint
from nemo_demix.checkpoints.store import checkpoint_path
from nemo_demix.config import DemixConfig, ReferenceConfig, RoleConfig, TrainedProxiesConfig
from nemo_demix.errors import ConfigError, DemixError, found_by, near, refuse
from nemo_demix.mixture import BlendMatrix, check_simplex
from nemo_demix.runtime.backend import backend_errors
from nemo_demix.runtime.steps import step_folder
from nemo_demix.training.parts import Part, dataset_parts

FORMAT = 1  # raise when training changes in a way that earlier checkpoints do not share


@dataclass(frozen=True)
class TrainJob:
    """One model to train, or to adopt where `adopt` names an existing checkpoint."""

    role: str
    name: str
    backend: str  # that trains it
    folder: Path
    blend: dict[str, float]  # data shares, by dataset name
    parts: dict[str, Part]  # by dataset name, what the model is shown of it; one left out is shown in full
    seed: int  # of the data order
    num_steps: int
    num_tokens: int
    max_lr: float
    min_lr: float
    warmup_steps: int
    keep_steps: tuple[int, ...]
    checkpoint_every_steps: int
    start: Path | None  # weights come from this checkpoint; delta is measured against it
    load_optimizer: bool
    save_optimizer: bool  # keep the optimizer state in the finished checkpoint: a later role, or a merge, uses it
    adopt: Path | None
    inputs: dict[str, Any]  # what the fingerprint is of, as plain values
    fingerprint: str

    @property
    def claim_path(self) -> Path:
        """Says which configuration the unfinished content of the folder belongs to."""
        return self.folder / "job.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of this job's checkpoints."""
        return self.folder / "checkpoints"

    @property
    def vetted(self) -> Path:
        """What stands for the checkpoint that this job starts or resumes from, while it runs."""
        return self.folder / ".vetted"

    @property
    def checkpoint(self) -> Path:
        """The finished model, whether it exists yet or not."""
        return (self.adopt or self.step_folder(self.num_steps)).resolve()

    def step_folder(self, step: int) -> Path:
        """Return where the checkpoint after `step` optimizer steps lies."""
        return step_folder(self.checkpoints, step, self.backend)

    @property
    def record_path(self) -> Path:
        """Where the record is, which is written last."""
        return self.folder / "record.json"

    @property
    def is_done(self) -> bool:
        """Whether the record of exactly this job exists."""
        return is_done(self.record_path, self.fingerprint)


def model_folder(config: DemixConfig, role: str, name: str) -> Path:
    """Return `runs/<name>/models/<role>/<model name>`."""
    return config.run_dir / "models" / role / name


def load_model(job: TrainJob) -> ModelRecord:
    """Return the record of a trained model.

    Raises:
        ConfigError: if it is not trained yet, or by another configuration.
    """
    if not job.is_done:
        stale = "was made by another configuration" if job.record_path.exists() else "does not exist yet"
        command = f"nemo-demix train role={job.role}"
        raise ConfigError(f"{job.record_path}: {stale}; run `{command}` (or `nemo-demix run`) with this recipe first")
    return load_record(job.record_path, ModelRecord)


def component_blend(config: DemixConfig, name: str) -> dict[str, float]:
    """Return the blend component `name` is trained on: beta general and the rest its own dataset (DeMix §3)."""
    settings = config.components
    if name in settings.blends:
        return check_simplex(settings.blends[name], list(config.datasets), f"components.blends.{name}")
    refuse(beta_errors(config))
    if name == settings.general:
        return {name: 1.0}
    return {settings.general: settings.beta, name: 1.0 - settings.beta} if settings.beta else {name: 1.0}


def beta_errors(config: DemixConfig) -> Iterator[DemixError]:
    """Yield what is wrong with what all components share: which dataset is the general one, and its share."""
    settings = config.components
    if settings.general not in config.datasets:
        yield ConfigError(
            f"components.general={settings.general}: no such dataset; expected one of {', '.join(config.datasets)}"
            f"{near(settings.general, config.datasets)}"
        )
    if not 0 <= settings.beta < 1:
        yield ConfigError(f"components.beta={settings.beta}: expected a share in [0, 1)")


def blend_matrix(config: DemixConfig) -> BlendMatrix:
    """Return the blend each component is trained on, as the matrix that turns merge weights into data shares."""
    blends = {name: component_blend(config, name) for name in config.datasets}
    return BlendMatrix.from_blends(blends, list(config.datasets))


def blend_paths(
    blend: Mapping[str, float], manifest: DataManifest, split: str, parts: Mapping[str, Part] | None = None
) -> list[str]:
    """Return Megatron's data-path list of a split (train | heldout): weight prefix weight prefix ...; one prefix stands
    alone.

    Args:
        parts: What to take in the place of whole training sets, by dataset name.
    Raises:
        ConfigError: if a dataset of the blend has no held-out documents and they are asked for.
    """
    prefixes = {}
    for name in blend:
        record = manifest.datasets[name]
        prefix = record.train_prefix if split == "train" else record.heldout_prefix
        if parts and split == "train" and name in parts:
            prefix = parts[name].prefix
        if prefix is None:
            raise ConfigError(f"datasets.{name} has no held-out documents; give its source a `heldout` prefix")
        prefixes[name] = prefix
    if len(blend) == 1:
        return list(prefixes.values())
    return [item for name, share in blend.items() for item in (repr(share), prefixes[name])]


def base_job(config: DemixConfig, manifest: DataManifest) -> TrainJob:
    """Return the shared base model."""
    blend = config.base.blend or {config.components.general: 1.0}
    return _job(config, manifest, "base", "base", config.base, blend, None, config.base.checkpoint)


def component_jobs(config: DemixConfig, manifest: DataManifest, base: TrainJob) -> list[TrainJob]:
    """Return one component model a candidate dataset, each continued from the base."""
    settings = config.components
    refuse(component_name_errors(config))
    return [
        _job(
            config, manifest, "component", name, settings, component_blend(config, name), base,
            settings.checkpoints.get(name),
        )
        for name in config.datasets
    ]  # fmt: skip


def component_name_errors(config: DemixConfig) -> Iterator[DemixError]:
    """Yield errors for brought components, and blends of such, that are of no dataset."""
    for section in ("checkpoints", "blends"):
        for name in getattr(config.components, section):
            if name not in config.datasets:
                yield ConfigError(
                    f"components.{section}.{name}: no dataset {name}; expected one of {', '.join(config.datasets)}"
                    f"{near(name, config.datasets)}"
                )


def blend_errors(config: DemixConfig) -> Iterator[DemixError]:
    """Yield what is wrong with the shares that models are trained on, as far as the configuration gives them."""
    datasets = list(config.datasets)
    yield from beta_errors(config)
    yield from component_name_errors(config)
    for name, blend in config.components.blends.items():
        yield from found_by(partial(check_simplex, blend, datasets, f"components.blends.{name}"))
    if config.base.blend:
        yield from found_by(partial(check_simplex, config.base.blend, datasets, "base.blend"))
    if config.reference.shares:
        yield from found_by(partial(check_simplex, config.reference.shares, datasets, "reference.shares"))


def reference_settings(config: DemixConfig) -> ReferenceConfig:
    """Return the references' budget and schedule: what is not set is as for the components."""
    settings, components = config.reference, config.components
    return replace(
        settings, num_tokens=settings.num_tokens or components.num_tokens, max_lr=settings.max_lr or components.max_lr
    )


def reference_job(config: DemixConfig, manifest: DataManifest, base: TrainJob) -> TrainJob:
    """Return a model trained on the one mixture that `reference.name` and `reference.shares` give."""
    settings = reference_settings(config)
    if not settings.name or not settings.shares:
        raise ConfigError(
            "train role=reference: set reference.name, reference.shares; or run `nemo-demix verify`, which draws some"
        )
    return _job(config, manifest, "reference", settings.name, settings, settings.shares, base, None)


def reference_jobs(
    config: DemixConfig,
    manifest: DataManifest,
    base: TrainJob,
    shares: Mapping[str, Mapping[str, float]],
    seeds: Mapping[str, int],
) -> list[TrainJob]:
    """Return the references of `verify`: one a mixture and seed, with the checkpoints that serve as trained proxies.

    Args:
        shares: Data shares, by reference name.
        seeds: Seeds of the data order, by reference name.
    """
    settings = reference_settings(config)
    kept = [round(share * settings.num_tokens) for share in config.verify.trained_shares]
    settings = replace(settings, keep_tokens=sorted({*settings.keep_tokens, *kept}))
    return [
        _job(config, manifest, "reference", name, replace(settings, seed=seeds[name]), blend, base, None)
        for name, blend in shares.items()
    ]


def proxy_settings(config: DemixConfig, num_proxies: int) -> TrainedProxiesConfig:
    """Return the budget and schedule of each of so many trained proxies: the components' tokens in all, shared between
    them.

    Raises:
        ConfigError: if there is no proxy to share them between.
    """
    settings, components = config.search.trained, config.components
    if num_proxies < 1:
        raise ConfigError(f"search.iterations={config.search.iterations}: expected at least one trained proxy")
    shared = components.num_tokens * len(config.datasets) // num_proxies
    return replace(settings, num_tokens=settings.num_tokens or shared, max_lr=settings.max_lr or components.max_lr)


def proxy_job(
    config: DemixConfig, manifest: DataManifest, base: TrainJob, shares: Mapping[str, float], num_proxies: int
) -> TrainJob:
    """Return a proxy trained on data shares, one of `num_proxies`; named after its shares: the same are
    trained once.
    """
    given = check_simplex(shares, list(manifest.datasets), "data shares of a trained proxy")
    blend = {dataset: share for dataset, share in given.items() if share > 0}
    name = f"p_{fingerprint(shares=blend)[:8]}"
    return _job(config, manifest, "proxy", name, proxy_settings(config, num_proxies), blend, base, None)


def final_jobs(
    config: DemixConfig, manifest: DataManifest, base: TrainJob, shares: Mapping[str, Mapping[str, float]]
) -> list[TrainJob]:
    """Return the final run on the chosen mixture, and the baselines beside it, each in every data order.

    Args:
        shares: Data shares, by the name of what is compared.
    """
    return [
        _job(
            config,
            manifest,
            "final",
            final_name(config, name, seed),
            replace(config.final, seed=seed),
            blend,
            base,
            None,
        )
        for name, blend in shares.items()
        for seed in final_seeds(config)
    ]


def final_seeds(config: DemixConfig) -> list[int]:
    """Return seeds of the data orders that the final run and its baselines are trained in; the first is the run's."""
    main_seed = config.seed if config.final.seed is None else config.final.seed
    return list(dict.fromkeys([main_seed, *config.final.seeds]))


def final_name(config: DemixConfig, name: str, seed: int) -> str:
    """Return the name of a final model: `mixture`, or `mixture_seed1` in another data order than the run's."""
    return name if seed == final_seeds(config)[0] else f"{name}_seed{seed}"


def batch_errors(config: DemixConfig) -> Iterator[DemixError]:
    """Yield errors for a batch that does not divide over micro-batches and data-parallel ranks."""
    train, data = config.train, config.parallel.data
    per_step = train.micro_batch_size * data
    if per_step > 0 and train.global_batch_size % per_step:
        yield ConfigError(
            f"train.global_batch_size={train.global_batch_size}: expected a multiple of "
            f"train.micro_batch_size={train.micro_batch_size} x parallel.data={data} = {per_step}"
        )


def budget_errors(config: DemixConfig, role: str, settings: RoleConfig) -> Iterator[DemixError]:
    """Yield errors for a budget of less than a step, or checkpoints kept beyond its end.

    Args:
        role: The role that the settings are of, for the message.
    """
    tokens_per_step = config.train.global_batch_size * config.train.seq_length
    num_steps = settings.num_tokens // max(1, tokens_per_step)
    if num_steps < 1:
        yield ConfigError(
            f"{role}: num_tokens={settings.num_tokens} is less than one step of {tokens_per_step} "
            "(train.global_batch_size x train.seq_length)"
        )
    elif settings.keep_tokens and max(1, round(max(settings.keep_tokens) / tokens_per_step)) > num_steps:
        yield ConfigError(f"{role}: keep_tokens={max(settings.keep_tokens)} is beyond num_tokens={settings.num_tokens}")


def _job(
    config: DemixConfig,
    manifest: DataManifest,
    role: str,
    name: str,
    settings: RoleConfig,
    blend: Mapping[str, float],
    start: TrainJob | None,
    adopt: str | None,
) -> TrainJob:
    """Return a job from a role's settings and a blend.

    Raises:
        ConfigError: if the budget is below one step, or a kept token count is not within it.
        MixtureError: if the blend is not on the simplex of the datasets.
        CheckpointError: if a checkpoint to adopt is not there.
    """
    refuse(backend_errors(config))
    refuse(batch_errors(config))
    refuse(budget_errors(config, role, settings))
    shares = check_simplex(blend, list(manifest.datasets), f"blend of {role}/{name}")
    shares = {dataset: share for dataset, share in shares.items() if share > 0}
    tokens_per_step = config.train.global_batch_size * config.train.seq_length
    num_steps = settings.num_tokens // tokens_per_step
    keep = tuple(sorted({max(1, round(tokens / tokens_per_step)) for tokens in settings.keep_tokens}))
    every = config.train.checkpoint_every_tokens
    continued = (config.components, config.reference, config.search.trained, config.final)
    save_optimizer = role == "base" and any(later.load_optimizer for later in continued)
    save_optimizer |= role == "component" and config.components.save_optimizer
    seed = config.seed if settings.seed is None else settings.seed
    parts = dataset_parts(config, manifest, shares) if role == "component" and adopt is None else {}
    inputs = {
        "format": FORMAT,
        "role": role,
        "name": name,
        "model": config.model,
        "train": {key: getattr(config.train, key) for key in ("global_batch_size", "seq_length", "precision")},
        "tokenizer": manifest.tokenizer["fingerprint"],
        "blend": {dataset: (share, manifest.datasets[dataset].fingerprint) for dataset, share in shares.items()},
        "num_steps": num_steps,
        "schedule": (settings.max_lr, settings.min_lr_ratio, settings.warmup_share),
        "keep": keep,
        "start": start.fingerprint if start else None,
        "load_optimizer": settings.load_optimizer,
        "save_optimizer": save_optimizer,
        "adopt": checkpoint_fingerprint(checkpoint_path(adopt)) if adopt else None,
        "seed": seed,
    }
    if parts:
        inputs["parts"] = {dataset: (part.num_tokens, config.seed) for dataset, part in parts.items()}
    if config.backend != "nemo":  # what was trained before there was a choice stays known
        inputs["backend"] = config.backend
    return TrainJob(
        role=role,
        name=name,
        backend=config.backend,
        folder=model_folder(config, role, name),
        blend=shares,
        parts=parts,
        seed=seed,
        num_steps=num_steps,
        num_tokens=num_steps * tokens_per_step,
        max_lr=settings.max_lr,
        min_lr=settings.max_lr * settings.min_lr_ratio,
        warmup_steps=max(1, round(settings.warmup_share * num_steps)) if settings.warmup_share else 0,
        keep_steps=keep,
        checkpoint_every_steps=max(1, every // tokens_per_step if every else -(-num_steps // 10)),
        start=start.checkpoint if start else None,
        load_optimizer=settings.load_optimizer,
        save_optimizer=save_optimizer,
        adopt=checkpoint_path(adopt) if adopt else None,
        inputs=json.loads(canonical_json(inputs)),
        fingerprint=fingerprint(**inputs),
    )
