"""Are merges better that weigh each component's parameters by their curvature? On `fidelity.py --fresh 7` and `11`.

A parameter of a merge is sum(alpha h theta) / sum(alpha h) over the components, where theta is a component's finished
value and h the second moment that Adam kept of its gradients, one sixteenth of the training before the end: a component
has a say where its loss is sensitive. h is damped by a thousandth of its tensor's mean, so that parameters without
gradients are merged linearly. The studies' components are trained again as `averaged.py` does, and the merges of the 24
mixtures are written, brought as components, and scored one-hot. They are compared with the references, linear merges
and mixed predictions of the same first set of components. Every stage is the product's own and resumes, but the merging
itself; 15 minutes a study on one core. --quick works the figures out again from the committed scores.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from _fresh import figures, mixtures_of
from _provenance import RESULTS, finish
from _study import RECIPE, branch, json_lines, nemo_demix, values
from averaged import kept_checkpoints

from nemo_demix.artifacts import write_json

CURVATURE = "curvature"
STUDIES = (7, 11)
DAMPING = 1e-3  # of the mean second moment of a tensor, over the components
MOMENT = "optimizer.state.exp_avg_sq."
BESIDE: dict[str, dict[str, Any]] = {
    "merge": {"kind": "merge", "components": "seed_0", "method": None},
    "predictions": {"kind": "predictions", "components": "seed_0"},
    CURVATURE: {"kind": CURVATURE},
}
Tensors = dict[str, torch.Tensor]


def tensors(checkpoint: Path, prefix: str) -> Tensors:
    """The tensors of a checkpoint of ours whose names begin so, by the rest of the name.

    Read by torch: the product's own reader leaves the optimizer's state out.
    """
    weights = checkpoint / "weights"
    metadata = dcp.FileSystemReader(weights).read_metadata().state_dict_metadata
    found = {
        name: torch.empty(tuple(one.size), dtype=one.properties.dtype)
        for name, one in metadata.items()
        if name.startswith(prefix) and isinstance(one, dcp.metadata.TensorStorageMetadata)
    }
    dcp.load(found, storage_reader=dcp.FileSystemReader(weights), no_dist=True)
    return {name.removeprefix(prefix): tensor for name, tensor in found.items()}


def merge(weights: dict[str, float], values_of: dict[str, Tensors], moments_of: dict[str, Tensors]) -> Tensors:
    """The merge of components with these weights, by curvature."""
    merged = {}
    for key in next(iter(values_of.values())):
        damping = DAMPING * torch.stack([moments[key].mean() for moments in moments_of.values()]).mean()
        share = {name: weight * (moments_of[name][key] + damping) for name, weight in weights.items()}
        total = torch.stack(list(share.values())).sum(dim=0)
        merged[key] = torch.stack([share[name] * values_of[name][key] for name in weights]).sum(dim=0) / total
    return merged


def write(merged: Tensors, target: Path, like: Path) -> None:
    """Write a merge beside the small files of a component's checkpoint."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(like / "context", partial / "context")
    named = {f"module.{key}": tensor for key, tensor in merged.items()}
    dcp.save(named, storage_writer=dcp.FileSystemWriter(partial / "weights"), no_dist=True)
    for name in ("common.pt", "metadata.json"):
        shutil.copy(like / "weights" / name, partial / "weights" / name)
    partial.rename(target)


def collect(runs: Path, seed: int) -> list[dict[str, Any]]:
    """Train, merge and score what is not there yet; a row a mixture."""
    mixtures = mixtures_of(runs, seed)
    names = list(next(iter(mixtures.values()))["merge_weights"])
    ends = {one: next((runs / RECIPE / "models" / "component" / one / "checkpoints").iterdir()) for one in names}
    merges = {mixture: runs / CURVATURE / mixture for mixture in mixtures}
    missing = [mixture for mixture, path in merges.items() if not path.exists()]
    if missing:
        kept = kept_checkpoints(runs, seed)
        moments = {one: tensors(kept[one][-2], f"{MOMENT}module.") for one in names}  # the last has none
        finished = {one: tensors(path, "module.") for one, path in ends.items()}
        for mixture in missing:
            write(merge(mixtures[mixture]["merge_weights"], finished, moments), merges[mixture], ends[names[0]])
    rows = []
    todo = list(mixtures)
    for first in range(0, len(todo), len(names)):
        some = dict(zip(names, todo[first : first + len(names)], strict=False))
        brought = {one: merges[some.get(one, todo[first])] for one in names}
        name = f"{RECIPE}_{CURVATURE}_{first}"
        run = branch(runs, name)
        write_json(run / "mixtures.json", {mixture: {one: 1.0} for one, mixture in some.items()})
        own = (f"seed={seed}", *(f"+components.checkpoints.{one}={path}" for one, path in brought.items()))
        nemo_demix(runs, "train", "role=component", *own, name=name)
        nemo_demix(runs, "score", f"score.mixtures={run / 'mixtures.json'}", *own, name=name)
        scored = {row["name"]: values(row["scores"]) for row in json_lines(run / "scores" / "proxies.jsonl")}
        rows += [{"kind": CURVATURE, "name": one, "study": seed, "scores": scored[one]} for one in some.values()]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs=2, help="where the runs of `--fresh 7` and of `--fresh 11` are")
    parser.add_argument("--quick", action="store_true", help="the figures again, from the committed scores")
    arguments = parser.parse_args()
    if arguments.quick:
        rows = json.loads((RESULTS / f"{CURVATURE}.json").read_text())["rows"]
    elif arguments.runs:
        studies = zip(STUDIES, arguments.runs, strict=True)
        rows = [row for seed, runs in studies for row in collect(runs.resolve(), seed)]
    else:
        parser.error("--runs RUNS_7 RUNS_11, or --quick")
    summary: dict[str, Any] = {}
    for seed in STUDIES:
        summary |= figures([row for row in rows if row["study"] == seed], BESIDE, seed, f"_{seed}")
    finish(CURVATURE, arguments.quick, [*STUDIES], rows, summary)


if __name__ == "__main__":
    main()
