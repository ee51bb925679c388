"""Do a few training steps mend merged proxies? Merges of `fidelity.py --fresh 7`, trained on their own mixtures.

Each of the study's 24 mixtures is merged on disk, and the merge is trained on the mixture for a sixteenth of a
component's tokens: 112 such proxies cost as much as 14 components, with the 7 that they are merged from. They are
compared with that study's references, beside its merges, predictions and trained proxies. One set of components. Every
stage is the product's own and resumes; 15 minutes on one core. --quick works the figures out again from the committed
scores.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from _decision import DecisionStudy
from _provenance import RESULTS, finish
from _study import RECIPE, branch, nemo_demix, values
from fidelity import CONFIDENCE, FRESH, SETS, committed, study_of

from nemo_demix.artifacts import read_json, write_json
from nemo_demix.fidelity.equal_cost import equal_cost

SEED = 7  # of the study
TOKENS = 32_768
MAX_LR = 3e-4
HEALED = "healed"
BESIDE: dict[str, dict[str, Any]] = {
    "merge": {"kind": "merge", "components": "seed_0", "method": None},
    "predictions": {"kind": "predictions", "components": "seed_0"},
    "trained_eighth": {"kind": "trained", "tokens": 65_536},
    HEALED: {"kind": HEALED},
}


def collect(runs: Path) -> list[dict[str, Any]]:
    """Merge, train and score what is not there yet; a row a mixture."""
    mixtures = mixtures_of(runs)
    path, merged = runs / RECIPE / "healed.json", runs / "healed_merges"
    write_json(path, {name: row["merge_weights"] for name, row in mixtures.items()})
    nemo_demix(runs, "merge", f"seed={SEED}", f"merge.mixtures={path}", f"merge.output={merged}")
    rows = []
    for name, row in mixtures.items():
        run_name = f"{HEALED}_{name}"
        run = branch(runs, run_name, with_base=False)
        scores = run / "scores" / f"{run_name}.json"
        if not scores.exists():
            own = (f"seed={SEED}", f"base.checkpoint={merged / name}")
            shares = ",".join(f"{dataset}:{share:.12f}" for dataset, share in row["data_shares"].items())
            of_reference = (f"reference.name={HEALED}", f"reference.shares={{{shares}}}")
            amount = (f"reference.num_tokens={TOKENS}", f"reference.max_lr={MAX_LR}")
            nemo_demix(runs, "train", "role=base", *own, name=run_name)
            nemo_demix(runs, "train", "role=reference", *own, *of_reference, *amount, name=run_name)
            checkpoint = max((run / "models" / "reference" / HEALED / "checkpoints").iterdir())
            nemo_demix(runs, "score", *own, f"score.checkpoint={checkpoint}", f"score.name={run_name}", name=run_name)
        rows.append({"kind": HEALED, "name": name, "scores": values(read_json(scores)["scores"])})
    return rows


def mixtures_of(runs: Path) -> dict[str, dict[str, Any]]:
    """The study's references, each mixture once, by name."""
    references = read_json(runs / RECIPE / "verify" / "references.json")
    mixtures = {row["name"]: row for row in references if row["name"] == row["mixture"]}
    known = committed(FRESH.format(SEED))
    assert all({"kind": "mixture", **row} in known for row in mixtures.values()), f"{runs}: another study's references"
    return mixtures


def figures(rows: list[dict[str, Any]], proxies: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The figures of the decision, and linear correlations, of proxies in these rows and in the study's.

    Args:
        proxies: What to judge, by name: as `Study.macro` wants it.
    """
    given = [*committed(FRESH.format(SEED)), *rows]
    meta = next(row for row in given if row["kind"] == "meta")
    summary: dict[str, Any] = {}
    for label, (_, tail) in SETS.items():
        study = study_of(given, label, 0)
        true_R = study.macro(kind="trained", tokens=None)
        found = {key: study.macro(**one) for key, one in proxies.items()}
        cost = equal_cost(len(study.mixtures), meta["component_tokens"], meta["reference_tokens"])
        data = study.data(meta["dataset_capability"])
        deciding = DecisionStudy.of(true_R, {key: [one] for key, one in found.items()}, data, study.samples_SR, cost)
        summary |= {key: value for key, value in deciding.summary(CONFIDENCE, tail, {}).items() if "null" not in key}
        for key, proxy_R in found.items():
            summary[f"correlation{tail}_{key}"] = float(np.corrcoef(proxy_R, true_R)[0, 1])
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the study's runs are")
    parser.add_argument("--quick", action="store_true", help="the figures again, from the committed scores")
    arguments = parser.parse_args()
    if arguments.quick:
        rows = json.loads((RESULTS / "healed.json").read_text())["rows"]
    else:
        rows = collect(arguments.runs.resolve())
    finish(HEALED, arguments.quick, [SEED], rows, figures(rows, BESIDE))


if __name__ == "__main__":
    main()
