"""Is the proxy true, is the predictor true: each against what was really measured."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from nemo_demix.fidelity.objective import macro_losses, macro_of_sets
from nemo_demix.fidelity.record import stand_in_name
from nemo_demix.report.blocks import Cell, Figure, Section, Table, interval, number, percent, sentence
from nemo_demix.report.figures import Mark, Point, forest, scatter
from nemo_demix.report.records import RunRecords
from nemo_demix.report.units import UNKNOWN, directions, units
from nemo_demix.scoring.identity import averaged_scores, judged_scores, shares_of
from nemo_demix.scoring.items import NORMAL, Scores
from nemo_demix.scoring.scores import gap
from nemo_demix.search.baselines import CHOSEN

_SETS = {"benchmarks": "the benchmarks", "heldout": "held-out text"}


def proxies_section(run: RunRecords) -> Section:
    """Compare proxies with trained references where `verify` has any, else predictions with the final models."""
    key, title, question = "proxies", "Proxies against trained models", "Is the proxy true?"
    if run.fidelity is not None:
        return Section(key, title, question, **_study(run))
    if run.result is not None and run.mixture is not None and run.mixture["predicted"]:
        return Section(key, title, question, **_against_final(run))
    why = (
        "No model was trained on a whole mixture yet: `nemo-demix verify` trains references, `nemo-demix "
        "final` the answer."
    )
    return Section(key, title, question, missing=why)


def study_answer(run: RunRecords) -> str:
    """Return what the study of the references says of proxies, by the first set of scores that has an answer; else
    nothing.
    """
    for name, called in _SETS.items():
        objective = (run.fidelity or {}).get(name, {}).get("objective")
        if objective is not None and not objective["reason"]:
            return _study_answer(run, objective, called)
    return ""


def _study(run: RunRecords) -> dict[str, Any]:
    assert run.fidelity is not None
    figures, tables, notes = [], [], []
    for name, called in _SETS.items():
        if name not in run.fidelity:
            continue
        objective = run.fidelity[name].get("objective")
        if objective is None:  # a release that compared capabilities alone
            notes.append(f"The macro score of {called} was not measured: run `nemo-demix verify` again.")
            continue
        if objective["reason"]:
            notes.append(f"The macro score of {called} is undefined: {objective['reason']}.")
            continue
        figures.append(_rho_figure(run, name, objective, called))
        tables.append(_decision_table(objective, called, run.fidelity["confidence"]))
        for kind, proxies in run.stand_ins.items():
            drawn = _references_figure(run, name, kind, proxies, objective)
            if drawn is not None and name == "benchmarks":
                figures.insert(len(figures) - 1, drawn)
        if objective["left_out"]["reason"]:
            notes.append(f"At equal cost: {objective['left_out']['reason']}.")
        noise = run.fidelity[name]["seed_noise"]
        ceiling = noise["ceiling_rho"]["macro"]
        notes.append(
            f"Noise of training on {called}: {noise['reason']}."
            if noise["std"]["macro"] is None
            else f"Noise of training on {called}: standard deviation {number(noise['std']['macro'])} "
            f"{objective['unit']} between seeds, macro; no proxy can be expected above rho {number(ceiling, 2)}."
        )
    notes += [f"Left out: {name}: {reason}." for name, reason in run.fidelity["excluded"].items()]
    tables += [_capability_table(run, name, called) for name, called in _SETS.items() if name in run.fidelity]
    return {"answer": study_answer(run), "figures": figures, "tables": tables, "notes": notes}


def _study_answer(run: RunRecords, objective: Mapping[str, Any], called: str) -> str:
    assert run.fidelity is not None
    parts = []
    for kind in ("predictions", "merge"):
        if kind in objective["proxies"]:
            rho, pairs = objective["proxies"][kind]["rho"], objective["proxies"][kind]["pairs"]
            parts.append(
                f"{stand_in_name(kind)}: rho {number(rho['value'], 2)} ({interval(rho['low'], rho['high'], 2)}), "
                f"{percent(pairs['value'], 0)} of pairs in the right order"
            )
    orders = f" (means of {_num_orders(run)} data orders)" if _num_orders(run) > 1 else ""
    return f"On {called}, against {run.fidelity['num_references']} trained references{orders}: {'; '.join(parts)}."


def _num_orders(run: RunRecords) -> int:
    """Return how many data orders a reference is the mean of; earlier releases took the first alone."""
    return int((run.fidelity or {}).get("num_orders", 1))


def _rho_figure(run: RunRecords, name: str, objective: Mapping[str, Any], called: str) -> Figure:
    assert run.fidelity is not None
    fitted = objective["left_out"]["num_fitted"]
    marks = []
    for proxy, figures in _in_order(objective["proxies"]).items():
        rho = figures["rho"]
        if rho["value"] is not None:
            marks.append(Mark(stand_in_name(proxy, fitted), rho["value"], rho["low"], rho["high"]))
    left_out = objective["left_out"]["proxies"]
    for proxy, figures in left_out.items():
        if proxy not in objective["proxies"] and figures["rho"]["value"] is not None:
            rho = figures["rho"]
            marks.append(Mark(stand_in_name(proxy, fitted), rho["value"], rho["low"], rho["high"]))
    title = f"Spearman's rho with {run.fidelity['num_references']} references, macro score of {called}"
    svg = forest(f"rho-{name}", title, {"rho": marks}, "rho (→ better), no unit", 0.0)
    return Figure(
        title, svg,
        f"Lines: {percent(run.fidelity['confidence'], 0)} intervals over references. A null needs no model; "
        f"the ridge was fitted to as "
        "many references as the components cost. A proxy that does not beat these has shown nothing.",
    )  # fmt: skip


def _in_order(proxies: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the order, with those trained on more tokens after those trained on fewer."""
    trained = iter(sorted((one for one in proxies if one.startswith("trained_")), key=lambda one: int(one[8:])))
    names = [next(trained) if one.startswith("trained_") else one for one in proxies]
    return {name: proxies[name] for name in names}


def _decision_table(objective: Mapping[str, Any], called: str, confidence: float) -> Table:
    fitted, unit = objective["left_out"]["num_fitted"], objective["unit"]
    rows: list[list[Cell | str]] = []
    apart = objective["left_out"]["proxies"]
    for proxy in _in_order({**objective["proxies"], **apart}):
        figures = objective["proxies"].get(proxy)
        left_out = apart.get(proxy, {}).get("rho", {}).get("value")
        cells = ["—"] * 6
        if figures is not None:
            rho, value = figures["rho"], {name: one["value"] for name, one in figures.items()}
            cells = [
                number(rho["value"], 2),
                interval(rho["low"], rho["high"], 2),
                percent(value["pairs"], 0),
                number(value["regret"]),
                number(value["slope"], 2),
                number(value["residual"]),
            ]
        rows.append([stand_in_name(proxy, fitted), *cells, number(left_out, 2)])
    columns = [
        "stand-in", "rho (higher is better)", f"{percent(confidence, 0)} interval", "pairs right", f"regret, {unit}", (
            "slope (1 is "
            "true)"
        ),
        f"residual, {unit}", "rho at equal cost",
    ]  # fmt: skip
    caption = (
        f"Would it choose as the references do? Macro score of {called}. Regret: how much worse its "
        f"favourite is than the best "
        f"reference. Equal cost: on references that a regression of {fitted} references was not fitted to"
    )
    return Table(caption, columns, rows)


def _capability_table(run: RunRecords, name: str, called: str) -> Table:
    """Return rho and recovery by capability, of all that stands for the references (DeMix's Table 2)."""
    assert run.fidelity is not None
    rows: list[list[Cell | str]] = []
    for proxy, found in _in_order(run.fidelity[name]["proxies"]).items():
        cells = [f"{number(one['value'], 2)} ({interval(one['low'], one['high'], 2)})" for one in found["rho"].values()]
        recovery = found.get("recovery", {}).get("macro", {}).get("value")
        rows.append([stand_in_name(proxy), *cells, number(recovery, 3)])
    capabilities = list(next(iter(run.fidelity[name]["proxies"].values()))["rho"])
    columns = [
        "stand-in",
        *(f"rho, {'mean' if one == 'macro' else one}" for one in capabilities),
        "recovery (1 is true)",
    ]
    caption = (
        f"By capability, on {called}: Spearman's rho with its {percent(run.fidelity['confidence'], 0)} interval "
        "(higher is better), and the proxies' scores over the references'"
    )
    return Table(caption, columns, rows, is_open=False)


def _references_figure(
    run: RunRecords, name: str, kind: str, proxies: Mapping[str, Scores], objective: Mapping[str, Any]
) -> Figure | None:
    """Return each reference's macro score against its stand-in's; None where the scores are not here."""
    names = [one for one in run.references if one in proxies and one not in (run.fidelity or {})["excluded"]]
    if run.manifest is None or len(names) < 2:
        return None
    found = macro_of_sets(run.config, run.manifest)[name]
    if found.reason:  # the suite has changed since
        return None
    references = {one: row.scores for one, row in run.references.items()}
    try:
        true, proxy = (
            (-1.0 if objective["higher_is_better"] else 1.0)
            * macro_losses(found, {one: given[one] for one in names}, objective["higher_is_better"])
            for given in (references, proxies)
        )
    except KeyError:  # the suite has changed since
        return None
    noise = (run.fidelity or {})[name]["seed_noise"]["std"]["macro"]
    error = None if noise is None else NORMAL * noise / math.sqrt(_num_orders(run))
    points = [Point(float(x), float(y), one, None, error) for one, x, y in zip(names, proxy, true, strict=True)]
    unit, called = objective["unit"], stand_in_name(kind)
    way = "higher" if objective["higher_is_better"] else "lower"
    title = f"Trained references against {called} proxies of the same mixtures"
    note = "Dashed: slope 1, where a proxy would be exact. " + (
        "Bars: 95 % of the noise between training seeds."
        if error
        else "The noise between training seeds was not measured."
    )
    labels = (f"{called}, {unit} ({way} is better)", f"trained reference, {unit}")
    return Figure(title, scatter(f"references-{kind}", title, {called: points}, labels, same_scale=True), note)


def _against_final(run: RunRecords) -> dict[str, Any]:
    """Return what was predicted that the final models would differ by, against what they do, by capability and
    baseline.
    """
    assert run.result is not None
    assert run.mixture is not None
    assert run.manifest is not None
    models, predicted = run.result["models"], run.mixture["predicted"]
    shares = shares_of(averaged_scores(judged_scores(run.config.suite, run.manifest)))
    ways, known = directions(run), units(run)
    series: dict[str, list[Point]] = {}
    rows: list[list[Cell | str]] = []
    for name in models:
        baseline = run.mixture["baselines"].get(name, {}).get("predicted", {})
        if name == CHOSEN or not baseline:
            continue
        for capability, one in predicted.items():
            if capability not in models[CHOSEN]["capabilities"] or capability not in baseline:
                continue
            sign = -1.0 if ways.get(capability, False) else 1.0
            guess = sign * (one["score"] - baseline[capability])
            value, error = _measured(run, name, shares[capability])
            reach = None if error is None else NORMAL * error
            series.setdefault(capability, []).append(
                Point(guess, sign * value, f"{capability}, against {name}", None, reach)
            )
            low, high = (None, None) if reach is None else (sign * value - reach, sign * value + reach)
            rows.append(
                [
                    capability,
                    name,
                    number(guess, signed=True),
                    number(sign * value, signed=True),
                    interval(low, high, signed=True),
                ]
            )
    unit = next((known[one] for one in predicted if one in known), UNKNOWN)
    labels = (f"predicted difference, {unit} (← chosen is better)", f"trained difference, {unit} (↓ chosen is better)")
    title = "Trained against predicted differences of the chosen mixture to baselines"
    figure = Figure(
        title, scatter("against-final", title, series, labels, same_scale=True, cross=(0.0, 0.0)),
        "Dashed: slope 1. Bars: 95 % intervals over items, paired. In the upper left and lower right "
        "the prediction had the "
        "wrong sign.",
    )  # fmt: skip
    points = [point for some in series.values() for point in some]
    right = sum(point.x * point.y > 0 for point in points)
    columns = ["capability", "against", f"predicted, {unit}", f"trained, {unit}", "95 % interval"]
    return {
        "answer": f"{right} of {len(points)} predicted differences have the sign that the trained models show. That is "
        "all that so few models say: rho, decision accuracy and regret need references (`nemo-demix verify`).",
        "figures": [figure],
        "tables": [Table("Differences of the chosen mixture, negative is better", columns, rows, num_text=2)],
        "notes": [
            "Predictions are of the items that were searched, trained scores of items that no search "
            "saw, where there are such."
        ],
    }


def _measured(run: RunRecords, name: str, shares: Mapping[str, float]) -> tuple[float, float | None]:
    assert run.result is not None
    if not (CHOSEN in run.items and name in run.items):
        one, other = (run.result["models"][model]["scores"] for model in (CHOSEN, name))
        return sum(share * (one[score]["score"] - other[score]["score"]) for score, share in shares.items()), None
    gaps = {score: gap(run.items[CHOSEN][score], run.items[name][score]) for score in shares}
    errors = [gaps[score][1] for score in shares]
    total = sum(share * gaps[score][0] for score, share in shares.items())
    if None in errors:
        return total, None
    return total, sum(
        (share * (error or 0.0)) ** 2 for share, error in zip(shares.values(), errors, strict=True)
    ) ** 0.5


def predictor_section(run: RunRecords) -> Section:
    """Return the predictor out of fold, or how merges and mixed predictions agree."""
    key, title, question = "predictor", "Predicted against measured", "Is the predictor true?"
    if run.mixture is None:
        return Section(key, title, question, missing="No mixture has been chosen yet: `nemo-demix search` does.")
    checks = run.mixture["cross_validation"]
    if checks is not None:
        return Section(key, title, question, **_out_of_fold(run, checks))
    merges = run.mixture["notes"].get("merges") or {}
    if merges.get("rho"):
        rows = [[name, number(rho, 2)] for name, rho in merges["rho"].items()]
        known = [rho for rho in merges["rho"].values() if rho is not None]
        order = f"rho {interval(min(known), max(known), 2)} over capabilities" if known else "rho is undefined"
        caption = f"Spearman's rho of merges with predictions, {merges['number']} mixtures; 1 is the same order"
        return Section(
            key,
            title,
            question,
            answer="No regression was fitted: mixtures were chosen by mixed predictions of the components, exactly. "
            f"Do merged proxies put the same {merges['number']} mixtures in the same order? {order}.",
            tables=[Table(caption, ["capability", "rho"], rows)],
            notes=[
                "Rho has no interval here. That both kinds agree does not show that either is true: see the proxies."
            ],
        )
    return Section(key, title, question, missing="This strategy fits no predictor, so there is nothing to check.")


def _out_of_fold(run: RunRecords, checks: Mapping[str, Any]) -> dict[str, Any]:
    known = units(run)
    rows: list[list[Cell | str]] = []
    for level in ("capability", "benchmark"):
        for name, rho in checks[f"{level}_rho"].items():
            unit = known.get(name, UNKNOWN)
            spread = _spread(run, name)
            rmse = checks[f"{level}_rmse"][name]
            explained = None if not spread else 1 - (rmse / spread) ** 2
            label = f"{name} (capability)" if level == "capability" else name
            rows.append(
                [
                    label,
                    number(rho, 2),
                    number(checks[f"{level}_rho_top"][name], 2),
                    f"{number(rmse)} {unit}",
                    number(explained, 2),
                ]
            )
    columns = ["score", "rho (higher is better)", "rho, best quarter", "root mean square error", "R²"]
    caption = f"Out of fold: {checks['num_rows']} mixtures, {checks['folds']} folds, {checks['repeats']} repeats"
    tables = [Table(caption, columns, rows), *_residuals(run)]
    macro = number(checks["rho_macro"], 2)
    weak = [name for name, rho in checks["capability_rho"].items() if rho is None or rho < 0.5]
    answer = f"On mixtures that it was not fitted to, rho {macro} over capabilities"
    return {
        "figures": _out_of_fold_figures(run, checks),
        "answer": f"{answer}; weak in {sentence(weak)}." if weak else f"{answer}, none below 0.5.",
        "tables": tables,
        "notes": [
            "R²: the share of the spread between mixtures that is predicted; below 0: a constant would do better."
        ],
    }


def _residuals(run: RunRecords) -> list[Table]:
    """Return measured less predicted out of fold; of the mixtures that are predicted best too, where a search ends."""
    known, ways = units(run), directions(run)
    rows: list[list[Cell | str]] = []
    for name, one in run.out_of_fold.items():
        left_M = np.subtract(one["measured"], one["predicted"])
        best_M = np.argsort(one["predicted"])
        if ways.get(name):
            best_M = best_M[::-1]
        parts = (left_M, left_M[best_M[: max(2, len(left_M) // 4)]])
        means = [(part.mean(), NORMAL * part.std(ddof=1) / len(part) ** 0.5) for part in parts]
        cells = [f"{number(mean, signed=True)} ± {number(reach)}" for mean, reach in means]
        rows.append([name, known.get(name, UNKNOWN), *cells, number(float(np.abs(left_M).max()))])
    columns = ["capability", "unit", "mean (0 is true)", "mean, predicted best quarter", "largest, either sign"]
    caption = "Residuals: measured less predicted out of fold, means ± their 95 % intervals over mixtures"
    return [Table(caption, columns, rows, num_text=2)] if rows else []


def _out_of_fold_figures(run: RunRecords, checks: Mapping[str, Any]) -> list[Figure]:
    """Return a panel a capability: their levels differ more than their mixtures do."""
    known, ways, figures = units(run), directions(run), []
    for place, (name, one) in enumerate(run.out_of_fold.items()):
        unit = known.get(name, UNKNOWN)
        way = {True: " (higher is better)", False: " (lower is better)", None: ""}[ways.get(name)]
        points = [
            Point(guess, value, f"mixture {number_}")
            for number_, (guess, value) in enumerate(zip(one["predicted"], one["measured"], strict=True))
        ]
        title = f"{name}: measured against predicted out of fold, {unit}"
        labels = (f"predicted without it, {unit}{way}", f"measured, {unit}")
        svg = scatter(f"fold{place}", title, {name: points}, labels, same_scale=True)
        rmse = number(checks["capability_rmse"][name])
        note = f"Dashed: slope 1. Root mean square error {rmse} {unit}, the noise of the scores themselves included."
        figures.append(Figure(title, svg, note))
    return figures


def _spread(run: RunRecords, name: str) -> float | None:
    """Return the standard deviation of a score over the scored mixtures."""
    values = [row.scores[name].score for row in run.scored if name in row.scores]
    if not values:
        values = [row.capabilities[name].score for row in run.scored if name in row.capabilities]
    if len(values) < 3:
        return None
    mean = sum(values) / len(values)
    return float((sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5)
