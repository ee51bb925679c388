"""How many benchmark items does the choice of a mixture need?

Reads a finished run of `search=recommended` (--run), whose components' predictions are there; nothing is scored again.
The mixture is chosen from a share of the items that were searched, drawn without replacement in each benchmark, SEEDS
times: the exact optimum of mixed predictions, with and without the default floors. It is compared, on the judged items
(no search saw them) and by mixed predictions of these, with the choice from all searched items. Differences of trained
models are not measured here.

What is scored is told in passes over the suite's items by one model: a search by predictions scores each component
once; one that scores merged proxies besides, as `search.proxy=auto` does, each proxy too. The mixture is the same:
merges change nothing in what predictions choose.

Summary, for each share s: `excess_<s>` (mean over draws of the macro score on judged items, bits per byte, above that
of the choice from all), `excess_<s>_sd` between draws, the same as `..._unfloored_...`; `gain`, that of all items'
choice over the proportional mixture, negative is better; `distance_<s>`, half the sum of absolute differences of merge
weights; `passes_<s>` against `passes_with_merges`.

Axes: C components.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _provenance import finish

from nemo_demix.artifacts import DataManifest, read_json
from nemo_demix.config import load_resolved
from nemo_demix.mixture import Array
from nemo_demix.prepared import PreparedRun
from nemo_demix.scoring.identity import PROXY_USES
from nemo_demix.scoring.suite import Suite, build_suite
from nemo_demix.search.convex import Limit, best_prediction_mixture
from nemo_demix.search.proxies.predictions import PredictionProxies
from nemo_demix.search.ranking import floor_weights, floors_of
from nemo_demix.search.space import search_space
from nemo_demix.search.token_predictions import TokenPredictions

SHARES = (1 / 2, 1 / 3, 1 / 6, 1 / 12)
SEEDS = 40
Row = dict[str, Any]


class Choices:
    """Optimums of mixed predictions of a run, from some of its items."""

    def __init__(self, folder: Path) -> None:
        config, manifest = load_resolved(folder / "config.yaml"), DataManifest.load(folder / "datasets/manifest.json")
        config.runs_dir = str(folder.parent)
        run = PreparedRun(config, manifest)
        self.space = search_space(config, manifest)
        self.floors = floors_of(config.search, self.space)
        self.baseline_C = floor_weights(config.search, self.space)
        self.searched = build_suite(config.suite, manifest, PROXY_USES)
        self._judged = build_suite(config.suite, manifest, None)
        self.predictions = _tokens(run, self.searched, PROXY_USES)
        self._of_judged = _tokens(run, self._judged, None)

    def some(self, share: float, rng: np.random.Generator) -> TokenPredictions:
        """The predictions with a share of each benchmark's items; the others count nothing."""
        weights, offsets_R = dict(self.predictions.token_weights), self.predictions.offsets_R
        for name, (rows, _) in self.searched.members.items():
            kept = rng.choice(len(rows), max(1, round(share * len(rows))), replace=False)
            counts = np.zeros(len(rows))
            counts[kept] = len(rows) / len(kept)
            tokens, weights_T = weights[name]
            weights[name] = (tokens, weights_T * np.repeat(counts, [offsets_R[r + 1] - offsets_R[r] for r in rows]))
        return replace(self.predictions, token_weights=weights)

    def best(self, predictions: TokenPredictions, floored: bool) -> Array:
        """Merge weights of the optimum, (C,); floors are counted by the same predictions."""
        shares = self.searched.shares
        limits = []
        for name, floor in self.floors.items() if floored else ():
            scores = predictions.scores_MB(self.baseline_C[None], list(shares[name]))
            least = sum(share * float(scores[score][0]) for score, share in shares[name].items())
            limits.append(Limit(shares[name], least + floor))
        return best_prediction_mixture(predictions, _macro(shares), self.space.constraints, limits).weights_C

    def judged(self, weights_C: Array) -> float:
        """Its macro score on the judged items, bits per byte."""
        objective = _macro(self._judged.shares)
        scores = self._of_judged.scores_MB(weights_C[None], list(objective))
        return sum(weight * float(scores[name][0]) for name, weight in objective.items())


def _macro(shares: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {name: share / len(shares) for members in shares.values() for name, share in members.items()}


def _tokens(run: PreparedRun, suite: Suite, uses: tuple[str, ...] | None) -> TokenPredictions:
    return PredictionProxies(run, suite, uses)._predictions


def main() -> None:
    """Draw, choose, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"), help="a finished run")
    parser.add_argument("--quick", action="store_true", help="two draws")
    arguments = parser.parse_args()
    choices = Choices(arguments.run)
    num_components = len(choices.space.blend.components)
    num_proxies = read_json(arguments.run / "search/mixture.json")["num_proxies"]
    plain = choices.judged(choices.baseline_C)
    rows: list[Row] = []
    summary: dict[str, Any] = {"passes_with_merges": num_components + num_proxies, "passes_1": num_components}
    for floored, mark in ((True, ""), (False, "_unfloored")):
        all_C = choices.best(choices.predictions, floored)
        of_all = choices.judged(all_C)
        summary[f"gain{mark}"] = round(of_all - plain, 5)
        for share in SHARES:
            found = []
            for seed in range(2 if arguments.quick else SEEDS):
                weights_C = choices.best(choices.some(share, np.random.default_rng([seed, round(1 / share)])), floored)
                row = {"share": round(share, 4), "floored": floored, "seed": seed}
                row |= {"excess": round(choices.judged(weights_C) - of_all, 6)}
                row |= {"distance": round(float(abs(weights_C - all_C).sum()) / 2, 4)}
                found.append(row | {"merge_weights": np.round(weights_C, 4).tolist()})
            rows += found
            name = f"1_{round(1 / share)}"
            summary[f"passes_{name}"] = round(num_components * share, 2)
            excess = [row["excess"] for row in found]
            summary[f"excess{mark}_{name}"] = round(float(np.mean(excess)), 5)
            summary[f"excess{mark}_{name}_sd"] = round(float(np.std(excess, ddof=1)), 5)
            summary[f"distance{mark}_{name}"] = round(float(np.mean([row["distance"] for row in found])), 3)
    finish("items", arguments.quick, list(range(SEEDS)), rows, summary)


if __name__ == "__main__":
    main()
