"""How well do proxies order mixtures with less general data than half? And can the paper's components reach them?

A study as `fidelity.py --fresh`: a base of its own, 24 references in two data orders, of mixtures that components of
beta .25 reach; most have less than half of general data. Compared with them are proxies of these components: linear
merges, merges by second moments, mixed predictions. A second set of the same base has the paper's beta of .5. Most of
the mixtures are beyond it: the weights whose data shares are the mixture's own have a negative one, of the general
component. Compared are proxies with such weights, and with the nearest that are not below 0: merges, and mixed
predictions, whose probabilities are held above 1e-5. One set of components each. Every stage is the product's own and
resumes; two hours on one core. --quick works the figures out again from the committed scores.
"""

from pathlib import Path
from typing import Any

import numpy as np
from _decision import with_interval
from _fresh import given_rows
from _provenance import finish
from _study import RECIPE, branch, nemo_demix, values
from fidelity import CONFIDENCE, SETS, collect, deciding_of, meta_row, proxy_rows, score_mixtures, study_of

from nemo_demix.artifacts import read_json, write_json
from nemo_demix.config import load_resolved
from nemo_demix.fidelity.decision import rho_difference
from nemo_demix.mixture import BlendMatrix
from nemo_demix.prepared import PreparedRun
from nemo_demix.scoring.suite import build_suite
from nemo_demix.search.proxies.predictions import token_weights
from nemo_demix.training.jobs import blend_matrix

REACH, NEGATIVE, EDGE, FISHER = "reach", "negative", "edge", "fisher"
SEED = 13
OWN = (f"seed={SEED}", "components.beta=0.25", "verify.seeds=[1]", "verify.trained_shares=[]")
KEPT = (f"seed={SEED}", "components.beta=0.25", "components.save_optimizer=true", f"merge.method={FISHER}")
PAPERS = (f"seed={SEED}", "components.beta=0.5")
OF_FISHER, OF_PAPER = f"{RECIPE}_{FISHER}", f"{RECIPE}_b50"
STAND_INS: dict[str, dict[str, Any]] = {
    f"{kind}{tail}": {"kind": kind, "components": components, "method": method}
    for kind in ("merge", "predictions")
    for tail, components, method in (
        ("", "seed_0", None),
        (f"_{NEGATIVE}", "beta_50", NEGATIVE),
        (f"_{EDGE}", "beta_50", EDGE),
    )
} | {FISHER: {"kind": "merge", "components": "seed_0", "method": FISHER}}
PAIRS = [(f"{kind}_{NEGATIVE}", f"{kind}{other}") for kind in ("merge", "predictions") for other in ("", f"_{EDGE}")]
PAIRS += [(FISHER, "merge"), (FISHER, "predictions")]  # whose rho is compared
LEAST = 1e-5  # of a mixed probability: of 2,048 tokens, one guessed blindly has 5e-4


def collect_all(runs: Path) -> list[dict[str, Any]]:
    """Train and score what is not there yet; one row a model or proxy, with its scores by name."""
    rows = [*collect(runs, 1, (), *OWN), meta_row(runs)]
    mixtures = {row["name"]: row for row in rows if row["kind"] == "mixture" and row["name"] == row["mixture"]}
    run = branch(runs, OF_FISHER)
    nemo_demix(runs, "train", "role=component", *KEPT, name=OF_FISHER)
    score_mixtures(runs, OF_FISHER, {name: row["merge_weights"] for name, row in mixtures.items()}, *KEPT)
    rows += proxy_rows(run, mixtures, {"components": "seed_0", "method": FISHER})

    run = branch(runs, OF_PAPER, "models/component/general")
    nemo_demix(runs, "train", "role=component", *PAPERS, name=OF_PAPER)
    blend = blend_matrix(load_resolved(run / "config.yaml"))
    nearest = {name: blend.merge_weights_for(row["data_shares"])[0] for name, row in mixtures.items()}
    score_mixtures(runs, OF_PAPER, nearest, *PAPERS)
    score_mixtures(runs, OF_PAPER, nearest, *PAPERS, "search.proxy=predictions")
    rows += proxy_rows(run, mixtures, {"components": "beta_50", "method": EDGE})
    exact = {name: exact_weights(blend, row["data_shares"]) for name, row in mixtures.items()}
    rows += [{"kind": "weights", "name": name, "merge_weights": weights} for name, weights in exact.items()]
    merged, predicted = merged_scores(runs, exact), predicted_scores(run, exact)
    rows += [{**STAND_INS[f"merge_{NEGATIVE}"], "name": name, "scores": one} for name, one in merged.items()]
    rows += [{**STAND_INS[f"predictions_{NEGATIVE}"], "name": name, "scores": one} for name, one in predicted.items()]
    return rows


def exact_weights(blend: BlendMatrix, shares: dict[str, float]) -> dict[str, float]:
    """The one set of weights whose data shares these are, some perhaps below 0; they sum to 1."""
    weights_C = np.linalg.solve(blend.rows_CD.T, [shares[name] for name in blend.datasets])
    return dict(zip(blend.components, weights_C.tolist(), strict=True))


def merged_scores(runs: Path, mixtures: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Scores of merges on disk, by mixture."""
    run = runs / OF_PAPER
    path, merged = run / f"{NEGATIVE}.json", run / NEGATIVE
    write_json(path, mixtures)
    anything = ("merge.any_weights=true", f"merge.mixtures={path}", f"merge.output={merged}")
    nemo_demix(runs, "merge", *PAPERS, *anything, name=OF_PAPER)
    found = {}
    for name in mixtures:
        scored = run / "scores" / f"{NEGATIVE}_{name}.json"
        if not scored.exists():
            of_merge = (f"score.checkpoint={merged / name}", f"score.name={scored.stem}")
            nemo_demix(runs, "score", *PAPERS, *of_merge, name=OF_PAPER)
        found[name] = values(read_json(scored)["scores"])
    return found


def predicted_scores(run: Path, mixtures: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Scores of mixed predictions with any weights, by mixture: what `nemo-demix score` stored of the components."""
    prepared = PreparedRun.open(load_resolved(run / "config.yaml"))
    members = token_weights(build_suite(prepared.config.suite, prepared.manifest))
    names = [job.name for job in prepared.components]
    (folder,) = (run / "search" / "predictions").iterdir()
    probabilities_CT = np.exp(np.stack([np.load(folder / f"{name}.npy") for name in names]).astype(np.float64))
    found = {}
    for name, weights in mixtures.items():
        mixed_T = np.array([weights[one] for one in names]) @ probabilities_CT
        bits_T = -np.log2(np.maximum(mixed_T, LEAST))
        found[name] = {score: round(float(bits_T[tokens] @ each), 6) for score, (tokens, each) in members.items()}
    return found


def all_figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of the decision, how far the stand-ins are apart, and how many mixtures are beyond the paper's."""
    summary: dict[str, Any] = {}
    for label, (_, tail) in SETS.items():
        proxies = {name: [one] for name, one in STAND_INS.items()}
        deciding = deciding_of(rows, study_of(rows, label, 0), proxies)
        summary |= {key: value for key, value in deciding.summary(CONFIDENCE, tail, {}).items() if "null" not in key}
        for one, other in PAIRS:
            apart = rho_difference(deciding.whole[one], deciding.whole[other], CONFIDENCE)
            summary |= with_interval(f"objective_rho{tail}_{one}_minus_{other}", apart)
    least = [min(row["merge_weights"].values()) for row in rows if row["kind"] == "weights"]
    return summary | {"num_references": len(least), "num_beyond": sum(one < 0 for one in least), "least": min(least)}


if __name__ == "__main__":
    is_quick, found_rows = given_rows(__doc__, REACH, collect_all)
    finish(REACH, is_quick, [SEED], found_rows, all_figures(found_rows))
