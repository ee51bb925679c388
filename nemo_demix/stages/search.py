"""`search`: from models to a mixture. Imported scores do not come here: they need neither ranks nor torch."""

import logging

from nemo_demix.artifacts import is_done
from nemo_demix.config import DemixConfig
from nemo_demix.errors import refuse
from nemo_demix.fidelity.record import load_fidelity, macro_seeds_std
from nemo_demix.prepared import PreparedRun
from nemo_demix.ranks.groups import RankGroups
from nemo_demix.search.identity import search_fingerprint
from nemo_demix.search.record import Facts, mixture_record, write_mixture
from nemo_demix.search.search import Noise, run_search
from nemo_demix.search.space import search_folder, search_space
from nemo_demix.search.strategies import Problem, build_strategy, settings_errors, strategy_of
from nemo_demix.stages.trust import judge
from nemo_demix.training.jobs import TrainJob, load_model

logger = logging.getLogger(__name__)


def search_stage(config: DemixConfig) -> None:
    """Search unless the mixture of exactly this configuration is there.

    Proxies scored before are reused, by their merge weights; `force=true` scores them again.
    """
    refuse(settings_errors(config.search))
    run = PreparedRun.open(config)
    strategy = strategy_of(config.search)
    needed: tuple[TrainJob, ...] = (run.base,) if strategy.trains_proxies() else ()
    if strategy.mixes_components():
        needed = run.components
    for job in needed:
        load_model(job)
    folder = search_folder(config)
    expected = search_fingerprint(run)
    if config.force and (folder / "scores.jsonl").exists():
        kept = folder / f"scores.{len(list(folder.glob('scores.*.jsonl'))) + 1}.jsonl"
        (folder / "scores.jsonl").rename(kept)
        logger.info("search: earlier scores kept as %s", kept)
    if not config.force and is_done(folder / "mixture.json", expected):
        logger.info("search: done already")
    elif not strategy.proxies:
        _take_baseline(run, expected)
    else:
        _search(run)


def _search(run: PreparedRun) -> None:
    """Search, and judge how far the mixture is to be trusted."""
    config, fidelity = run.config, load_fidelity(run)
    shown = fidelity.get("benchmarks", {}).get("residual_std", {}) if fidelity else {}
    noise = Noise(macro_seeds_std(fidelity), {kind: stds["macro"] for kind, stds in shown.items()})
    trains = strategy_of(config.search).trains_proxies()  # that needs all ranks together
    with RankGroups(config, "search", 1) if trains else RankGroups.of_proxies(config, "search") as groups:
        record, choice = run_search(run, groups, noise)
    trust = judge(run, record["proxy"], choice.cross_validation, fidelity)
    write_mixture(search_folder(config), record | {"trust": trust}, choice)


def _take_baseline(run: PreparedRun, expected: str) -> None:
    """Write the mixture of a strategy that scores nothing: no ranks are needed."""
    config = run.config
    space = search_space(config, run.manifest, strategy_of(config.search).mixes)
    choice = build_strategy(Problem(config.search, space, config.seed)).result()
    facts = Facts(seed=config.seed, fingerprint=expected, proxy=None, is_merge=False)
    record = mixture_record(config.search, space, choice, facts)
    write_mixture(search_folder(config), record | {"trust": judge(run, None, None, None)}, choice)
