"""All rules about a configuration, in the order of its sections."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from nemo_demix.check.capabilities import capability_errors, capability_warnings
from nemo_demix.check.checkpoints import checkpoint_errors
from nemo_demix.check.places import place_errors
from nemo_demix.cluster.executors import executor_errors
from nemo_demix.cluster.site import load_site
from nemo_demix.cluster.submit import option_errors
from nemo_demix.config import DemixConfig
from nemo_demix.config.limits import limit_errors
from nemo_demix.config.models import BACKENDS
from nemo_demix.config.overrides import override_errors, stage_config
from nemo_demix.config.stages import STAGES
from nemo_demix.config.tracking import track_errors
from nemo_demix.constraints import Budget, Constraints
from nemo_demix.datasets.benchmarks import BENCHMARKS, first_item_errors
from nemo_demix.datasets.identity import data_errors, tokenizer_errors
from nemo_demix.datasets.lengths import length_errors
from nemo_demix.datasets.sources import source_errors
from nemo_demix.datasets.tasks import task_file_errors
from nemo_demix.errors import ConfigError, DemixError, found_by, near
from nemo_demix.fidelity.references import verify_errors
from nemo_demix.memory_check import known_shape
from nemo_demix.merging.methods import build_method
from nemo_demix.merging.settings import merge_errors
from nemo_demix.mixture import load_mixtures, token_proportional
from nemo_demix.model_shape import check_layout
from nemo_demix.prepared import PreparedRun
from nemo_demix.runtime.backend import backend_errors
from nemo_demix.runtime.ranks import layout_errors
from nemo_demix.runtime.recipe import factory_errors, known_vocab_size
from nemo_demix.scoring.external.settings import external_errors
from nemo_demix.scoring.identity import suite_errors
from nemo_demix.scoring.suite import heldout_errors, judged_errors
from nemo_demix.search.advice import merge_warnings
from nemo_demix.search.imported import read_problem
from nemo_demix.search.layout import proxy_groups, proxy_layout
from nemo_demix.search.reach import reach_warnings
from nemo_demix.search.rules import space_errors
from nemo_demix.search.space import token_counts
from nemo_demix.search.strategies import settings_errors, strategy_of
from nemo_demix.training.jobs import (
    batch_errors,
    blend_errors,
    blend_matrix,
    budget_errors,
    proxy_settings,
    reference_settings,
)


def mistakes(config: DemixConfig) -> list[DemixError]:
    """Return everything that is known to be wrong before a stage runs; each once, in the order of the configuration.

    Cost: the first record of every source, brought checkpoints' metadata, the files that are named.
    """
    found: dict[str, DemixError] = {}
    for rule in _RULES:
        for error in rule(config):
            found.setdefault(str(error), error)
    return list(found.values())


def warnings_of(config: DemixConfig) -> list[str]:
    """Return what may well be meant, and often is not; what depends on the data's tokens once they are prepared."""
    found = list(capability_warnings(config))
    if not strategy_of(config.search).mixes_components():
        return found
    run = PreparedRun.find(config)
    if run is not None:
        found += reach_warnings(run)
    if run is None or not all(job.is_done for job in run.components):
        found += merge_warnings(config)
    return found


def _data(config: DemixConfig) -> Iterator[DemixError]:
    yield from data_errors(config)
    for name, dataset in config.datasets.items():
        for number, source in enumerate(dataset.sources):
            yield from source_errors(source, f"datasets.{name}.sources[{number}]")
    yield from tokenizer_errors(config)
    yield from length_errors(config)


def _suite(config: DemixConfig) -> Iterator[DemixError]:
    yield from suite_errors(config.suite)
    for name, benchmark in config.suite.benchmarks.items():
        yield from first_item_errors(name, benchmark)
    for name, task in config.suite.tasks.items():
        yield from task_file_errors(name, task)
    for name, external in config.suite.external.items():
        yield from external_errors(name, external)
    yield from heldout_errors(config)
    yield from judged_errors(config.suite, {name: one.num_items for name, one in BENCHMARKS.items()})
    yield from capability_errors(config)


def _model(config: DemixConfig) -> Iterator[DemixError]:
    if config.backend not in BACKENDS:  # told by `limit_errors`
        return
    yield from backend_errors(config)
    yield from factory_errors(config.model, config.backend)
    for stage in ("", *STAGES):
        try:
            own = stage_config(config, stage) if stage else config
        except ConfigError:  # told by `override_errors`
            continue
        if own is config and stage:
            continue
        for error in (*layout_errors(own.parallel), *batch_errors(own)):
            yield ConfigError(f"launch.jobs.{stage}: {error}") if stage else error
    if any(layout_errors(config.parallel)):
        return
    yield from found_by(lambda: known_vocab_size(config, config.tokenizer.vocab_size))
    shape = known_shape(config)
    if shape is not None:
        yield from found_by(lambda: check_layout(shape, config.parallel))
    if strategy_of(config.search).mixes_components():
        errors = list(found_by(lambda: proxy_groups(config)))
        yield from errors
        if shape is not None and not errors and config.search.tensor:
            yield from found_by(lambda: check_layout(shape, proxy_layout(config)))


def _training(config: DemixConfig) -> Iterator[DemixError]:
    yield from blend_errors(config)
    roles = {"base": config.base, "final": config.final}
    strategy = strategy_of(config.search)
    if strategy.mixes_components() or config.launch.verify:
        roles["components"] = config.components
    if config.launch.verify or config.reference.name:
        roles["reference"] = reference_settings(config)
    if strategy.trains_proxies() and sum(config.search.iterations) > 0:
        roles["search.trained"] = proxy_settings(config, sum(config.search.iterations))
    for name, role in roles.items():
        yield from budget_errors(config, name, role)
    if config.component is not None and config.component not in config.datasets:
        yield ConfigError(
            f"component={config.component}: expected one of {', '.join(config.datasets)}"
            f"{near(config.component, config.datasets)}"
        )
    plain = config if config.launch.verify else replace(config, reference=replace(config.reference, name=""))
    yield from verify_errors(plain)


def _search(config: DemixConfig) -> Iterator[DemixError]:
    yield from settings_errors(config.search)
    yield from space_errors(config)
    if any(blend_errors(config)) or any(space_errors(config)):
        return
    settings = config.search.constraints
    tokens = prepared_tokens(config)
    if tokens is None:  # how often a dataset is repeated, and its share of all tokens, is known when it is prepared
        settings = replace(settings, max_epochs=None, max_epochs_of={}, max_kl=None)
    if settings != type(settings)():
        budget = None if tokens is None else Budget(config.final.num_tokens, tokens)
        prior = None if tokens is None else token_proportional(tokens)
        yield from found_by(lambda: Constraints.build(settings, blend_matrix(config), budget, prior))


def prepared_tokens(config: DemixConfig) -> dict[str, int] | None:
    """Return training tokens of each dataset, where this configuration is prepared; else None."""
    try:
        run = PreparedRun.find(config)
    except DemixError:
        return None
    return None if run is None else token_counts(run.manifest)


def _merging(config: DemixConfig) -> Iterator[DemixError]:
    merge, brought = config.merge, config.merge.components
    yield from found_by(
        lambda: build_method(
            merge.method, merge.parameters, merge.seed, max(2, len(brought or config.datasets)), has_base=True
        )
    )
    yield from merge_errors(config)
    for key, path in (("merge.mixtures", merge.mixtures), ("score.mixtures", config.score.mixtures)):
        if path is not None:
            names = list(brought or config.datasets)
            for error in found_by(lambda path=path, names=names: load_mixtures(Path(path), names)):  # type: ignore[misc]
                yield type(error)(f"{key}: {error}")


def _imported(config: DemixConfig) -> Iterator[DemixError]:
    if config.search.imported.scores is not None:
        yield from found_by(lambda: read_problem(config))


def _launch(config: DemixConfig) -> Iterator[DemixError]:
    yield from track_errors(config.track)
    yield from override_errors(config)
    yield from option_errors(config.launch)
    yield from executor_errors(config)
    if config.launch.site is not None:
        yield from found_by(lambda: load_site(config.launch.site, Path()))


_RULES: tuple[Callable[[DemixConfig], Iterator[DemixError]], ...] = (
    limit_errors,
    place_errors,
    _data,
    _suite,
    _model,
    _training,
    _search,
    _merging,
    _imported,
    checkpoint_errors,
    _launch,
)
