"""At one token budget, how good is a model trained on each strategy's mixture? (DeMix Table 3)

Starts from the models of benchmarks/fidelity.py, in the same --runs. Searches over merges or predictions have the
component models' tokens; regmix and climb spend as many on proxies of their own. Every search sees 100 items a
benchmark; the models trained on what they chose are scored on the study's suite, and ranked among its references. Also
here: how DeMix's answer settles as proxies are added. Every stage is the product's own and resumes; --quick works the
figures out again from the committed rows.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from _provenance import RESULTS, finish
from _study import RECIPE, branch, nemo_demix, values
from scipy import stats

from nemo_demix.artifacts import DataManifest, read_json
from nemo_demix.config import DemixConfig, load_resolved
from nemo_demix.prepared import PreparedRun
from nemo_demix.ranks.leader import launch
from nemo_demix.stages.score import score_target, targets_to_score

SEARCH_SUITE = ("suite.items_per_benchmark=100", "suite.heldout_tokens=0")
TRAINED = 14  # proxies of regmix and climb, each of half a component's tokens
STRATEGIES: dict[str, tuple[str, ...]] = {
    "demix": (),
    "mergemix": (),
    "bayes": (),
    "regmix": (f"search.iterations=[{TRAINED}]",),
    "climb": ("search.iterations=[8,4,2]",),
    "mixmin": (),
    "proportional": (),
    "equal": (),
}
SETTLE = {"28": [16, 8, 4], "56": [32, 16, 8], "112": [64, 32, 16], "224": [128, 64, 32], "448": [256, 128, 64]}
SETTLE_SEEDS = (0, 1, 2)
SEEDS = (0, 1)  # data orders of the models trained on each mixture


def collect(runs: Path) -> list[dict[str, Any]]:
    """Search, train and score whatever is not there yet."""
    rows: list[dict[str, Any]] = []
    chosen: dict[str, dict[str, float]] = {}
    for name, overrides in STRATEGIES.items():
        run_name = f"{RECIPE}_strategy_{name}"
        run = branch(runs, run_name, "models/component")
        nemo_demix(runs, "search", f"search={name}", "search.objective=mean", *SEARCH_SUITE, *overrides, name=run_name)
        mixture = read_json(run / "search" / "mixture.json")
        chosen[name] = mixture["data_shares"]
        kept = ("merge_weights", "data_shares", "intervals", "num_proxies", "predicted", "measured_macro")
        rows.append({"kind": "mixture", "strategy": name, **{key: mixture.get(key) for key in kept}})
    rows += _train_and_score(runs, chosen)
    rows += _settle(runs)
    for row in read_json(runs / RECIPE / "verify" / "references.json"):
        scores = read_json(runs / RECIPE / "scores" / f"reference_{row['name']}.json")["capabilities"]
        rows.append({"kind": "reference", "name": row["name"], "scores": values(scores)})
    return rows


def _train_and_score(runs: Path, chosen: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """One model a strategy and data order, trained as the references are."""
    name = f"{RECIPE}_finals"
    run = branch(runs, name)
    models = {f"{strategy}_seed{seed}": (shares, seed) for strategy, shares in chosen.items() for seed in SEEDS}
    for model, (shares, seed) in models.items():
        given = ",".join(f"{dataset}: {share!r}" for dataset, share in shares.items())
        overrides = [f"reference.name={model}", f"+reference.shares={{{given}}}", f"reference.seed={seed}"]
        nemo_demix(runs, "train", "role=reference", *overrides, "verify.trained_shares=[]", name=name)
    config: DemixConfig = load_resolved(run / "config.yaml")
    manifest = DataManifest.load(run / "datasets" / "manifest.json")
    targets = []
    for model, (shares, seed) in models.items():
        config.reference.name, config.reference.shares, config.reference.seed = model, shares, seed
        targets += [score_target(job) for job in PreparedRun(config, manifest).jobs("reference")]
    if todo := targets_to_score(PreparedRun(config, manifest), targets):
        launch(config, "score", {"task": "score", "targets": todo})
    return [
        {"kind": "model", "strategy": strategy, "seed": seed, "scores": values(record["capabilities"])}
        for strategy in chosen
        for seed in SEEDS
        for record in [read_json(run / "scores" / f"reference_{strategy}_seed{seed}.json")]
    ]


def _settle(runs: Path) -> list[dict[str, Any]]:
    """DeMix's mixture from 28 to 448 proxies, over mixed predictions: a merge of each would take hours here."""
    name = f"{RECIPE}_settle"
    run = branch(runs, name, "models/component")
    rows = []
    for label, iterations in SETTLE.items():
        for seed in SETTLE_SEEDS:
            overrides = ["search.iterations=" + str(iterations).replace(" ", ""), f"seed={seed}"]
            overrides += ["base.seed=0", "components.seed=0", "search.proxy=predictions", "search.objective=mean"]
            nemo_demix(runs, "search", *SEARCH_SUITE, *overrides, name=name)
            shares = read_json(run / "search" / "mixture.json")["data_shares"]
            rows.append({"kind": "settle", "num_proxies": int(label), "seed": seed, "data_shares": shares})
    return rows


def analyse(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean rank over capabilities and data orders among the references (1: better than all); how far answers differ."""
    references = [row["scores"] for row in rows if row["kind"] == "reference" and "_seed" not in row["name"]]
    summary: dict[str, Any] = {"num_references": len(references)}
    noise: list[float] = []
    paired: list[float] = []  # variances of the differences between data orders
    # The data order moves all strategies alike, so strategies are compared within one.
    plain = [macro for _, macro in sorted(_macros(rows, "proportional").items())]
    reference_macros = [float(np.mean(list(scores.values()))) for scores in references]
    for strategy in STRATEGIES:
        models = [row["scores"] for row in rows if row["kind"] == "model" and row["strategy"] == strategy]
        by_seed = [macro for _, macro in sorted(_macros(rows, strategy).items())]
        differences = np.subtract(by_seed, plain)
        for seed, difference in zip(SEEDS, differences, strict=True):
            summary[f"minus_proportional_{strategy}_seed{seed}"] = round(float(difference), 4)
        if strategy != "proportional":
            paired.append(float(np.var(differences, ddof=1)))
        # References have the first data order.
        summary[f"rank_of_macro_{strategy}"] = 1 + sum(other < by_seed[0] for other in reference_macros)
        ranks = [
            np.mean([1 + sum(other[capability] < score for other in references) for capability, score in model.items()])
            for model in models
        ]
        macros = [float(np.mean(list(model.values()))) for model in models]
        noise.append(float(np.var(macros, ddof=1)))
        summary[f"rank_macro_{strategy}"] = round(float(np.mean(ranks)), 2)
        summary[f"bits_macro_{strategy}"] = round(float(np.mean(macros)), 5)
    # 95 %, of a strategy's mean difference; the spread between data orders is pooled over the strategies.
    degrees = len(paired) * (len(SEEDS) - 1)
    half_width = stats.t.ppf(0.975, degrees) * np.sqrt(np.mean(paired) / len(SEEDS))
    summary["minus_proportional_half_width"] = round(float(half_width), 4)
    summary["bits_std_between_seeds"] = round(float(np.sqrt(np.mean(noise))), 5)
    summary["bits_best_reference"] = round(min(reference_macros), 5)
    summary["bits_median_reference"] = round(float(np.median(reference_macros)), 5)
    for label in SETTLE:
        found = [row for row in rows if row["kind"] == "settle" and row["num_proxies"] == int(label)]
        shares = [list(row["data_shares"].values()) for row in found]
        pairs = [np.abs(np.subtract(one, two)).sum() / 2 for i, one in enumerate(shares) for two in shares[i + 1 :]]
        summary[f"settle_{label}_share_apart"] = round(float(np.mean(pairs)), 4)  # of the data, between seeds
    return summary


def _macros(rows: list[dict[str, Any]], strategy: str) -> dict[int, float]:
    """Mean over capabilities of the models trained on a strategy's mixture, by data order."""
    found = [row for row in rows if row["kind"] == "model" and row["strategy"] == strategy]
    return {row["seed"]: float(np.mean(list(row["scores"].values()))) for row in found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where benchmarks/fidelity.py has its runs")
    parser.add_argument("--quick", action="store_true", help="the figures again, from the committed rows")
    arguments = parser.parse_args()
    if arguments.quick:
        rows = json.loads((RESULTS / "strategies.json").read_text())["rows"]
    else:
        rows = collect(arguments.runs.resolve())
    finish("strategies", arguments.quick, [*SEEDS], rows, analyse(rows))


if __name__ == "__main__":
    main()
