"""Predictors: how fast LightGBM is, and how well every kind ranks mixtures it has not seen.

Three parts, the last two where there is data for them:
- speed: a fit of 18 targets on 448 mixtures and 200,000 predictions, as wall and CPU time, and the predictions as a
  ratio to LightGBM's own on one thread; on random mixtures of 7 components, since only sizes matter for time;
- RegMix's public data (--regmix DIR: a copy of github.com/sail-sg/regmix, whose data/ holds the tables): fitted on
  their 512 models of 1M parameters, and on subsets of them, and tested on their 256 others;
- a search's own scores (--scores FILE: the scores.jsonl of a run): repeated K-fold.

NOTEBOOK are the figures that RegMix's regression_fitting/regression.ipynb prints (its cell 13, commit b004d3a), as
Spearman's rho in percent, in the order of the columns. Their LightGBM stops early on the test set that it is then
scored on; ours never sees it.
"""

import argparse
import csv
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _provenance import finish

from nemo_demix.config import PredictorConfig
from nemo_demix.mixture import Array
from nemo_demix.prediction.cross_validation import cross_validate, spearman
from nemo_demix.prediction.lightgbm_model import fit
from nemo_demix.prediction.predictors import PREDICTORS, fit_predictor
from nemo_demix.search.proxy_row import read_rows

TARGETS, POINTS, COMPONENTS, POOL = 18, 448, 7, 200_000
NOTEBOOK = (99.6, 99.71, 99.08, 99.45, 97.2, 99.77, 99.73, 99.18, 98.92, 96.87, 98.51, 99.19, 99.12)
SIZES = (28, 112, 512)
KINDS: dict[str, PredictorConfig] = {
    **{kind: PredictorConfig(kind=kind) for kind in PREDICTORS},
    "lightgbm, tuned": PredictorConfig(tune=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the pool, two sizes and three targets")
    parser.add_argument("--regmix", type=Path, help="a copy of the repository sail-sg/regmix")
    parser.add_argument("--scores", type=Path, help="scores.jsonl of a finished search")
    parser.add_argument("--repeats", type=int, default=3, help="timings, of which the fastest counts")
    arguments = parser.parse_args()
    rows = speed(arguments.quick, arguments.repeats)
    fastest = min(rows, key=lambda row: row["wall_s"])
    summary: dict[str, Any] = {key: round(fastest[key], 3) for key in ("wall_s", "cpu_s", "ratio_to_lightgbm")}
    skipped = {}
    if arguments.regmix:
        found = regmix(arguments.regmix / "data", arguments.quick)
        rows += found
        summary["regmix_notebook_rho"] = round(float(np.mean(NOTEBOOK)) / 100, 4)
        summary["regmix_rho"] = {
            name: {
                row["points"]: round(float(np.mean(list(row["rho"].values()))), 4)
                for row in found
                if row["kind"] == name
            }
            for name in dict.fromkeys(row["kind"] for row in found)
        }
    else:
        skipped["regmix"] = "no --regmix DIR: its tables are not part of this repository"
    if arguments.scores:
        found = own_scores(arguments.scores)
        rows += found
        summary["own_rho_macro"] = {row["kind"]: row["rho_macro"] for row in found}
    else:
        skipped["scores"] = "no --scores FILE"
    finish("predictors", arguments.quick, [0], rows, {**summary, "skipped": skipped})


def speed(quick: bool, repeats: int) -> list[dict[str, Any]]:
    """Wall and CPU time of a fit and a prediction of the pool, and LightGBM's own time for one target."""
    rng = np.random.default_rng(0)
    weights_MC = rng.dirichlet(np.ones(COMPONENTS), size=POINTS)
    pool_XC = rng.dirichlet(np.ones(COMPONENTS), size=POOL // 5 if quick else POOL)
    scores = {str(n): np.sqrt(weights_MC + 0.01) @ rng.normal(size=COMPONENTS) for n in range(TARGETS)}
    booster = fit(PredictorConfig(), weights_MC, scores["0"], 0).booster
    rows = []
    for _ in range(1 if quick else repeats):
        own = timed(lambda: booster.predict(pool_XC, num_threads=1))
        fitted = timed(lambda: fit_predictor(PredictorConfig(), weights_MC, scores, 0))
        predictor = fit_predictor(PredictorConfig(), weights_MC, scores, 0)
        predicted = timed(lambda predictor=predictor: predictor.predict(pool_XC))
        rows.append(
            {
                "part": "speed",
                "targets": TARGETS,
                "points": POINTS,
                "components": COMPONENTS,
                "pool": len(pool_XC),
                "wall_s": fitted[0] + predicted[0],
                "cpu_s": fitted[1] + predicted[1],
                "fit_cpu_s": fitted[1],
                "predict_cpu_s": predicted[1],
                "lightgbm_one_target_cpu_s": own[1],
                "ratio_to_lightgbm": predicted[1] / (TARGETS * own[1]),
                "load_average": os.getloadavg()[0],  # wall time means something only below the number of cores
            }
        )
        print(rows[-1])
    return rows


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def regmix(data: Path, quick: bool) -> list[dict[str, Any]]:
    """Spearman's rho on the 256 test models, by kind and number of models that it was fitted on."""
    weights_MC, scores = tables(data / "train_mixture_1m.csv", data / "train_pile_loss_1m.csv")
    held_XC, measured = tables(data / "test_mixture_1m.csv", data / "test_pile_loss_1m.csv")
    order_M = np.random.default_rng(0).permutation(len(weights_MC))
    targets = list(scores)[:: 6 if quick else 1]
    rows = [
        {
            "part": "regmix",
            "kind": "notebook (early stopping on the test set)",
            "points": 512,
            "rho": {name: rho / 100 for name, rho in zip(scores, NOTEBOOK, strict=True) if name in targets},
        }
    ]
    for points in (56, 112) if quick else SIZES:
        kept_M = order_M[:points]
        kept = {name: scores[name][kept_M] for name in targets}
        for name, config in KINDS.items():
            start = time.process_time()
            predictor = fit_predictor(config, weights_MC[kept_M], kept, 0)
            fit_cpu_s = time.process_time() - start
            predicted, spread = predictor.predict(held_XC), predictor.predict_std(held_XC)
            error = {target: predicted[target] - measured[target] for target in targets}
            rows.append(
                {
                    "part": "regmix",
                    "kind": name,
                    "points": points,
                    "rho": {target: spearman(measured[target], predicted[target]) for target in targets},
                    "rmse": {target: float(np.sqrt(np.mean(error[target] ** 2))) for target in targets},
                    "share_within_2_std": {
                        target: float(np.mean(np.abs(error[target]) <= 2 * spread[target])) for target in targets
                    },
                    "chosen": predictor.chosen,
                    "fit_cpu_s": fit_cpu_s,
                }
            )
            print(points, name, {key: np.round(np.mean(list(rows[-1][key].values())), 4) for key in ("rho", "rmse")})
    return rows


def tables(mixtures: Path, losses: Path) -> tuple[Array, dict[str, Array]]:
    """Shares, (M, C), and losses by validation set; shares are rounded there, so each row is divided by its sum."""
    by_index = {row["index"]: row for row in csv.DictReader(mixtures.open())}
    pairs = [(by_index[row["index"]], row) for row in csv.DictReader(losses.open())]
    shares_MC = np.array([[float(value) for name, value in row.items() if name != "index"] for row, _ in pairs])
    columns = [name for name in pairs[0][1] if name != "index"]
    scores = {
        name.removeprefix("metric/the_pile_").removesuffix("_val_loss"): np.array(
            [float(row[name]) for _, row in pairs]
        )
        for name in columns
    }
    return shares_MC / shares_MC.sum(axis=1, keepdims=True), scores


def own_scores(path: Path) -> list[dict[str, Any]]:
    """Repeated K-fold of every kind on a search's proxies."""
    proxies = [proxy for proxy in read_rows(path) if proxy.is_ok]
    components = sorted({name for proxy in proxies for name in proxy.merge_weights})
    weights_MC = np.array([[proxy.merge_weights.get(name, 0.0) for name in components] for proxy in proxies])
    names = [name for name in proxies[0].scores if all(name in proxy.scores for proxy in proxies)]
    scores = {name: np.array([proxy.scores[name].score for proxy in proxies]) for name in names}
    rows = []
    for kind, config in KINDS.items():
        found = cross_validate(config, weights_MC, scores, {name: name for name in names}, 0)
        rows.append(
            {
                "part": "scores",
                "kind": kind,
                "points": len(proxies),
                "rho_macro": found.rho_macro,
                "rho_top_macro": found.rho_top_macro,
                "rmse_macro": found.rmse_macro,
                "rho": found.benchmark_rho,
                "rmse": found.benchmark_rmse,
            }
        )
    return rows


if __name__ == "__main__":
    main()
