"""What changes and what limits it; which trades there are; whether the answer is flat or sharp."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from nemo_demix.mixture import epochs, placed_otherwise
from nemo_demix.report.blocks import Cell, Figure, Section, Table, number, percent, sentence
from nemo_demix.report.figures import Line, Mark, Point, forest, lines, scatter, shortened
from nemo_demix.report.records import RunRecords
from nemo_demix.report.units import UNKNOWN, directions, spread_of_mean, units
from nemo_demix.search.floors import FLOORS_COST, differences_of

_NO_MIXTURE = "No mixture has been chosen yet: `nemo-demix search` does."
_SHOWN_BASELINES = 3  # in the figure; the table has all
_MOST_PANELS = 3  # pairs of capabilities


def mixture_section(run: RunRecords) -> Section:
    """Return the shares of the chosen mixture beside each baseline."""
    if run.mixture is None:
        return Section("mixture", "The mixture", "What changes, and what limits it?", missing=_NO_MIXTURE)
    shares, baselines = run.mixture["data_shares"], run.mixture["baselines"]
    compared = {name: one["data_shares"] for name, one in baselines.items()}
    first = "heuristic" if "heuristic" in compared else next(iter(compared), None)
    figures, notes = _share_figure(run, compared), _limits(run)
    return Section(
        "mixture", "The mixture", "What changes, and what limits it?",
        answer=_changes(shares, compared.get(first or "", {}), first), figures=figures,
        tables=[_shares_table(run, compared), *_floors_table(run), *_epochs_table(run, compared)], notes=notes,
    )  # fmt: skip


def _changes(shares: Mapping[str, float], baseline: Mapping[str, float], name: str | None) -> str:
    if name is None:
        return f"The shares of {len(shares)} datasets."
    changes = sorted(((share - baseline.get(key, 0.0), key) for key, share in shares.items()), key=lambda one: one[0])
    moved = placed_otherwise(shares, baseline)
    up = [f"{key} {percent(change, signed=True)}" for change, key in reversed(changes[-2:]) if change > 0.0005]
    down = [f"{key} {percent(change, signed=True)}" for change, key in changes[:2] if change < -0.0005]
    return (
        f"{percent(moved)} of the data are placed otherwise than in the {name} mixture. Most gained: "
        f"{sentence(up) or 'none'}. Most lost: {sentence(down) or 'none'} (in points of the whole)."
    )


def _bounds(run: RunRecords, name: str) -> tuple[float | None, float | None]:
    """Return the 5th and the 95th percentile over refits; over the mixtures whose mean was taken where there are no
    refits.
    """
    assert run.mixture is not None
    known = run.mixture["intervals"].get(name) or {}
    bounds = known.get("refits") or known.get("top")
    return (bounds[0], bounds[1]) if bounds else (None, None)


def _share_figure(run: RunRecords, compared: Mapping[str, Mapping[str, float]]) -> list[Figure]:
    assert run.mixture is not None
    shares = run.mixture["data_shares"]

    def marks(given: Mapping[str, float], with_bounds: bool) -> list[Mark]:
        rows = []
        for name in shares:
            low, high = _bounds(run, name) if with_bounds else (None, None)
            ends = [None if end is None else 100 * end for end in (low, high)]
            rows.append(Mark(name, 100 * given.get(name, 0.0), ends[0], ends[1]))
        return rows

    series = {"chosen": marks(shares, True)}
    series |= {name: marks(given, False) for name, given in list(compared.items())[:_SHOWN_BASELINES]}
    known = any(mark.low is not None for mark in series["chosen"])
    note = (
        "Line: from the 5th to the 95th percentile of what refits on resampled proxies or items "
        "choose. Baselines are given, "
        "not estimated: hollow marks."
        if known
        else "These shares are given, not estimated: they have no interval."
    )
    svg = forest(
        "shares", "Data shares of the chosen mixture and of baselines", series, "data share, % (neither way is better)"
    )
    return [Figure("Data share of each dataset, % of the final run's tokens", svg, note)]


def _shares_table(run: RunRecords, compared: Mapping[str, Mapping[str, float]]) -> Table:
    assert run.mixture is not None
    weights, capability_of = run.mixture["merge_weights"], run.capability_of
    tokens = {} if run.manifest is None else {n: r.num_train_tokens for n, r in run.manifest.datasets.items()}
    rows: list[list[Cell | str]] = []
    for name, share in run.mixture["data_shares"].items():
        low, high = _bounds(run, name)
        between = "—" if low is None else f"{percent(low)} to {percent(high)}"
        rows.append(
            [
                name,
                capability_of.get(name, "—"),
                f"{tokens[name]:,}" if name in tokens else "—",
                number(weights.get(name), 3),
                percent(share),
                between,
                *(percent(given.get(name, 0.0)) for given in compared.values()),
            ]
        )
    columns = ["dataset", "capability", "tokens there are", "merge weight", "chosen share", "5 to 95 % of refits"]
    return Table("Shares of the final run's tokens", [*columns, *compared], rows, num_text=2)


def _floors_table(run: RunRecords) -> list[Table]:
    """Return what floors cost, where predictions chose: this run's first."""
    assert run.mixture is not None
    prices = run.mixture["notes"].get("floors")
    if not prices:
        return []
    columns, differences = differences_of(prices)
    rows: list[list[Cell | str]] = []
    for (label, values), price in zip(differences.items(), prices, strict=True):
        shares = ", ".join(f"{name} {percent(share)}" for name, share in price["data_shares"].items() if share > 5e-4)
        rows.append([label, shares, *(number(value, signed=True) for value in values)])
    return [Table(FLOORS_COST, ["floor", "mixture", *columns], rows, num_text=2)]


def _epochs_table(run: RunRecords, compared: Mapping[str, Mapping[str, float]]) -> list[Table]:
    """Return how often the final run sees each dataset."""
    assert run.mixture is not None
    chosen = run.mixture["epochs"]
    if not chosen or run.manifest is None:
        return []
    tokens = {name: record.num_train_tokens for name, record in run.manifest.datasets.items()}
    budget = run.config.final.num_tokens
    others = {name: epochs(given, budget, tokens) for name, given in compared.items()}
    rows: list[list[Cell | str]] = [
        [name, number(chosen[name], 2), *(number(other[name], 2) for other in others.values())] for name in chosen
    ]
    return [Table(f"Epochs in a final run of {budget:,} tokens", ["dataset", "chosen", *others], rows, is_open=False)]


def _limits(run: RunRecords) -> list[str]:
    assert run.mixture is not None
    met, notes = run.mixture["constraints"], []
    if met["binding"]:
        notes.append(f"Binding constraints, met so closely that they decided something: {', '.join(met['binding'])}.")
    else:
        notes.append("No constraint is binding.")
    if not met["satisfied"]:
        notes.append("The mixture does NOT satisfy all constraints.")
    for edge in run.mixture.get("reach", ()):  # earlier releases did not look
        notes.append(
            f"{edge['dataset']} has the {edge['bound']} share that mixtures of these components can stand for, "
            f"{percent(edge['share'])}."
            + (
                f" One hundredth more beyond it is predicted to gain {number(edge['gain'])} of the objective."
                if edge["gain"] and edge["gain"] > 0
                else ""
            )
        )
    notes += [str(warning) for warning in run.mixture["warnings"]]
    for name, one in run.mixture["baselines"].items():
        if one["unreachable_share"] > 1e-6:
            notes.append(
                f"{percent(one['unreachable_share'])} of the {name} mixture's data are beyond what a merge of these "
                "components can stand for; its proxy is the nearest merge."
            )
    return notes


def pareto_section(run: RunRecords) -> Section:
    """Return the trades between capabilities, each with its mixture."""
    key, title, question = "trades", "Trades between capabilities", "Which trade?"
    if run.mixture is None:
        return Section(key, title, question, missing=_NO_MIXTURE)
    if not run.pareto:
        return Section(
            key, title, question, missing="This strategy predicts no pool of mixtures, so there is no front."
        )
    front, names, ways, known = run.pareto, list(run.pareto[0]["predicted"]), directions(run), units(run)
    if len(names) < 2:
        return Section(key, title, question, missing="There is one capability: nothing to trade.")
    labels = {name: f"{name}, {known.get(name, UNKNOWN)}{_better(ways.get(name))}" for name in names}
    chosen, figures = run.mixture["predicted"], []
    for number_, (x, y) in enumerate(list(combinations(names, 2))[:_MOST_PANELS]):
        points = [Point(one["predicted"][x], one["predicted"][y], f"trade {place}") for place, one in enumerate(front)]
        series = {"trades": points}
        if set(chosen) == set(names):
            series["chosen"] = [
                Point(chosen[x]["score"], chosen[y]["score"], "chosen", chosen[x]["std"], chosen[y]["std"])
            ]
        svg = scatter(f"trades{number_}", f"Predicted {x} against predicted {y}", series, (labels[x], labels[y]))
        figures.append(Figure(f"{x} against {y}, predicted", svg))
    stds = {name: one["std"] for name, one in chosen.items() if one["std"] is not None}
    note = (
        "Bars at the chosen mixture: one standard deviation of a prediction, the same order for all of them."
        if stds
        else "The predictions of this strategy have no standard deviation: what they are off by shows only where "
        "`verify` trained references."
    )
    shares = list(front[0]["data_shares"])
    rows = [
        [
            f"trade {place}",
            *(number(one["predicted"][name]) for name in names),
            *(percent(one["data_shares"][share]) for share in shares),
        ]
        for place, one in enumerate(front)
    ]
    columns = ["mixture", *(labels[name] for name in names), *(f"share of {share}" for share in shares)]
    return Section(
        key,
        title,
        question,
        answer=f"{len(front)} mixtures that no other one is predicted to beat in every capability. Choose one in the "
        "table to see where it lies; its shares are `search.heuristic`.",
        figures=figures,
        tables=[Table("Mixtures of the front", columns, rows, picks=True)],
        notes=[note],
    )


def _better(higher: bool | None) -> str:
    return "" if higher is None else " (higher is better)" if higher else " (lower is better)"


def slices_section(run: RunRecords) -> Section:
    """Return the objective along lines through the chosen mixture."""
    key, title, question = "shape", "Around the chosen mixture", "Flat or sharp?"
    if run.mixture is None:
        return Section(key, title, question, missing=_NO_MIXTURE)
    if run.slices is None:
        why = "This strategy or objective predicts nothing around its mixture, or an earlier release searched"
        return Section(key, title, question, missing=f"{why}; `nemo-demix search force=true` searches again.")
    return Section(key, title, question, **_slices(run, run.slices))


def _slices(run: RunRecords, slices: Mapping[str, Any]) -> dict[str, Any]:
    assert run.mixture is not None
    unit = "share of the proxies' span" if run.mixture["objective"] == "utility" else spread_of_mean(run).unit
    label = f"objective less the chosen mixture's, {unit} (lower is better)"
    note = "Band: 5th to 95th percentile over refits on resampled proxies or items. Dashed: the chosen mixture."
    figures, rows, line = [], [], slices["line"]
    if line is not None and _has_band(line["points"]):
        title = f"From the {line['baseline']} mixture to the chosen one and beyond"
        drawn = _line(line["points"], 1.0)
        axes = (f"0: {shortened(line['baseline'])}, 1: chosen (no unit)", label)
        figures.append(Figure(title, lines("line", title, {"objective": drawn}, axes, 1.0), note))
    for place, (name, one) in enumerate(slices["datasets"].items()):
        points = one["points"]
        if _has_band(points):
            title = f"Along the share of {name}, the other components in proportion"
            axes = (f"share of {shortened(name)}, %", label)
            drawn = _line(points, 100.0)
            figures.append(
                Figure(title, lines(f"slice{place}", title, {"objective": drawn}, axes, 100 * one["chosen"]))
            )
        rows.append([name, *_flat(points, one["chosen"])])
    columns = ["dataset", "chosen share", "not told apart from it", f"objective at both ends, {unit}"]
    caption = "How far each share can move before most refits call it worse"
    widths = [f"{name} ({cells[1]})" for name, *cells in rows if cells[1] != "—"]
    return {
        "answer": f"Shares that are not told apart from the chosen one's objective: {sentence(widths)}."
        if widths
        else "Without refits (`search.num_refits`) nothing says how far the curves are to be trusted.",
        "figures": figures,
        "tables": [Table(caption, columns, rows)],
        "notes": [] if figures else ["No refits were made, so the curves have no intervals and are not drawn."],
    }


def _has_band(points: Sequence[Mapping[str, Any]]) -> bool:
    return all(point["low"] is not None for point in points)


def _line(points: Sequence[Mapping[str, Any]], scale: float) -> Line:
    xs = [scale * point["at"] for point in points]
    return Line(xs, *([point[key] for point in points] for key in ("difference", "low", "high")))


def _flat(points: Sequence[Mapping[str, Any]], chosen: float) -> list[str]:
    """Return the chosen share, the stretch around it that refits do not call worse, and what the ends would cost."""
    ends = ", ".join(number(points[place]["difference"], signed=True) for place in (0, -1))
    if not _has_band(points):
        return [percent(chosen), "—", ends]
    even = [chosen, *(point["at"] for point in points if point["low"] <= 0)]
    return [percent(chosen), f"{percent(min(even))} to {percent(max(even))}", ends]
