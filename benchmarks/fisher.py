"""Are merges better that weigh each element by the components' curvature? On `fidelity.py --fresh 7` and `11`.

The studies' components are trained again, with the optimizer's state kept (`components.save_optimizer=true`), and the
24 mixtures' merges by `merge.method=fisher` are scored, with the default damping and with another. They are compared
with the references, linear merges and mixed predictions of the same sets of components: two of the first study, one of
the other. Every stage is the product's own and resumes; 20 minutes a set on one core. `--only SEED` trains and scores
one study's and writes nothing, so that two can run side by side; --quick works the figures out again from the committed
scores.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _decision import DecisionStudy, with_interval
from _fresh import decided, figures, mixtures_of
from _provenance import RESULTS, finish
from _study import RECIPE, branch, json_lines, nemo_demix, values
from fidelity import CONFIDENCE, SETS

from nemo_demix.artifacts import write_json
from nemo_demix.fidelity.decision import rho_difference

FISHER = "fisher"
STUDIES: dict[int, dict[str, tuple[str, ...]]] = {  # sets of components, by study: overrides
    7: {"seed_0": (), "seed_1": ("components.seed=1",)},
    11: {"seed_0": ()},
}
DAMPINGS = {FISHER: 1e-3, "fisher_damped": 1e-1}


def collect(runs: Path, seed: int) -> list[dict[str, Any]]:
    """Train and score what is not there yet; a row a set of components, damping and mixture."""
    mixtures = mixtures_of(runs, seed)
    rows = []
    for components, overrides in STUDIES[seed].items():
        name = f"{RECIPE}_{FISHER}_{components}"
        run = branch(runs, name)
        own = (f"seed={seed}", "components.save_optimizer=true", f"merge.method={FISHER}", *overrides)
        nemo_demix(runs, "train", "role=component", *own, name=name)
        for method, damping in DAMPINGS.items():
            named = {f"{method}:{mixture}": row["merge_weights"] for mixture, row in mixtures.items()}
            write_json(run / "mixtures.json", named)
            asked = (f"score.mixtures={run / 'mixtures.json'}", f"+merge.parameters.damping={damping}")
            nemo_demix(runs, "score", *own, *asked, name=name)
            scored = {row["name"]: values(row["scores"]) for row in json_lines(run / "scores" / "proxies.jsonl")}
            of_set = {"kind": "merge", "method": method, "components": components, "study": seed}
            rows += [{**of_set, "name": one, "scores": scored[f"{method}:{one}"]} for one in mixtures]
    return rows


def beside(seed: int) -> dict[str, list[dict[str, Any]]]:
    """What is judged of a study: by name, the rows of each set of components."""
    found: dict[str, list[dict[str, Any]]] = {
        "merge": [{"kind": "merge", "components": one, "method": None} for one in STUDIES[seed]],
        "predictions": [{"kind": "predictions", "components": one} for one in STUDIES[seed]],
    }
    return found | {
        method: [{"kind": "merge", "components": one, "method": method} for one in STUDIES[seed]] for method in DAMPINGS
    }


def all_figures(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of the decision, by study; and how far such merges are above others, over both."""
    summary: dict[str, Any] = {}
    of_study = {seed: [row for row in rows if row["study"] == seed] for seed in STUDIES}
    for seed, own in of_study.items():
        summary |= figures(own, beside(seed), seed, f"_{seed}")
    for label, (_, tail) in SETS.items():
        each = [decided(own, beside(seed), label, seed, draw) for draw, (seed, own) in enumerate(of_study.items())]
        judged = DecisionStudy.joined(each).whole
        for other in ("merge", "predictions"):
            above = rho_difference(judged[FISHER], judged[other], CONFIDENCE)
            summary |= with_interval(f"objective_rho{tail}_{FISHER}_minus_{other}", above)
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", help="where the runs of `--fresh 7` and of `--fresh 11` are")
    parser.add_argument("--only", type=int, choices=list(STUDIES), help="the one study that --runs is of")
    parser.add_argument("--quick", action="store_true", help="the figures again, from the committed scores")
    arguments = parser.parse_args()
    if arguments.only is not None and arguments.runs and len(arguments.runs) == 1:
        collect(arguments.runs[0].resolve(), arguments.only)
        return
    if arguments.quick:
        rows = json.loads((RESULTS / f"{FISHER}.json").read_text())["rows"]
    elif arguments.runs and len(arguments.runs) == len(STUDIES):
        studies = zip(STUDIES, arguments.runs, strict=True)
        rows = [row for seed, runs in studies for row in collect(runs.resolve(), seed)]
    else:
        parser.error("--runs RUNS_7 RUNS_11, or --runs RUNS --only SEED, or --quick")
    finish(FISHER, arguments.quick, [*STUDIES], rows, all_figures(rows))


if __name__ == "__main__":
    main()
