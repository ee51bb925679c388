"""What does each way of choosing a mixture lead to? Mixtures that were searched, really trained, judged on other items.

A replicate draws everything but the base anew: the components, the search, which items are searched and which judge.
Each arm's mixture is trained in several data orders, and compared with the token-proportional mixture's model of the
same replicate and order. The replicate is the unit of every interval (Student's t over replicates): it holds the noise
of components, searches, data orders and items at once. On another processor the same seeds give other models and
another search: --draw keeps them beside the committed ones, within their replicates. Every stage is the product's own
and resumes; --quick works the figures out again from the committed rows.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _provenance import RESULTS, finish
from _study import branch, nemo_demix, values
from scipy import stats

from nemo_demix.artifacts import DataManifest, read_json, write_json
from nemo_demix.config import load_resolved
from nemo_demix.prepared import PreparedRun
from nemo_demix.ranks.leader import launch
from nemo_demix.stages.score import score_target, targets_to_score

RECIPE = "decision"
PLAIN = "proportional"
TRAINED = 14  # proxies of regmix and climb, which share the components' tokens
PREDICTED = ("search=recommended", "search.proxy=predictions", "search.heldout_floor=null")
MERGED = ("search=recommended", "search.proxy=merge")
ARMS: dict[str, tuple[str, ...]] = {  # the most wanted first: a study that is cut off has these
    "proportional": ("search=proportional",),
    # Merges change nothing in what predictions choose (tests/search/test_recommended.py): none is made here.
    "recommended": ("search=recommended", "search.proxy=predictions"),
    "floor005": (*PREDICTED, "search.default_floor=0.005"),  # the default before
    "unfloored": (*PREDICTED, "search.default_floor=null"),
    "floor0": (*PREDICTED, "search.default_floor=0"),
    "demix": ("search=demix",),
    "mixmin": ("search=mixmin",),
    "equal": ("search=equal",),
    # Where scores cannot be had from predictions: merges choose, linear and by second moments. `unfloored` beside them.
    "merges": (*MERGED, "search.default_floor=null"),
    "fisher": (*MERGED, "search.default_floor=null", "merge.method=fisher"),
    "fisher_floored": (*MERGED, "merge.method=fisher"),
    "merges_floored": MERGED,
    "fisher_heldout": (*MERGED, "merge.method=fisher"),
    "bayes": ("search=bayes",),
    "mergemix": ("search=mergemix",),
    "regmix": ("search=regmix", f"search.iterations=[{TRAINED}]"),
    "climb": ("search=climb", "search.iterations=[8,4,2]"),
    "regmix8x": ("search=regmix", f"search.iterations=[{2 * TRAINED}]", "search.trained.num_tokens=262144"),
}
WITH_HELDOUT = ("recommended", "fisher_heldout")  # with a floor under held-out text too
FISHER = (("fisher", "merges"), ("fisher_floored", "merges_floored"), ("fisher_heldout", "fisher_floored"))
# The recipe as users run it, a seed a run; rows of "quickstart_study" are of the text that datasets=study has.
QUICKSTART = "quickstart"
ORDERS = "quickstart_orders"  # the same with final.seeds: what each data order gave, and the verdict of all
BASE = 0  # the replicate whose data and base all start from
CONFIDENCE = 0.95


def collect(runs: Path, replicates: Sequence[int], orders: Sequence[int], arms: Sequence[str]) -> None:
    """Search, train and score what is not there yet."""
    base = f"{RECIPE}_{BASE}"
    nemo_demix(runs, "prepare", f"seed={BASE}", name=base, recipe=RECIPE)
    nemo_demix(runs, "train", "role=base", f"seed={BASE}", "base.seed=0", name=base, recipe=RECIPE)
    for replicate in replicates:
        settings = [f"seed={replicate}", "base.seed=0", f"suite.seed={replicate}", "search.objective=mean"]
        name = f"{RECIPE}_{replicate}"
        if replicate != BASE:
            branch(runs, name, source=f"{RECIPE}_{BASE}")
        for stage, *more in (["prepare"], ["train", "role=base"], ["train", "role=component"]):
            nemo_demix(runs, stage, *settings, *more, name=name, recipe=RECIPE)
        chosen = {arm: _search(runs, replicate, arm, settings)["data_shares"] for arm in arms}
        _train_and_score(runs, name, chosen, orders)


def run_quickstarts(runs: Path, seeds: Sequence[int], orders: Sequence[int]) -> None:
    """The quickstart itself, everything anew for each seed; then what it compared in more data orders, by its own
    `final`.
    """
    for seed in seeds:
        name, setting = f"{QUICKSTART}_seed{seed}", f"seed={seed}"
        nemo_demix(runs, "run", setting, name=name, recipe=QUICKSTART)
        result = runs / name / "final" / "result.json"
        write_json(_as_run(runs / name), read_json(result))
        if orders:
            nemo_demix(runs, "final", setting, f"final.seeds={list(orders)}".replace(" ", ""), name=name,
                       recipe=QUICKSTART)  # fmt: skip


def _as_run(run: Path) -> Path:
    """Where the result stays that a quickstart itself ended with."""
    return run / "final" / "as_run.json"


def _search(runs: Path, replicate: int, arm: str, settings: Sequence[str]) -> dict[str, Any]:
    name = f"{RECIPE}_{replicate}_{arm}"
    branch(runs, name, "models/component", source=f"{RECIPE}_{replicate}")
    if arm not in WITH_HELDOUT:
        settings = [*settings, "suite.heldout_tokens=0"]
    nemo_demix(runs, "search", *ARMS[arm], *settings, name=name, recipe=RECIPE)
    found: dict[str, Any] = read_json(runs / name / "search" / "mixture.json")
    return found


def _train_and_score(runs: Path, start: str, chosen: dict[str, dict[str, float]], orders: Sequence[int]) -> None:
    """One model an arm and data order, trained from the base as a final model is; one start of ranks for all."""
    name = f"{start}_models"
    run = branch(runs, name, source=start)
    wanted = {f"{arm}_order{order}": (shares, order) for order in orders for arm, shares in chosen.items()}
    given = [{"name": model, "data_shares": shares, "seed": order} for model, (shares, order) in wanted.items()]
    write_json(run / "verify" / "references.json", given)
    config = load_resolved(runs / start / "config.yaml")
    config.name, config.role = name, None
    config.reference.num_tokens, config.reference.max_lr = config.final.num_tokens, config.final.max_lr
    manifest = DataManifest.load(run / "datasets" / "manifest.json")
    shares = {row["name"]: row["data_shares"] for row in given}
    prepared = PreparedRun(config, manifest)
    jobs = prepared.references(shares, {row["name"]: row["seed"] for row in given})
    targets = [score_target(job) for job in jobs]
    names = [job.name for job in jobs if not job.is_done]
    todo = targets_to_score(prepared, targets)
    if names or todo:
        launch(config, "models", {"task": "train_and_score", "jobs": [("reference", names)], "targets": todo})


def rows_of(runs: Path) -> list[dict[str, Any]]:
    """Everything that is there: one row a mixture, and one a trained model with its scores."""
    rows: list[dict[str, Any]] = []
    kept = ("merge_weights", "data_shares", "predicted", "measured_macro", "reach", "notes", "num_proxies")
    for run in sorted(runs.glob(f"{RECIPE}_[0-9]*")):
        replicate, _, arm = run.name.removeprefix(f"{RECIPE}_").partition("_")
        path = run / "search" / "mixture.json"
        if arm in ARMS and path.exists():
            mixture = read_json(path)
            rows.append({"kind": "mixture", "replicate": int(replicate), "arm": arm, **{k: mixture[k] for k in kept}})
        for name, order, record in _scored(run) if arm == "models" else ():
            row = {"kind": "model", "replicate": int(replicate), "arm": name, "order": order}
            items = {score: one["num_items"] for score, one in record["scores"].items()}
            row |= {"judged": values(record["capabilities"]), "scores": values(record["scores"]), "items": items}
            rows.append(row)
    for run in sorted(runs.glob(f"{QUICKSTART}_seed*")):
        seed = int(run.name.removeprefix(f"{QUICKSTART}_seed"))
        if _as_run(run).exists():
            shares = read_json(run / "search" / "mixture.json")["data_shares"]
            rows.append({"kind": QUICKSTART, "seed": seed, **verdict(read_json(_as_run(run))), "data_shares": shares})
            result = read_json(run / "final" / "result.json")
            if len(result["seeds"]) > 1:
                rows.append({"kind": ORDERS, "seed": seed, **verdict(result)})
    return rows


def _scored(run: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """The models of several data orders: arm, order, scores."""
    for path in sorted((run / "scores").glob("reference_*_order*.json")):
        name, _, order = path.stem.removeprefix("reference_").rpartition("_order")
        yield name, int(order), read_json(path)


def with_committed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """These rows, and the committed ones that they do not replace, with a row that says where those are from."""
    old = json.loads((RESULTS / "decision.json").read_text())
    here = {_what(row) for row in rows}
    kept = [row for row in old["rows"] if row["kind"] not in ("figure", "kept") and _what(row) not in here]
    origins = [row for row in old["rows"] if row["kind"] == "kept"]
    origins.append({"kind": "kept", **{key: old[key] for key in ("command", "commit", "machine")}})
    return [*kept, *rows, *origins]


def _what(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a row is of."""
    return tuple(row.get(key) for key in ("kind", "draw", "replicate", "arm", "order", "seed"))


def verdict(result: Mapping[str, Any]) -> dict[str, Any]:
    """What a quickstart said of its final model and the proportional one, and by how much they differ by capability."""
    if PLAIN in result.get("same_as_chosen", ()):  # one model is both
        capabilities = dict.fromkeys(result["models"]["mixture"]["capabilities"], 0.0)
        nothing = {"difference": 0.0, "low": 0.0, "high": 0.0, "orders": [0.0] * len(result["seeds"])}
        return {"verdict": "the same mixture", **nothing, "capabilities": capabilities}
    said = result["chosen_minus"][PLAIN]
    capabilities = {name: round(one["difference"], 6) for name, one in said["capabilities"].items()}
    kept = ("verdict", "difference", "low", "high", "orders")
    return {**{key: said[key] for key in kept}, "capabilities": capabilities}


class Study:
    """The trained models' scores, and their differences within a replicate and data order."""

    def __init__(self, rows: Sequence[dict[str, Any]], capability_of: dict[str, str]) -> None:
        self._models = {
            (row["arm"], row["replicate"], (row.get("draw"), row["order"])): row
            for row in rows
            if row["kind"] == "model"
        }
        self._capability_of = capability_of

    def difference(self, arm: str, other: str, measure: str) -> list[float]:
        """By replicate that has both arms: the mean over their common draws and data orders of arm minus other."""
        by_replicate: dict[int, list[float]] = {}
        for (name, replicate, order), row in self._models.items():
            against = self._models.get((other, replicate, order))
            if name == arm and against is not None:
                if row.get("items") != against.get("items"):
                    raise SystemExit(
                        f"replicate {replicate}: {arm} and {other} were scored on other items: collect it again with "
                        f"--replicates {replicate} --arms {arm} {other}"
                    )
                gap = self._measure(row, measure) - self._measure(against, measure)
                by_replicate.setdefault(replicate, []).append(gap)
        return [float(np.mean(gaps)) for _, gaps in sorted(by_replicate.items())]

    def _measure(self, row: dict[str, Any], measure: str) -> float:
        if measure == "judged":
            return float(np.mean(list(row["judged"].values())))
        if measure in row["judged"]:
            return float(row["judged"][measure])
        prefix = {"heldout": "heldout/", "searched": "benchmark/"}[measure]
        members: dict[str, list[float]] = {}
        for name, score in row["scores"].items():
            if name.startswith(prefix) and not name.endswith(":judged"):
                members.setdefault(self._capability_of[name], []).append(score)
        return float(np.mean([np.mean(scores) for scores in members.values()]))


def interval(gaps: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Mean and Student's interval over replicates; no interval of a single one."""
    mean = float(np.mean(gaps))
    if len(gaps) < 2:
        return mean, None, None
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, len(gaps) - 1) * np.std(gaps, ddof=1) / np.sqrt(len(gaps))
    return mean, float(mean - reach), float(mean + reach)


def analyse(rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row an arm, pair and measure, and the flat summary."""
    meta = next(row for row in rows if row["kind"] == "meta")
    study = Study(rows, meta["capability_of"])
    arms = [arm for arm in ARMS if any(row["kind"] == "model" and row["arm"] == arm for row in rows)]
    capabilities = sorted({name for row in rows if row["kind"] == "model" for name in row["judged"]})
    table: list[dict[str, Any]] = []
    found: dict[tuple[str, str, str], tuple[float, float | None, float | None]] = {}
    pairs = [(arm, PLAIN) for arm in arms if arm != PLAIN]
    ours = [arm for arm in ("recommended", "floor005", "unfloored", "floor0") if arm in arms]
    pairs += [(one, arm) for one in ours for arm in arms if arm not in (PLAIN, *ours)]
    pairs += [pair for pair in FISHER if set(pair) <= set(arms)]
    for arm, other in pairs:
        for measure in ("judged", "searched", "heldout", *capabilities):
            gaps = study.difference(arm, other, measure)
            if not gaps:  # never trained in one data order of one draw
                continue
            found[arm, other, measure] = interval(gaps)
            table.append({"kind": "figure", "arm": arm, "minus": other, "measure": measure, "by_replicate": gaps,
                          "mean": found[arm, other, measure]})  # fmt: skip
    summary: dict[str, Any] = {
        "num_replicates": len({row["replicate"] for row in rows if row["kind"] == "model"}),
        "num_orders": len({row["order"] for row in rows if row["kind"] == "model"}),
    }

    def put(name: str, figures: tuple[float, float | None, float | None]) -> None:
        for tail, value in zip(("", "_lo", "_hi"), figures, strict=True):
            summary[f"{name}{tail}"] = None if value is None else round(value, 4)

    def add(name: str, key: tuple[str, str, str]) -> None:
        if key in found:
            put(name, found[key])

    for arm in arms:
        if arm != PLAIN:
            add(f"{arm}_minus_proportional", (arm, PLAIN, "judged"))
            add(f"heldout_{arm}_minus_proportional", (arm, PLAIN, "heldout"))
        for one in ours:
            add(f"{one}_minus_{arm}", (one, arm, "judged"))
    for pair in FISHER:
        add("_minus_".join(pair), (*pair, "judged"))
    if "recommended" in arms:
        worst = max(capabilities, key=lambda name: found["recommended", PLAIN, name][0])
        summary["worst_capability"] = worst
        add("worst_capability_recommended", ("recommended", PLAIN, worst))
    said = [row for row in rows if row["kind"] == QUICKSTART]
    if said:
        summary[f"quickstart_better_of_{len(said)}"] = sum(row["verdict"] == "better" for row in said)
        put("quickstart_minus_proportional", interval(_by_seed(said)))
    several = [row for row in rows if row["kind"] == ORDERS]
    if several:
        variances = [np.var(row["orders"], ddof=1) for row in several]
        summary["quickstart_std_between_orders"] = round(float(np.sqrt(np.mean(variances))), 4)
        put("quickstart_over_orders_minus_proportional", interval(_by_seed(several)))
        better = sum(row["verdict"] == "better" for row in several)
        summary[f"quickstart_over_orders_better_of_{len(several)}"] = better
    return table, summary


def _by_seed(rows: Sequence[dict[str, Any]]) -> list[float]:
    """The mean difference of each seed: a seed may have several draws, each on a processor of its own."""
    found: dict[int, list[float]] = {}
    for row in rows:
        found.setdefault(row["seed"], []).append(row["difference"])
    return [float(np.mean(gaps)) for gaps in found.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the study's runs are, or will be")
    parser.add_argument("--replicates", type=int, nargs="*", default=list(range(5)))
    parser.add_argument("--orders", type=int, default=3, help="data orders of each mixture's model")
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS))
    parser.add_argument("--quickstarts", type=int, nargs="*", default=list(range(5)), help="seeds of the quickstart")
    parser.add_argument("--quickstart-orders", type=int, default=0, help="more data orders of what they compared")
    parser.add_argument("--collect-only", action="store_true", help="write no result: another process has a share")
    parser.add_argument("--add", action="store_true", help="the committed rows of what is not in --runs stay")
    parser.add_argument("--draw", help="with --add: a name, by which the committed rows of these replicates stay")
    parser.add_argument("--quick", action="store_true", help="the figures again, from the committed rows")
    arguments = parser.parse_args()
    if arguments.draw is not None and not arguments.add:
        parser.error("--draw keeps rows beside the committed ones: with --add")
    if arguments.quick:
        rows = json.loads((RESULTS / "decision.json").read_text())["rows"]
        rows = [row for row in rows if row["kind"] != "figure"]
    else:
        runs = arguments.runs.resolve()
        orders = [100 + order for order in range(arguments.orders)]  # none is the seed of a component
        more = [100 + order for order in range(arguments.quickstart_orders)]
        run_quickstarts(runs, arguments.quickstarts, more)
        if arguments.replicates:
            collect(runs, arguments.replicates, orders, arguments.arms)
        if arguments.collect_only:
            return
        rows = rows_of(runs)
        if arguments.draw is not None:
            rows = [{**row, "draw": arguments.draw} for row in rows]
        if arguments.replicates:
            rows.append(_meta(runs, arguments.replicates[0]))
        if arguments.add:
            rows = with_committed(rows)
    table, summary = analyse(rows)
    seeds = sorted({row["replicate"] for row in rows if "replicate" in row})
    finish("decision", arguments.quick, seeds, [*rows, *table], summary)


def _meta(runs: Path, replicate: int) -> dict[str, Any]:
    manifest = read_json(runs / f"{RECIPE}_{replicate}" / "datasets" / "manifest.json")
    owners = {f"heldout/{name}": record["capability"] for name, record in manifest["datasets"].items()}
    owners |= {f"benchmark/{name}": record["capability"] for name, record in manifest["benchmarks"].items()}
    return {"kind": "meta", "capability_of": owners}


if __name__ == "__main__":
    main()
