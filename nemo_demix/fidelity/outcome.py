"""The final run against its prediction and against the baselines, paired by data order and benchmark item."""

from collections.abc import Sequence
from typing import Any

from nemo_demix.artifacts import read_json, write_json
from nemo_demix.fidelity.record import load_fidelity, macro_seeds_std
from nemo_demix.prepared import PreparedRun
from nemo_demix.scoring.items import ModelItems
from nemo_demix.scoring.scores import (
    combined,
    compare,
    compare_capabilities,
    compare_heldout,
    macro,
    mean_items,
    score_report,
)
from nemo_demix.scoring.store import load_scores
from nemo_demix.scoring.suite import Suite, build_suite
from nemo_demix.search.baselines import CHOSEN
from nemo_demix.training.jobs import final_name, final_seeds


def write_outcome(run: PreparedRun, expected_fingerprint: str) -> None:
    """Write `final/result.json` from the scores of the final models.

    Raises:
        DemixError: if a final model is not scored.
    """
    config = run.config
    folder = run.folder / "final"
    mixture = read_json(run.folder / "search" / "mixture.json")
    suite = build_suite(config.suite, run.manifest)
    models: dict[str, Any] = {}
    items: dict[str, list[ModelItems]] = {}  # by data order
    for name in read_json(folder / "shares.json"):
        named = [f"final_{final_name(config, name, seed)}" for seed in final_seeds(config)]
        items[name] = [load_scores(config, one)[1] for one in named]
        report = score_report(suite, mean_items(items[name]))
        models[name] = {**report, "macro": macro(report["capabilities"])}
    # Both models of a comparison are really trained: no proxy and no predictor stands between them.
    seeds_std = macro_seeds_std(load_fidelity(run))
    comparisons = {name: _comparison(suite, items[CHOSEN], items[name], seeds_std) for name in models if name != CHOSEN}
    write_json(
        folder / "result.json",
        {
            "models": models,
            "seeds": final_seeds(config),
            "predicted": mixture["predicted"],
            "proxy": mixture["measured"],
            "chosen_minus": comparisons,
            "same_as_chosen": [name for name in config.final.baselines if name not in models],
            "fingerprint": expected_fingerprint,
        },
    )


def _comparison(
    suite: Suite, chosen: Sequence[ModelItems], baseline: Sequence[ModelItems], seeds_std: float | None
) -> dict[str, Any]:
    """Return the chosen mixture minus a baseline, of the mean over data orders: macro, by capability, on held-out text.

    Args:
        chosen: Items of the chosen mixture's models, one a data order.
        baseline: The same of the baseline's, in the same orders.
        seeds_std: Standard deviation of one model's macro score between data orders, where `verify` measured it.
    """
    pairs = list(zip(chosen, baseline, strict=True))
    mean = mean_items(chosen), mean_items(baseline)
    orders = [compare(suite, *pair).difference for pair in pairs]
    by_order = [compare_capabilities(suite, *pair) for pair in pairs]
    capabilities = {
        name: combined(one, None, predictor_std=0.0, orders=[found[name].difference for found in by_order])
        for name, one in compare_capabilities(suite, *mean).items()
    }
    heldout = None
    if (apart := compare_heldout(suite, *mean)) is not None:
        found = [one.difference for pair in pairs if (one := compare_heldout(suite, *pair)) is not None]
        heldout = combined(apart, None, predictor_std=0.0, orders=found)
    whole = combined(compare(suite, *mean), seeds_std, predictor_std=0.0, orders=orders)
    return {**whole, "orders": orders, "capabilities": capabilities, "heldout": heldout}
