"""The final run against its prediction and against the baselines, paired by benchmark item."""

from dataclasses import asdict
from typing import Any

from nemo_demix.artifacts import read_json, write_json
from nemo_demix.fidelity.record import load_fidelity, macro_seeds_std
from nemo_demix.prepared import PreparedRun
from nemo_demix.scoring.scores import combined, compare, compare_capabilities
from nemo_demix.scoring.store import load_scores
from nemo_demix.scoring.suite import build_suite
from nemo_demix.search.baselines import CHOSEN


def write_outcome(run: PreparedRun, expected_fingerprint: str) -> None:
    """Write `final/result.json` from the scores of the final models.

    Raises:
        DemixError: if a final model is not scored.
    """
    folder = run.folder / "final"
    mixture = read_json(run.folder / "search" / "mixture.json")
    suite = build_suite(run.config.suite, run.manifest)
    models: dict[str, Any] = {}
    items = {}
    for name in read_json(folder / "shares.json"):
        record, items[name] = load_scores(run.config, f"final_{name}")
        capabilities = record["capabilities"]
        models[name] = {
            "capabilities": capabilities,
            "macro": sum(score["score"] for score in capabilities.values()) / len(capabilities),
            "scores": record["scores"],
        }
    # Both models of a comparison are really trained: no proxy and no predictor stands between them.
    seeds_std = macro_seeds_std(load_fidelity(run))
    comparisons = {}
    for name in models:
        if name != CHOSEN:
            comparisons[name] = combined(compare(suite, items[CHOSEN], items[name]), seeds_std, predictor_std=0.0)
            by_capability = compare_capabilities(suite, items[CHOSEN], items[name])
            comparisons[name]["capabilities"] = {capability: asdict(one) for capability, one in by_capability.items()}
    write_json(
        folder / "result.json",
        {
            "models": models,
            "predicted": mixture["predicted"],
            "proxy": mixture["measured"],
            "chosen_minus": comparisons,
            "fingerprint": expected_fingerprint,
        },
    )
