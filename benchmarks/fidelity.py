"""How well do merged proxies order mixtures? Against models really trained on them: DeMix's Tables 2, 4 and 5.

One base; component models with three data orders; 24 references (recipes/fidelity.yaml), each the mean of the data
orders that all were trained in, and the first order's checkpoints at 1/8, 1/4 and 1/2 of the tokens, which stand for
trained proxies. Beside them: weight merges, mixed predictions, the null predictor, other shares of general data in the
components, other merge methods. Two kinds of figure: rho averaged over capabilities, as the paper has it, and what the
decision hangs on, the macro score that a search minimises. Every stage is the product's own and resumes. Some hours on
two cores; --quick works out every figure again from the committed scores, --recompute writes these beside them, and
--page makes the study's page from them under --runs. --fresh SEED draws everything anew, base and references too, and
writes `fidelity_fresh_SEED.json`: what the first references showed is confirmed by others. --all works out the figures
of the decision over all studies, from the committed scores, and writes `fidelity_all.json`.

Axes: R references, S samples (the first is the references themselves), P seeds of the components, E data orders.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from _decision import DecisionStudy
from _fidelity_page import write_page
from _provenance import RESULTS, finish, recompute
from _study import RECIPE, branch, json_lines, nemo_demix, values

from nemo_demix.artifacts import read_json, write_json
from nemo_demix.config import load_resolved
from nemo_demix.fidelity.consistency import Columns, Figures, draw_samples, figures, summarise, tokens_to_match
from nemo_demix.fidelity.equal_cost import equal_cost
from nemo_demix.fidelity.noise import seed_noise
from nemo_demix.fidelity.nulls import Mixtures
from nemo_demix.fidelity.references import Reference, shared_orders
from nemo_demix.fidelity.resampled import multiplicities, weighted_rho
from nemo_demix.mixture import Array
from nemo_demix.training.jobs import blend_matrix

SEEDS = (1, 2)  # of the components, beside the run's own
BETAS = {"beta_0": 0.0, "beta_25": 0.25}
METHODS: dict[str, tuple[str, dict[str, float]]] = {
    # DeMix Table 4, with the parameters of its released configurations
    "ties": ("ties", {"density": 0.9}),
    "dare_linear": ("dare_linear", {"density": 0.9}),
    "breadcrumbs": ("breadcrumbs", {"density": 0.9, "gamma": 0.01}),
    "multislerp": ("multislerp", {}),
    # TIES with fewer elements kept
    "ties_70": ("ties", {"density": 0.7}),
    "ties_50": ("ties", {"density": 0.5}),
}
FRESH = f"{RECIPE}_fresh_{{}}"  # by seed
Proxies = Mapping[str, Sequence[dict[str, Any]]]  # by name, the rows of each set of components, for `Study.macro`
NUM_PROXIES = 112  # of the search whose price is compared (DeMix Table 2)
NUM_BOOTSTRAP = 2000
CONFIDENCE = 0.95


def collect(runs: Path, sets: int, ablations: Sequence[str], *settings: str) -> list[dict[str, Any]]:
    """Train and score everything that is not there yet; one row a model or proxy, with its scores by name.

    Args:
        runs: The study's runs.
        sets: Sets of component models, each with its own data orders.
        ablations: Names of `BETAS` and `METHODS`.
        settings: Overrides of the recipe.
    """
    nemo_demix(runs, "prepare", *settings)
    nemo_demix(runs, "train", "role=base", *settings)
    nemo_demix(runs, "train", "role=component", *settings)
    nemo_demix(runs, "verify", *settings)  # it ends with the study's page
    main = runs / RECIPE
    references = read_json(main / "verify" / "references.json")
    mixtures = {row["mixture"]: row for row in references if row["name"] == row["mixture"]}
    rows = [{"kind": "mixture", **row} for row in references]
    for row in references:
        for path in sorted((main / "scores").glob(f"reference_{row['name']}*.json")):
            name, _, tokens = path.stem.removeprefix("reference_").partition("_at_")
            if name == row["name"]:
                scores = values(read_json(path)["scores"])
                rows.append(
                    {"kind": "trained", "name": name, "tokens": int(tokens) if tokens else None, "scores": scores}
                )
    rows += proxy_rows(main, mixtures, {"components": "seed_0"})
    rows += _methods(runs, RECIPE, "seed_0", mixtures, ablations, settings)
    for seed in SEEDS[: sets - 1]:
        name = f"{RECIPE}_s{seed}"
        run = branch(runs, name)
        overrides = (*settings, f"components.seed={seed}")
        weights = {key: row["merge_weights"] for key, row in mixtures.items()}
        nemo_demix(runs, "train", "role=component", *overrides, name=name)
        score_mixtures(runs, name, weights, *overrides)
        score_mixtures(runs, name, weights, *overrides, "search.proxy=predictions")
        rows += proxy_rows(run, mixtures, {"components": f"seed_{seed}"})
        rows += _methods(runs, name, f"seed_{seed}", mixtures, ablations, overrides)
    rows += _betas(runs, mixtures, ablations, settings)
    for run in (main, *(runs / f"{RECIPE}_{tail}" for tail in ("s1", "s2", "b0", "b25"))):
        records = [read_json(path) for path in sorted(run.glob("models/component/*/record.json"))]
        kept = ("name", "delta", "final_loss", "num_tokens")
        rows += [{"kind": "component", "run": run.name, **{key: r[key] for key in kept}} for r in records]
    return rows


def _betas(runs: Path, mixtures: dict[str, Any], names: Sequence[str], settings: Sequence[str]) -> list[dict[str, Any]]:
    """Proxies from components with other shares of general data."""
    rows = []
    for label in (label for label in BETAS if label in names):
        beta = BETAS[label]
        name = f"{RECIPE}_b{round(100 * beta)}"
        run = branch(runs, name, "models/component/general")
        overrides = [*settings, f"components.beta={beta}"]
        nemo_demix(runs, "train", "role=component", *overrides, name=name)
        blend = blend_matrix(load_resolved(run / "config.yaml"))
        weights = {key: blend.merge_weights_for(row["data_shares"])[0] for key, row in mixtures.items()}
        score_mixtures(runs, name, weights, *overrides)
        score_mixtures(runs, name, weights, *overrides, "search.proxy=predictions")
        rows += proxy_rows(run, mixtures, {"components": label})
    return rows


def _methods(
    runs: Path, run: str, components: str, mixtures: dict[str, Any], names: Sequence[str], settings: Sequence[str]
) -> list[dict[str, Any]]:
    """Merges of one set of components by other methods."""
    rows = []
    for label in (label for label in METHODS if label in names):
        method, parameters = METHODS[label]
        overrides = [*settings, f"merge.method={method}"]
        overrides += [f"+merge.parameters.{key}={value}" for key, value in parameters.items()]
        named = {f"{label}:{key}": row for key, row in mixtures.items()}
        score_mixtures(runs, run, {name: row["merge_weights"] for name, row in named.items()}, *overrides)
        rows += proxy_rows(runs / run, named, {"components": components, "method": label})
    return rows


def score_mixtures(runs: Path, name: str, mixtures: dict[str, dict[str, float]], *overrides: str) -> None:
    """Score proxies of a run's components in memory, by weights of the components."""
    path = runs / name / "mixtures.json"
    write_json(path, mixtures)
    nemo_demix(runs, "score", f"score.mixtures={path}", *overrides, name=name)


def proxy_rows(run: Path, mixtures: dict[str, Any], more: dict[str, Any]) -> list[dict[str, Any]]:
    """The proxies of these names, merges and predictions."""
    lines = json_lines(run / "scores" / "proxies.jsonl")
    found = {(row["proxy"], row["name"]): row for row in lines if row["name"] in mixtures}
    return [
        {"kind": kind, "name": mixtures[name]["mixture"], **more, "scores": values(row["scores"])}
        for (kind, name), row in found.items()
    ]


class Study:
    """The rows as columns, and the figures that they give."""

    def __init__(self, rows: Sequence[dict[str, Any]], capability_of: dict[str, str], seed: int = 0) -> None:
        self._rows = rows
        self._capability_of = capability_of
        self.mixtures = [row for row in rows if row["kind"] == "mixture" and row["name"] == row["mixture"]]
        self.samples_SR = draw_samples(len(self.mixtures), NUM_BOOTSTRAP, np.random.default_rng(seed))
        self._orders = orders_of(rows)
        self.reference = self._columns(self._orders, kind="trained", tokens=None)

    @property
    def num_orders(self) -> int:
        """How many data orders a reference is the mean of."""
        return len(self._orders)

    def _columns(self, orders: Sequence[dict[str, str]] = (), **wanted: Any) -> Columns:
        """By capability, of the rows with these values; means over `orders`, each the names of rows by mixture."""
        rows = {row["name"]: row for row in self._rows if all(row.get(key) == value for key, value in wanted.items())}
        of_order = orders or [{row["name"]: row["name"] for row in self.mixtures}]
        missing = [name for names in of_order for name in names.values() if name not in rows]
        assert not missing, f"{wanted}: no row of {missing}"
        members: dict[str, list[list[float]]] = {}
        for name, capability in self._capability_of.items():
            members.setdefault(capability, []).extend(
                [rows[names[row["name"]]]["scores"][name] for row in self.mixtures] for names in of_order
            )
        scores = {capability: np.mean(np.array(columns), axis=0) for capability, columns in members.items()}
        return Columns(scores, dict.fromkeys(scores, False))

    def figures(self, **wanted: Any) -> Figures:
        """Of the proxies whose rows have these values."""
        return figures(self.reference, self._columns(**wanted), self.samples_SR)

    def null(self, dataset_capability: dict[str, str]) -> Figures:
        """Of a capability's own data share."""

        def share(row: dict[str, Any], capability: str) -> float:
            return sum(part for name, part in row["data_shares"].items() if dataset_capability[name] == capability)

        shares = {name: np.array([share(row, name) for row in self.mixtures]) for name in self.reference.scores}
        return figures(self.reference, Columns(shares, dict.fromkeys(shares, True), has_unit=False), self.samples_SR)

    def macro(self, **wanted: Any) -> Array:
        """The macro score of the models or proxies whose rows have these values, shape (R,), bits a byte."""
        return _macro(self._columns(**wanted))

    @property
    def reference_macro(self) -> Array:
        """The macro score of the references, shape (R,), bits a byte."""
        return _macro(self.reference)

    @property
    def orders_macro(self) -> Array:
        """The macro score of the references' models in each data order, shape (E, R), bits a byte."""
        return np.array([_macro(self._columns([one], kind="trained", tokens=None)) for one in self._orders])

    def one_training(self, tail: str, stand_ins: Sequence[Array]) -> dict[str, float | None]:
        """How well one model trained on each mixture orders what the other data orders give on average, and these
        stand-ins the same: rho, the mean over which order is the one, and the difference with its interval over the
        references; empty where there are fewer than three orders.
        """
        orders_ER, counts_SR = self.orders_macro, multiplicities(self.samples_SR)
        if self.num_orders < 3:
            return {}
        others_ER = [np.delete(orders_ER, place, axis=0).mean(axis=0) for place in range(self.num_orders)]

        def mean_rho(given: Sequence[Array]) -> Array:
            pairs = zip(others_ER, given, strict=True)
            mean_S: Array = np.mean([weighted_rho(other_R, one_R, counts_SR) for other_R, one_R in pairs], axis=0)
            return mean_S

        trained_S = mean_rho(list(orders_ER))
        predicted_S = np.mean([mean_rho([one_R] * self.num_orders) for one_R in stand_ins], axis=0)
        above = summarise(predicted_S - trained_S, CONFIDENCE, None)
        name = f"objective_rho{tail}_predictions_minus_one_training"
        return {
            f"objective_rho{tail}_one_training": float(trained_S[0]),
            f"objective_rho{tail}_predictions_of_others": float(predicted_S[0]),
            **{name: above.value, f"{name}_lo": above.low, f"{name}_hi": above.high},
        }

    def data(self, dataset_capability: dict[str, str]) -> Mixtures:
        """The references' data shares."""
        shares = [[row["data_shares"][name] for name in dataset_capability] for row in self.mixtures]
        return Mixtures(np.array(shares), list(dataset_capability.values()))

    def noise(self) -> dict[str, float]:
        """By capability and macro: standard deviation of references between data orders, and between mixtures.

        What a data order does to all mixtures alike is no part of it (`seed_noise`). `ceiling` is the correlation that
        a proxy without any error could be expected to reach with these references, means over data orders: the root of
        the share of their variance that is not the data orders'.
        """
        models = {
            row["name"]: self._averages(row) for row in self._rows if row["kind"] == "trained" and row["tokens"] is None
        }
        groups: dict[str, list[dict[str, float]]] = {}
        for row in self._rows:
            if row["kind"] == "mixture":
                groups.setdefault(row["mixture"], []).append(models[row["name"]])
        seeds = seed_noise(list(groups.values()), list(self.reference.scores)).std
        found: dict[str, float] = {}
        for name in (*self.reference.scores, "macro"):
            between = seeds[name]
            assert between is not None, "several mixtures were trained with two data orders"
            means_R = self.reference_macro if name == "macro" else self.reference.scores[name]
            mixtures = float(np.var(means_R, ddof=1))
            found[f"std_between_seeds_{name}"] = between
            found[f"std_between_mixtures_{name}"] = mixtures**0.5
            found[f"ceiling_{name}"] = max(0.0, 1 - between**2 / self.num_orders / mixtures) ** 0.5
        return found

    def _averages(self, row: dict[str, Any]) -> dict[str, float]:
        members: dict[str, list[float]] = {}
        for name, capability in self._capability_of.items():
            members.setdefault(capability, []).append(row["scores"][name])
        averages = {capability: float(np.mean(group)) for capability, group in members.items()}
        return {**averages, "macro": float(np.mean(list(averages.values())))}


def orders_of(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """The data orders that all mixtures were trained in, that of the references themselves first: model by mixture."""
    fields = ("name", "mixture", "merge_weights", "data_shares", "seed")
    models = [Reference(**{key: row[key] for key in fields}) for row in rows if row["kind"] == "mixture"]
    return shared_orders(models, {model.mixture for model in models})


def _macro(found: Columns) -> Array:
    mean_R: Array = np.mean(list(found.scores.values()), axis=0)
    return mean_R


def rho(found: Figures) -> float | None:
    """The macro rho of the references themselves."""
    value = float(found.values["rho"]["macro"][0])
    return value if np.isfinite(value) else None


# Sets of scores: what their names begin with, and what the names of their figures have behind them.
SETS = {"benchmarks": ("benchmark/", ""), "heldout": ("heldout/", "_heldout")}


def study_of(rows: Sequence[dict[str, Any]], label: str, seed: int) -> Study:
    """The study of one set of scores; `seed` draws its resamples."""
    capability_of = _meta_of(rows)["capability_of"]
    prefix, _ = SETS[label]
    return Study(rows, {name: owner for name, owner in capability_of.items() if name.startswith(prefix)}, seed)


def stand_ins(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """What stands for the references, by name: the rows of each set of components, as `Study.macro` wants them."""
    components = own_sets(rows)
    tokens = sorted({row["tokens"] for row in rows if row["kind"] == "trained" and row["tokens"]})
    merged = sorted({(row.get("method"), row["components"]) for row in rows if row["kind"] == "merge"}, key=str)
    found: dict[str, list[dict[str, Any]]] = {
        kind: [{"kind": kind, "components": one, "method": None} for one in components]
        for kind in ("merge", "predictions")
    }
    found |= {f"trained_{count}": [{"kind": "trained", "tokens": count}] for count in tokens}
    for method, one in merged:
        if method is not None or one not in components:
            found.setdefault(method or one, []).append({"kind": "merge", "components": one, "method": method})
    others = sorted({row["components"] for row in rows if row["kind"] == "predictions"} - set(components))
    return found | {f"predictions_{name}": [{"kind": "predictions", "components": name}] for name in others}


def own_sets(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The sets of components with the recipe's own share of general data, by name."""
    return sorted({row["components"] for row in rows if row["kind"] == "predictions"} - set(BETAS))


def deciding_of(rows: Sequence[dict[str, Any]], study: Study, proxies: Proxies | None = None) -> DecisionStudy:
    """The figures of the decision by these stand-ins; None: by all of `stand_ins`."""
    meta = _meta_of(rows)
    judged = stand_ins(rows) if proxies is None else proxies
    return DecisionStudy.of(
        study.orders_macro,
        {name: [study.macro(**one) for one in each] for name, each in judged.items()},
        study.data(meta["dataset_capability"]),
        study.samples_SR,
        equal_cost(len(study.mixtures), meta["component_tokens"], meta["reference_tokens"]),
    )


def trained_names(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """What trained proxies are called in a summary."""
    full = _meta_of(rows)["reference_tokens"]
    names = [name for name in stand_ins(rows) if name.startswith("trained_")]
    return {name: f"trained_{_fraction(int(name.removeprefix('trained_')) / full)}" for name in names}


def joint(studies: Sequence[Sequence[dict[str, Any]]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The figures of the decision over several studies, each with its own base, components and references."""
    table: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    for label, (_, tail) in SETS.items():
        of_each = [deciding_of(rows, study_of(rows, label, seed)) for seed, rows in enumerate(studies)]
        deciding = DecisionStudy.joined(of_each)
        table += [{"kind": "figures", "set": label, **row} for row in deciding.table(CONFIDENCE)]
        summary |= deciding.summary(CONFIDENCE, tail, trained_names(studies[0]))
    references = [sum(row["kind"] == "mixture" and row["name"] == row["mixture"] for row in rows) for rows in studies]
    return table, {**summary, "num_references": sum(references), "num_bases": len(studies)}


def _meta_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return next(row for row in rows if row["kind"] == "meta")


def analyse(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Every figure: a table by proxy and set of scores, and the flat summary."""
    meta = _meta_of(rows)
    wanted, called = stand_ins(rows), trained_names(rows)
    table: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    for label, (_, tail) in SETS.items():
        study = study_of(rows, label, 0)
        null = study.null(meta["dataset_capability"])
        named: dict[str, list[Figures]] = {
            name: [study.figures(**one) for one in each] for name, each in wanted.items()
        }
        for name, found in {**named, "null": [null]}.items():
            table.append({"kind": "figures", "set": label, "proxy": name, **_figures_row(found)})
        by_seed = {kind: named[kind] for kind in ("merge", "predictions")}
        trained = {int(name.removeprefix("trained_")): named[name][0] for name in called}
        others = [name for name in wanted if name not in by_seed and name not in called]
        deciding = deciding_of(rows, study)
        predictions = [study.macro(**one) for one in wanted["predictions"]]
        table += [{"kind": "figures", "set": label, **row} for row in deciding.table(CONFIDENCE)]

        merged, predicted = (np.mean([f.values["rho"]["macro"] for f in by_seed[kind]], axis=0) for kind in by_seed)
        null_S = null.values["rho"]["macro"]
        whole = summarise(merged, CONFIDENCE, "undefined")
        above_null = summarise(merged - null_S, CONFIDENCE, "undefined")
        match = tokens_to_match(whole.value, {count: rho(found) for count, found in trained.items()})
        full = meta["reference_tokens"]
        ratios = {
            key: None if value is None else NUM_PROXIES * value / meta["component_tokens"]
            for key, value in asdict(match).items()
            if key != "reason"
        }
        summary |= {
            f"rho_macro{tail}": whole.value,
            f"rho_macro{tail}_lo": whole.low,
            f"rho_macro{tail}_hi": whole.high,
            **_between_sets(f"rho_macro{tail}_seed_std", by_seed["merge"]),
            f"rho_macro{tail}_predictions": float(predicted[0]),
            f"rho_macro{tail}_null": rho(null),
            f"rho_macro{tail}_minus_null": above_null.value,
            f"rho_macro{tail}_minus_null_lo": above_null.low,
            f"rho_macro{tail}_minus_null_hi": above_null.high,
            **{f"trained_rho_macro{tail}_{_fraction(count / full)}": rho(found) for count, found in trained.items()},
            f"token_ratio{tail}_to_match": ratios["num_tokens"],
            f"token_ratio{tail}_more_than": ratios["more_than"],
            f"token_ratio{tail}_at_most": ratios["at_most"],
            f"recovery_macro{tail}": float(np.mean([f.values["recovery"]["macro"][0] for f in by_seed["merge"]])),
            **{f"{key}{tail}": value for key, value in study.noise().items()},
            **{
                f"rho_macro{tail}_{name}": float(np.mean([found.values["rho"]["macro"][0] for found in named[name]]))
                for name in others
            },
            **deciding.summary(CONFIDENCE, tail, called),
            **study.one_training(tail, predictions),
        }
    deltas = [row["delta"] for row in rows if row["kind"] == "component" and row["run"] == RECIPE]
    summary |= {
        "num_references": len(study.mixtures),
        "num_orders": study.num_orders,
        "num_seeds": len(wanted["merge"]),
        "delta_max": max(deltas),
    }
    return table, summary


def _between_sets(key: str, found: Sequence[Figures]) -> dict[str, float]:
    """The standard deviation of rho between sets of components, where there are several."""
    return {key: float(np.std([rho(one) for one in found], ddof=1))} if len(found) > 1 else {}


def _fraction(share: float) -> str:
    return {0.125: "eighth", 0.25: "quarter", 0.5: "half"}.get(round(share, 3), f"{share:.3f}")


def _figures_row(found: list[Figures]) -> dict[str, Any]:
    """By measure and capability: the mean over seeds with its interval over references, and every seed's own."""
    row: dict[str, Any] = {}
    for measure in ("rho", "rho_top", "recovery"):
        row[measure] = {}
        for name in found[0].values[measure]:
            reason = found[0].reasons[measure].get(name, "undefined")
            mean = summarise(np.mean([f.values[measure][name] for f in found], axis=0), CONFIDENCE, reason)
            interval = (mean.value, mean.low, mean.high)
            row[measure][name] = [None if value is None else round(value, 4) for value in interval]
    return row


def committed(result: str) -> list[dict[str, Any]]:
    """The rows of a study that was run, without the figures."""
    rows = json.loads((RESULTS / f"{result}.json").read_text())["rows"]
    return [row for row in rows if row["kind"] != "figures"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the study's runs are, or will be")
    parser.add_argument("--fresh", type=int, metavar="SEED", help="everything anew, into a file of its own")
    parser.add_argument("--sets", type=int, default=1 + len(SEEDS), help="sets of component models")
    parser.add_argument("--ablations", nargs="*", choices=(*BETAS, *METHODS), default=[*BETAS, *METHODS])
    parser.add_argument("--all", action="store_true", help="the committed studies together, the first and fresh ones")
    parser.add_argument("--quick", action="store_true", help="the figures again, from the committed scores")
    parser.add_argument("--recompute", action="store_true", help="the same, into the file that the scores are in")
    parser.add_argument("--page", action="store_true", help="the study's page, from the committed scores")
    arguments = parser.parse_args()
    if arguments.fresh in (0, *SEEDS):
        parser.error(f"--fresh {arguments.fresh}: a seed that the first study has not used")
    result = RECIPE if arguments.fresh is None else FRESH.format(arguments.fresh)
    if arguments.all:
        fresh = sorted(path.stem for path in RESULTS.glob(f"{FRESH.format('*')}.json"))
        finish(f"{RECIPE}_all", arguments.quick, [], *joint([committed(name) for name in (RECIPE, *fresh)]))
        return
    if arguments.quick or arguments.recompute or arguments.page:
        rows = committed(result)
    else:
        runs = arguments.runs.resolve()
        settings = [] if arguments.fresh is None else [f"seed={arguments.fresh}"]
        rows = [*collect(runs, arguments.sets, arguments.ablations, *settings), meta_row(runs)]
    if arguments.page:
        write_page(rows, arguments.runs.resolve())
        return
    table, summary = analyse(rows)
    if arguments.recompute:
        recompute(result, [*rows, *table], summary)
        return
    seeds = [*range(arguments.sets)] if arguments.fresh is None else [arguments.fresh]
    finish(result, arguments.quick, seeds, [*rows, *table], summary)


def meta_row(runs: Path) -> dict[str, Any]:
    manifest = read_json(runs / RECIPE / "datasets" / "manifest.json")
    dataset_capability = {name: record["capability"] for name, record in manifest["datasets"].items()}
    owners = {f"benchmark/{name}": record["capability"] for name, record in manifest["benchmarks"].items()}
    records = [read_json(path) for path in (runs / RECIPE).glob("models/component/*/record.json")]
    return {
        "kind": "meta",
        "capability_of": {**owners, **{f"heldout/{name}": owner for name, owner in dataset_capability.items()}},
        "dataset_capability": dataset_capability,
        "component_tokens": sum(record["num_tokens"] for record in records),
        "reference_tokens": read_json(runs / RECIPE / "models/reference/ref_000/record.json")["num_tokens"],
    }


if __name__ == "__main__":
    main()
