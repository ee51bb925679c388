"""Are proxies of averaged components better? Each the mean of its last checkpoints, on `fidelity.py --fresh 7`.

The study's components are trained again, with checkpoints kept over the last quarter of their tokens, and each is
replaced by the mean of these. The 24 mixtures' merges and mixed predictions of both are compared with that study's
references. One set of components. Every stage is the product's own and resumes; 15 minutes on one core. --quick works
the figures out again from the committed scores.
"""

from pathlib import Path
from typing import Any

from _fresh import SEED, mixtures_of, study_command
from _study import RECIPE, branch, json_lines, nemo_demix, values

from nemo_demix.artifacts import read_json, write_json

AVERAGED = "averaged"
SHARES = (0.75, 0.8125, 0.875, 0.9375)  # of a component's tokens, after which a checkpoint is kept; and the last
BESIDE: dict[str, dict[str, Any]] = {
    f"{kind}{tail}": {"kind": kind, "components": components, "method": None}
    for kind in ("merge", "predictions")
    for components, tail in (("seed_0", ""), (AVERAGED, "_averaged"))
}


def collect(runs: Path) -> list[dict[str, Any]]:
    """Train, average and score what is not there yet; a row a mixture and kind of proxy."""
    mixtures = mixtures_of(runs)
    checkpoints = kept_checkpoints(runs)
    brought = {name: averaged(runs, name, paths) for name, paths in checkpoints.items()}
    name = f"{RECIPE}_{AVERAGED}"
    run = branch(runs, name)
    path = run / "mixtures.json"
    write_json(path, {key: row["merge_weights"] for key, row in mixtures.items()})
    own = (f"seed={SEED}", *(f"+components.checkpoints.{key}={one}" for key, one in brought.items()))
    nemo_demix(runs, "train", "role=component", *own, name=name)
    for proxy in ("merge", "predictions"):
        nemo_demix(runs, "score", f"score.mixtures={path}", f"search.proxy={proxy}", *own, name=name)
    return [
        {"kind": row["proxy"], "name": row["name"], "components": AVERAGED, "scores": values(row["scores"])}
        for row in json_lines(run / "scores" / "proxies.jsonl")
    ]


def kept_checkpoints(runs: Path, seed: int = SEED) -> dict[str, list[Path]]:
    """The last checkpoints of each component, trained as the study's own; all but the very last with the optimizer."""
    name = f"{RECIPE}_kept"
    run = branch(runs, name)
    records = [read_json(path) for path in (runs / RECIPE).glob("models/component/*/record.json")]
    tokens = {record["num_tokens"] for record in records}.pop()
    kept = ",".join(str(round(share * tokens)) for share in SHARES)
    nemo_demix(runs, "train", "role=component", f"seed={seed}", f"components.keep_tokens=[{kept}]", name=name)
    names = [record["name"] for record in records]
    return {one: sorted((run / "models" / "component" / one / "checkpoints").iterdir()) for one in names}


def averaged(runs: Path, name: str, paths: list[Path]) -> Path:
    """The mean of a component's checkpoints, on disk."""
    output = runs / f"{RECIPE}_kept" / AVERAGED / name
    mixtures = output.with_suffix(".json")
    write_json(mixtures, {"mean": {path.name: 1 / len(paths) for path in paths}})
    sources = (f"+merge.components.{path.name}={path}" for path in paths)
    own = (f"seed={SEED}", f"merge.mixtures={mixtures}", f"merge.output={output}", *sources)
    nemo_demix(runs, "merge", *own, name=f"{RECIPE}_kept")
    return output / "mean"


if __name__ == "__main__":
    study_command(__doc__, AVERAGED, collect, BESIDE)
