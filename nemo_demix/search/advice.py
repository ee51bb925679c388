"""What is better known before components are trained than after."""

from collections.abc import Iterator

from nemo_demix.config import DemixConfig, MergeConfig
from nemo_demix.merging.methods import METHODS
from nemo_demix.search.space import model_scores
from nemo_demix.search.strategies import proxy_plan, strategy_of


def merge_warnings(config: DemixConfig) -> Iterator[str]:
    """Yield a warning where merges will choose by a method that was left at its default, and another serves better
    there (benchmarks/results/decision.json). The strategy is one that takes the best proxies there are: who chose a
    published one has chosen its merges too.
    """
    if "auto" not in strategy_of(config.search).proxies or proxy_plan(config).chosen_by != "merge":
        return
    is_trained = any(name not in config.components.checkpoints for name in config.datasets)
    if config.merge.method != MergeConfig().method or not is_trained:
        return
    better = " or ".join(f"merge.method={name}" for name, method in METHODS.items() if method.uses_moments)
    why = f"{', '.join(model_scores(config))} cannot be had from mixed predictions"
    if config.search.proxy == "merge":
        why = "search.proxy=merge"
    before = "" if config.components.save_optimizer else " with components.save_optimizer=true, before they are trained"
    yield (
        f"merged proxies will choose the mixture ({why}), and merge.method={config.merge.method} exaggerates what a "
        f"component is good at, so that floors are held by the wrong scale. Set {better}{before}"
    )
