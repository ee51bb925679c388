"""Do a few training steps mend merged proxies? Merges of `fidelity.py --fresh 7`, trained on their own mixtures.

Each of the study's 24 mixtures is merged on disk, and the merge is trained on the mixture for a sixteenth of a
component's tokens: 112 such proxies cost as much as 14 components, with the 7 that they are merged from. They are
compared with that study's references, beside its merges, predictions and trained proxies. One set of components. Every
stage is the product's own and resumes; 15 minutes on one core. --quick works the figures out again from the committed
scores.
"""

from pathlib import Path
from typing import Any

from _fresh import SEED, mixtures_of, study_command
from _study import RECIPE, branch, nemo_demix, values

from nemo_demix.artifacts import read_json, write_json

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


if __name__ == "__main__":
    study_command(__doc__, HEALED, collect, BESIDE)
