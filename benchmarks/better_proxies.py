"""Can the proxies that a run has be made better without training or scoring anything more?

Works on the committed rows of `fidelity.json`, and again on those of each `fidelity_fresh_SEED.json`, in seconds: what
seems to help on the first references has to help on others. A proxy of the score that is searched (the mean of the
capabilities' means) is compared with the trained references' own, equally weighted: by that a mixture is judged. Tried:

1. Benchmarks weighted by how much of their spread is signal. `reliability`: the share of the variance between mixtures
   that a linear law of the shares predicts for a proxy left out (at least .01), known from the proxies alone, and its
   square; `signal_to_noise`: the references' standard deviation over that between training seeds, known only after a
   `verify`; `inverse_spread`: every benchmark on the scale of its own spread; `equal`, as the search does.
2. `mean_of_both`: half a merge's score and half the mixed predictions'; the same with TIES merges, where there are any.
3. `all_sets`: the mean over the component sets, where there are several.
4. `corrected_<k>`: predictions plus a ridge regression, on the shares, of what they miss on k of the references, which
   is judged by the others; `uncorrected_<k>` and `ridge_<k>`, without predictions, on the same; drawn SPLITS times.

Summary: Spearman's rho, and the regret of the proxy's best reference (bits per byte); means over component sets, or
splits.

Axes: R references, B benchmarks, C components.
"""

import argparse
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from _provenance import RESULTS, finish
from fidelity import orders_of, own_sets
from scipy.stats import spearmanr

from nemo_demix.mixture import Array

PROXIES = ("merge", "predictions")
STUDIES = {"fidelity": "", "fidelity_fresh_7": "_7", "fidelity_fresh_11": "_11"}  # and what ends its figures' names
LEAST = 0.01
FITTED = (7, 10, 14)  # references; the components cost as much as 7
SPLITS = 400
RIDGE = 0.3  # on centred shares
Row = dict[str, Any]


class References:
    """What a study knows of its trained references."""

    def __init__(self, rows: list[Row]) -> None:
        capability_of = next(row["capability_of"] for row in rows if row["kind"] == "meta")
        self.benchmarks = [name for name in capability_of if name.startswith("benchmark/")]
        self._capabilities = np.array([capability_of[name] for name in self.benchmarks])
        self.mixtures = {row["name"]: row for row in rows if row["kind"] == "mixture"}
        trained = {row["name"]: row for row in rows if row["kind"] == "trained" and row["tokens"] is None}
        self.names = [name for name, row in self.mixtures.items() if name == row["mixture"] and name in trained]
        orders = [self.table({name: trained[model] for name, model in one.items()}) for one in orders_of(rows)]
        self.scores_RB: Array = np.mean(orders, axis=0)
        self.first_RB = orders[0]  # one model each, which is what a reference costs
        again = [name for name, row in self.mixtures.items() if name != row["mixture"] and name in trained]
        differences = np.array(
            [self._row(trained[name]) - self._row(trained[self.mixtures[name]["mixture"]]) for name in again]
        )
        # What a seed does to all mixtures alike changes no choice.
        self.seed_noise_B = (differences - differences.mean(axis=0)).std(axis=0, ddof=1) / np.sqrt(2)
        components = list(self.mixtures[self.names[0]]["merge_weights"])
        self.shares_RC = np.array([[self.mixtures[n]["merge_weights"][c] for c in components] for n in self.names])

    def _row(self, row: Row) -> Array:
        return np.array([row["scores"][name] for name in self.benchmarks])

    def table(self, rows: Mapping[str, Row]) -> Array:
        """Scores by reference and benchmark, (R, B)."""
        return np.array([self._row(rows[name]) for name in self.names])

    def macro(self, scores_RB: Array, weights_B: Array) -> Array:
        """The mean of the capabilities' means, (R,); lower is better."""
        of_each = [self._capabilities == kind for kind in dict.fromkeys(self._capabilities)]
        return np.mean([np.average(scores_RB[:, of], axis=1, weights=weights_B[of]) for of in of_each], axis=0)


def reliability(shares_RC: Array, scores_RB: Array) -> Array:
    """The share of each column's variance that a linear law of the shares predicts, each row left out once, (B,)."""
    terms = np.column_stack([np.ones(len(shares_RC)), shares_RC[:, 1:]])
    hat_RR = terms @ np.linalg.pinv(terms)
    left_out_RB = (scores_RB - hat_RR @ scores_RB) / (1 - np.diag(hat_RR))[:, None]
    return np.maximum(1 - (left_out_RB**2).mean(axis=0) / scores_RB.var(axis=0), LEAST)


def ways_of(references: References, scores_RB: Array) -> dict[str, Array]:
    """Weights of the benchmarks, (B,), by their name."""
    reliable_B = reliability(references.shares_RC, scores_RB)
    return {
        "equal": np.ones(len(reliable_B)),
        "reliability": reliable_B,
        "reliability_squared": reliable_B**2,
        "signal_to_noise": references.scores_RB.std(axis=0) / references.seed_noise_B,
        "inverse_spread": 1 / scores_RB.std(axis=0),
    }


def corrected(references: References, predicted_R: Array, true_R: Array, models_R: Array) -> list[Row]:
    """Part 4, of one component set; `models_R` are the macro scores of one model each, which is what laws are given."""
    rng = np.random.default_rng(0)
    centred_RC = references.shares_RC[:, 1:] - references.shares_RC[:, 1:].mean(axis=0)
    terms = np.column_stack([np.ones(len(centred_RC)), centred_RC])
    penalty = RIDGE * np.diag([0.0] + [1.0] * centred_RC.shape[1])
    rows = []
    for count in FITTED:
        for _ in range(SPLITS):
            order_R = rng.permutation(len(true_R))
            fitted, judged = order_R[:count], order_R[count:]

            def law(target_R: Array, fitted: Any = fitted) -> Array:
                gram = terms[fitted].T @ terms[fitted] + penalty
                return np.asarray(terms @ np.linalg.solve(gram, terms[fitted].T @ target_R[fitted]))

            ways = {
                f"uncorrected_{count}": predicted_R,
                f"corrected_{count}": predicted_R + law(models_R - predicted_R),
                f"ridge_{count}": law(models_R),
            }
            rows += [judge("predictions", way, found_R[judged], true_R[judged]) for way, found_R in ways.items()]
    return rows


def judge(proxy: str, way: str, found_R: Array, true_R: Array) -> Row:
    """How a proxy orders the references."""
    return {
        "proxy": proxy,
        "way": way,
        "rho": round(float(spearmanr(found_R, true_R).statistic), 4),
        "regret": round(float(true_R[found_R.argmin()] - true_R.min()), 5),
    }


def tried(given: list[Row]) -> tuple[list[Row], list[Row], int]:
    """All of it on one study: the rows, those of splits apart, and how many references there are."""
    references = References(given)
    equal_B = np.ones(len(references.benchmarks))
    true_R = references.macro(references.scores_RB, equal_B)

    def scores(proxy: str, components: str, method: str | None = None) -> Array:
        wanted = (proxy, components, method)
        return references.table(
            {row["name"]: row for row in given if (row["kind"], row.get("components"), row.get("method")) == wanted}
        )

    sets = own_sets(given)
    rows: list[Row] = []
    for components in sets:
        for proxy in PROXIES:
            scores_RB = scores(proxy, components)
            for way, weights_B in ways_of(references, scores_RB).items():
                found = judge(proxy, way, references.macro(scores_RB, weights_B), true_R)
                weights = dict(zip(references.benchmarks, np.round(weights_B, 3).tolist(), strict=True))
                rows.append({**found, "components": components, "weights": weights})
        both_R = references.macro((scores("merge", components) + scores("predictions", components)) / 2, equal_B)
        rows.append({**judge("both", "mean_of_both", both_R, true_R), "components": components})
    for components in sorted({row["components"] for row in given if row.get("method") == "ties"}):
        ties_RB, predictions_RB = scores("merge", components, "ties"), scores("predictions", components)
        for way, scores_RB in (("equal", ties_RB), ("mean_of_both", (ties_RB + predictions_RB) / 2)):
            found = judge("ties", way, references.macro(scores_RB, equal_B), true_R)
            rows.append({**found, "components": components})
    for proxy in PROXIES if len(sets) > 1 else ():
        mean_RB = np.mean([scores(proxy, components) for components in sets], axis=0)
        rows.append(judge(proxy, "all_sets", references.macro(mean_RB, equal_B), true_R))
    models_R = references.macro(references.first_RB, equal_B)
    splits = corrected(references, references.macro(scores("predictions", sets[0]), equal_B), true_R, models_R)
    return rows, splits, len(references.names)


def main() -> None:
    """Try all of it, and write the figures down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the same: it takes seconds")
    arguments = parser.parse_args()
    rows: list[Row] = []
    summary: dict[str, Any] = {}
    for study, tail in STUDIES.items():
        found, splits, count = tried(json.loads((RESULTS / f"{study}.json").read_text())["rows"])
        summary[f"num_references{tail}"] = count
        for proxy, way in dict.fromkeys((row["proxy"], row["way"]) for row in found + splits):
            some = [row for row in found + splits if (row["proxy"], row["way"]) == (proxy, way)]
            summary[f"rho_{proxy}_{way}{tail}"] = round(float(np.mean([row["rho"] for row in some])), 4)
            summary[f"regret_{proxy}_{way}{tail}"] = round(float(np.mean([row["regret"] for row in some])), 5)
        rows += [{**row, "study": study} for row in found]
    finish("better_proxies", arguments.quick, [0], rows, summary)


if __name__ == "__main__":
    main()
