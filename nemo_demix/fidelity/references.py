"""Which models `verify` trains: mixtures drawn as the search draws them, so that merged proxies can stand for them."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nemo_demix.config import DemixConfig
from nemo_demix.constraints import Constraints
from nemo_demix.errors import ConfigError, DemixError, refuse
from nemo_demix.mixture import token_proportional
from nemo_demix.prepared import PreparedRun
from nemo_demix.search.sample import sample_mixtures
from nemo_demix.training.jobs import TrainJob, blend_matrix

_STREAM = 3  # beside the search's own, so that no reference is a proxy of iteration 0


@dataclass(frozen=True)
class Reference:
    """A mixture and the data order that a model is trained with."""

    name: str  # ref_000, or ref_000_seed1 where it repeats a mixture with another data order
    mixture: str  # the name of the first reference of this mixture
    merge_weights: dict[str, float]
    data_shares: dict[str, float]
    seed: int


def verify_errors(config: DemixConfig) -> Iterator[DemixError]:
    """Yield errors for settings of `verify` that cannot be measured, and a reference of the user's own, of which it has
    no use.
    """
    settings = config.verify
    if config.reference.name:
        yield ConfigError(f"reference.name={config.reference.name}: `verify` draws its own references; leave it empty")
    if settings.references < 3:
        yield ConfigError(f"verify.references={settings.references}: expected at least 3, and 24 for a useful interval")
    for share in settings.trained_shares:
        if not 0 < share < 1:
            yield ConfigError(
                f"verify.trained_shares: expected shares above 0 and below 1, found {share}; a proxy with all of a "
                "reference's tokens is the reference"
            )
    if not 0 < settings.confidence < 1:
        yield ConfigError(f"verify.confidence={settings.confidence}: expected a share above 0 and below 1, as 0.95")
    if settings.num_bootstrap < 100:
        yield ConfigError(f"verify.num_bootstrap={settings.num_bootstrap}: expected at least 100 resamples")


def draw_references(run: PreparedRun) -> list[Reference]:
    """Return the references of a run; a larger number keeps the first ones.

    Raises:
        ConfigError: if fewer than 3 are asked for: no correlation is defined below.
    """
    config, manifest = run.config, run.manifest
    settings = config.verify
    refuse(verify_errors(config))
    # Merges of the components are what is verified, whatever strategy and constraints the search has.
    blend = blend_matrix(config)
    prior = token_proportional({name: record.num_train_tokens for name, record in manifest.datasets.items()})
    rng = np.random.default_rng([config.seed, _STREAM])
    weights_MC = sample_mixtures(config.search.sampler, prior, Constraints.none(blend), settings.references, rng)
    references = []
    for index, name, seed in reference_names(config):
        merge_weights = dict(zip(blend.components, weights_MC[index].tolist(), strict=True))
        references.append(Reference(name, f"ref_{index:03d}", merge_weights, blend.data_shares(merge_weights), seed))
    return references


def jobs_of(run: PreparedRun, references: Sequence[Reference]) -> list[TrainJob]:
    """Return the jobs of references that were drawn, in their order."""
    shares = {reference.name: reference.data_shares for reference in references}
    return run.references(shares, {reference.name: reference.seed for reference in references})


def shared_orders(references: Sequence[Reference], mixtures: Collection[str]) -> list[dict[str, str]]:
    """Return the data orders that all of these mixtures were trained in, the references' own first: in each the name of
    the model, by mixture.
    """
    orders: dict[int, dict[str, str]] = {}
    for reference in references:
        if reference.mixture in mixtures:
            orders.setdefault(reference.seed, {})[reference.mixture] = reference.name
    return [models for models in orders.values() if len(models) == len(mixtures)]


def reference_names(config: DemixConfig) -> list[tuple[int, str, int]]:
    """Return the references of a run, in order: number of the mixture, name, seed of the data order."""
    settings = config.verify
    main_seed = config.seed if config.reference.seed is None else config.reference.seed
    seeds = [main_seed, *(seed for seed in settings.seeds if seed != main_seed)]
    return [
        (index, f"ref_{index:03d}" if seed == main_seed else f"ref_{index:03d}_seed{seed}", seed)
        for index in range(settings.references)
        for seed in (seeds if index < settings.seed_references else seeds[:1])
    ]
