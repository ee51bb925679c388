"""How far from the best mixture does a search end, on truths that are known? Predictors and optimisers, regret.

Five truths: a log-linear law; a power law with repetition; a Gaussian process through the merges that a finished
search really scored (--run); its components' mixed predictions, exact (--run); and RegMix's public 768 trained models
(--regmix), as a stack of predictors that was fitted on all of them. A search sees the truth with a little noise, at
mixtures that DeMix's own steps ask for; then each way of choosing is given the same rows. Beside them `recommended`
where merges choose: as many scores, of which all but the first step's are asked for where they may improve, and the
minimum over these. Regret: truth of the choice minus the least truth there is, as a share of the range of the truth
between its best and its median mixture.

Axes: X mixtures, C components.
"""

import argparse
import json
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _provenance import finish
from predictors import tables

from nemo_demix.artifacts import DataManifest, read_json
from nemo_demix.config import BayesConfig, PredictorConfig, SearchConfig, load_resolved
from nemo_demix.constraints import Constraints
from nemo_demix.mixture import Array, BlendMatrix
from nemo_demix.prediction.predictors import fit_predictor
from nemo_demix.prepared import PreparedRun
from nemo_demix.scoring.identity import PROXY_USES
from nemo_demix.scoring.items import Score
from nemo_demix.scoring.suite import build_suite
from nemo_demix.search.choose import POOL_STREAM, best_mean, draw, rank_pool
from nemo_demix.search.pool import wide_pool
from nemo_demix.search.proxies.predictions import PredictionProxies
from nemo_demix.search.proxy_row import ProxyRow, read_rows
from nemo_demix.search.ranking import Ranking
from nemo_demix.search.refine import lowest, starts
from nemo_demix.search.space import SearchSpace
from nemo_demix.search.strategies import Problem, build_strategy
from nemo_demix.training.jobs import blend_matrix

SIZES = {64: [36, 18, 10], 112: [64, 32, 16], 224: [128, 64, 32], 448: [256, 128, 64]}
SEEDS = 10
NOISE = 0.02  # standard deviation of a score, as a share of the truth's range
LAWS = 3  # benchmarks of an analytic truth, each a capability
LEAST_FROM = 400_000  # mixtures among which the least truth is looked for, and then refined
LIGHTGBM = PredictorConfig(num_bootstrap=2)
CHOICES: dict[str, tuple[PredictorConfig, str]] = {
    "lightgbm_top": (LIGHTGBM, "mean"),
    "lightgbm_best": (LIGHTGBM, "best"),
    "lightgbm_tuned_top": (replace(LIGHTGBM, tune=True), "mean"),
    "gaussian_process_top": (replace(LIGHTGBM, kind="gaussian_process"), "mean"),
    "gaussian_process_best": (replace(LIGHTGBM, kind="gaussian_process"), "best"),
    "gaussian_process_minimum": (replace(LIGHTGBM, kind="gaussian_process"), "minimum"),
}
RECOMMENDED = "recommended"  # the same minimum, over the mixtures that it asks for itself
BATCHES = 6  # of what it asks for after the first step
Scores = Callable[[Array], Array]  # weights_XC -> scores of the truth's columns, (X, B), lower is better


@dataclass(frozen=True)
class Truth:
    """What a mixture really scores."""

    name: str
    scores: Scores
    num_components: int
    num_scores: int


def log_linear(seed: int) -> Truth:
    """Each score falls exponentially in a weighted sum of the mixture (Data mixing laws, arXiv:2403.16952)."""
    rng = np.random.default_rng([1, seed])
    slopes_CB = rng.normal(-1.0, 1.5, (7, LAWS))
    return Truth("log_linear", lambda weights_XC: 2.0 + np.exp(weights_XC @ slopes_CB), 7, LAWS)


def repeated_power_law(seed: int) -> Truth:
    """Each score falls as a power of the useful tokens of its datasets, and repeated tokens are worth ever less.

    Source of the decay of repeated data: Muennighoff et al. 2023 (arXiv:2305.16264).
    """
    rng = np.random.default_rng([2, seed])
    epochs_C = rng.uniform(1.0, 12.0, 7)  # of a dataset that is all there is
    use_CB = rng.dirichlet(np.full(7, 0.5), LAWS).T

    def scores(weights_XC: Array) -> Array:
        seen_XC = weights_XC * epochs_C
        extra_XC = np.maximum(seen_XC - 1.0, 0.0)
        useful_XC = (np.minimum(seen_XC, 1.0) + 4.0 * (1.0 - np.exp(-extra_XC / 4.0))) / epochs_C
        worse_XB = 0.1 * np.maximum(extra_XC - 3.0, 0.0) @ use_CB
        found: Array = 1.5 + 0.5 * (0.02 + useful_XC @ use_CB) ** -0.3 + worse_XB
        return found

    return Truth("repeated_power_law", scores, 7, LAWS)


def merges(run: Path) -> Truth:
    """A Gaussian process through the capability averages of a search's merges."""
    rows = [row for row in read_rows(run / "search" / "scores.jsonl") if row.is_ok]
    components = list(read_json(run / "search" / "mixture.json")["merge_weights"])
    weights_MC = np.array([[row.merge_weights.get(name, 0.0) for name in components] for row in rows])
    columns = {name: np.array([row.capabilities[name].score for row in rows]) for name in rows[0].capabilities}
    config = PredictorConfig(kind="gaussian_process", num_bootstrap=2)
    predictor = fit_predictor(config, weights_MC, columns, 0)

    def scores(weights_XC: Array) -> Array:
        return np.stack(list(predictor.predict(weights_XC).values()), axis=1)

    return Truth("merges", scores, len(components), len(columns))


def predictions(run: Path) -> Truth:
    """Mixed predictions of a run's components, exact, by capability."""
    config, manifest = load_resolved(run / "config.yaml"), DataManifest.load(run / "datasets" / "manifest.json")
    config.runs_dir = str(run.parent)
    suite = build_suite(config.suite, manifest, PROXY_USES)
    proxies = PredictionProxies(PreparedRun(config, manifest), suite, PROXY_USES)
    shares = suite.shares

    def scores(weights_XC: Array) -> Array:
        found = proxies.scores_MB(weights_XC, [name for members in shares.values() for name in members])
        return np.stack([sum(share * found[n] for n, share in members.items()) for members in shares.values()], axis=1)

    return Truth("predictions", scores, len(blend_matrix(config).components), len(shares))


def regmix(folder: Path) -> Truth:
    """The mean of RegMix's 13 validation losses, by a stack of predictors fitted on all 768 of its models."""
    parts = [
        tables(folder / f"{part}_mixture_1m.csv", folder / f"{part}_pile_loss_1m.csv") for part in ("train", "test")
    ]
    weights_MC = np.vstack([weights for weights, _ in parts])
    columns = {"mean": np.concatenate([np.mean(list(scores.values()), axis=0) for _, scores in parts])}
    predictor = fit_predictor(PredictorConfig(kind="stacked", num_bootstrap=2), weights_MC, columns, 0)
    return Truth("regmix", lambda weights_XC: predictor.predict(weights_XC)["mean"][:, None], weights_MC.shape[1], 1)


class Landscape:
    """A truth as searches see it, and how good its mixtures are."""

    def __init__(self, truth: Truth) -> None:
        names = tuple(f"d{place}" for place in range(truth.num_components))
        blend = BlendMatrix.unmixed(names)
        self.truth, self.columns = truth, [f"benchmark/{place}" for place in range(truth.num_scores)]
        self.space = SearchSpace(
            blend=blend,
            prior=dict.fromkeys(names, 1 / len(names)),
            capabilities={name: name for name in self.columns},
            higher_is_better=dict.fromkeys(self.columns, False),
            use=dict.fromkeys(self.columns, "search"),
            constraints=Constraints.none(blend),
            baselines={},
        )
        some_XC = np.random.default_rng(0).dirichlet(np.full(len(names), 0.5), LEAST_FROM)
        values_X = self.objective(some_XC)
        self.least = self._refined(some_XC[np.argsort(values_X)[:8]])
        self.range = float(np.median(values_X)) - self.least
        self._spread_B = truth.scores(some_XC[:2000]).std(axis=0)

    def objective(self, weights_XC: Array) -> Array:
        """The mean of the scores, (X,)."""
        chunks = np.array_split(weights_XC, max(1, len(weights_XC) // 20_000))
        return np.concatenate([self.truth.scores(chunk).mean(axis=1) for chunk in chunks])

    def regret(self, weights_C: Array) -> float:
        """As a share of the range."""
        return (float(self.objective(weights_C[None])[0]) - self.least) / self.range

    def rows(self, batch: list[Array], rng: np.random.Generator) -> list[ProxyRow]:
        """What a search is told of mixtures that it asked for."""
        scores_XB = self.truth.scores(np.array(batch))
        scores_XB = scores_XB + NOISE * self._spread_B * rng.normal(size=scores_XB.shape)
        return [
            ProxyRow(
                "mix",
                self.space.as_weights(weights_C),
                scores={name: Score(float(score)) for name, score in zip(self.columns, scores_B, strict=True)},
            )
            for weights_C, scores_B in zip(batch, scores_XB, strict=True)
        ]

    def _refined(self, starts_SC: Array) -> float:
        """The least value by ever smaller random steps: no slope of a truth is asked for."""
        rng = np.random.default_rng(1)
        best_C, least = starts_SC[0], np.inf
        for start_C in starts_SC:
            at_C, value = start_C, float(self.objective(start_C[None])[0])
            for size in np.geomspace(0.2, 1e-4, 60):
                steps_XC = np.abs(
                    at_C + size * rng.normal(size=(400, len(at_C))) * (rng.random((400, len(at_C))) < 0.5)
                )
                steps_XC = steps_XC / steps_XC.sum(axis=1, keepdims=True)
                values_X = self.objective(steps_XC)
                if values_X.min() < value:
                    at_C, value = steps_XC[values_X.argmin()], float(values_X.min())
            if value < least:
                best_C, least = at_C, value
        return float(self.objective(best_C[None])[0])


def asked(landscape: Landscape, settings: SearchConfig, size: int, seed: int) -> list[ProxyRow]:
    """The scored mixtures of one search."""
    rng = np.random.default_rng([seed, size])
    strategy = build_strategy(Problem(settings, landscape.space, seed))
    rows: list[ProxyRow] = []
    while batch := strategy.ask():
        told = landscape.rows(batch, rng)
        rows += told
        strategy.tell(told)
    return rows


Search = Callable[[Landscape, int, int], list[dict[str, Any]]]  # landscape, proxies, seed


def searched(landscape: Landscape, size: int, seed: int) -> list[dict[str, Any]]:
    """Regret of every way of choosing, on the same rows; and of the best row itself, as it was measured."""
    settings = SearchConfig(
        objective="mean", iterations=SIZES[size], pool_size=50_000, num_refits=0, predictor=LIGHTGBM
    )
    space, rows = landscape.space, asked(landscape, settings, size, seed)
    measured = [np.mean([score.score for score in row.scores.values()]) for row in rows]
    regrets = {"best_measured": landscape.regret(space.as_array(rows[int(np.argmin(measured))].merge_weights))}
    pool_MC = draw(settings, space, settings.pool_size, [seed, 3, POOL_STREAM])
    rankings: dict[str, Ranking] = {}
    for name, (predictor, how) in CHOICES.items():
        key = f"{predictor.kind}{predictor.tune}"
        if key not in rankings:
            rankings[key] = Ranking(replace(settings, predictor=predictor), space, rows, seed)
        ranking = rankings[key]
        if how == "minimum":
            chosen_C = lowest(ranking, ranking.averages, starts(ranking, wide_pool(ranking)))
        else:
            chosen_C = best_mean(ranking, rank_pool(ranking, pool_MC), settings.select_top if how == "mean" else 1)
        regrets[name] = landscape.regret(chosen_C)
    return [
        {"truth": landscape.truth.name, "num_proxies": size, "seed": seed, "choice": name, "regret": round(value, 5)}
        for name, value in regrets.items()
    ]


def recommended(landscape: Landscape, size: int, seed: int) -> list[dict[str, Any]]:
    """Regret of the recommended search where merges choose, by as many proxies."""
    _, *others = SIZES[size]
    settings = SearchConfig(
        strategy=RECOMMENDED, proxy="merge", objective="mean", iterations=SIZES[size], pool_size=50_000, num_refits=0,
        predictor=CHOICES["gaussian_process_minimum"][0],
        bayes=BayesConfig(batch=math.ceil(sum(others) / BATCHES), candidates=5000),
    )  # fmt: skip
    ranking = Ranking(settings, landscape.space, asked(landscape, settings, size, seed), seed)
    chosen_C = lowest(ranking, ranking.averages, starts(ranking, wide_pool(ranking)))
    regret = round(landscape.regret(chosen_C), 5)
    return [{"truth": landscape.truth.name, "num_proxies": size, "seed": seed, "choice": RECOMMENDED, "regret": regret}]


def analytic(make: Callable[[int], Truth], search: Search, job: tuple[int, int]) -> list[dict[str, Any]]:
    """One search on an analytic truth, which is another with each seed."""
    return search(Landscape(make(job[1])), *job)


class Kept:
    """Rows of finished searches in a file, so that a study that was cut off goes on."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        text = path.read_text() if path is not None and path.exists() else ""
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]

    def missing(self, truth: str, jobs: Sequence[tuple[int, int]], choice: str) -> list[tuple[int, int]]:
        """The (size, seed) of this truth for which this choice is not there."""
        of_truth = [row for row in self.rows if (row["truth"], row["choice"]) == (truth, choice)]
        done = {(row["num_proxies"], row["seed"]) for row in of_truth}
        return [job for job in jobs if job not in done]

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Keep the rows of one search."""
        self.rows += rows
        if self._path is not None:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write("".join(json.dumps(row) + "\n" for row in rows))


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean regret over sizes and seeds by truth and choice; for each choice the worst truth's."""
    truths = list(dict.fromkeys(row["truth"] for row in rows))
    summary: dict[str, Any] = {"num_truths": len(truths)}
    for choice in ("best_measured", *CHOICES, RECOMMENDED):
        by_truth = {}
        for truth in truths:
            regrets = [row["regret"] for row in rows if row["truth"] == truth and row["choice"] == choice]
            by_truth[truth] = round(float(np.mean(regrets)), 5)
            summary[f"regret_{choice}_{truth}"] = by_truth[truth]
        summary[f"regret_{choice}"] = max(by_truth.values())
    for truth in truths:
        ratio = summary[f"regret_recommended_{truth}"] / summary[f"regret_lightgbm_top_{truth}"]
        summary[f"recommended_over_lightgbm_top_{truth}"] = round(ratio, 3)
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a finished run of search=recommended: its merges and predictions")
    parser.add_argument("--regmix", type=Path, help="a copy of the repository sail-sg/regmix")
    parser.add_argument("--kept", type=Path, default=Path("runs/landscape.jsonl"), help="rows of finished searches")
    parser.add_argument("--sizes", type=int, nargs="*", choices=SIZES, default=list(SIZES))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--quick", action="store_true", help="one analytic truth, 64 proxies, two seeds")
    arguments = parser.parse_args()
    jobs = [(size, seed) for size in arguments.sizes for seed in range(arguments.seeds)]
    if arguments.quick:
        jobs = [(64, 0), (64, 1)]
    makers = {"log_linear": log_linear, "repeated_power_law": repeated_power_law}
    fixed: dict[str, Callable[[], Truth]] = {}
    if arguments.quick:
        del makers["repeated_power_law"]
    if not arguments.quick and arguments.run:
        fixed |= {"merges": partial(merges, arguments.run), "predictions": partial(predictions, arguments.run)}
    if not arguments.quick and arguments.regmix:
        fixed["regmix"] = partial(regmix, arguments.regmix / "data")
    kept = Kept(None if arguments.quick else arguments.kept)
    searches: list[tuple[Search, str, list[tuple[int, int]]]] = [
        (searched, "lightgbm_top", jobs), (recommended, RECOMMENDED, jobs)
    ]  # fmt: skip
    with ProcessPoolExecutor(arguments.workers) as pool:
        for name, make in makers.items():
            for search, choice, wanted in searches:
                for found in pool.map(partial(analytic, make, search), kept.missing(name, wanted, choice)):
                    kept.add(found)
    for name, make_fixed in fixed.items():
        todo = {search: kept.missing(name, wanted, choice) for search, choice, wanted in searches}
        if any(todo.values()):
            landscape = Landscape(make_fixed())  # read once, not by every process
            for search, missing in todo.items():
                for job in missing:
                    kept.add(search(landscape, *job))
    rows = kept.rows
    finish("landscape", arguments.quick, list(range(arguments.seeds)), rows, summarise(rows))


if __name__ == "__main__":
    main()
