"""More proxies? How the best moved as proxies came, and what everything cost against trained proxies."""

import math
from collections.abc import Mapping
from typing import Any

from nemo_demix.report.blocks import Cell, Figure, Section, Table, counted, duration, number, percent
from nemo_demix.report.figures import Line, lines
from nemo_demix.report.records import RunRecords
from nemo_demix.report.units import MIXED, macro_unit
from nemo_demix.scoring.items import NORMAL, Scores


def progress_section(run: RunRecords) -> Section:
    """Return the best macro score so far, proxy after proxy."""
    key, title, question = "progress", "As proxies came", "More proxies?"
    rows = [row for row in run.scored if row.capabilities]
    if len(rows) < 2:
        why = run.rows_reason or "these scores were imported, all at once"
        return Section(key, title, question, missing=f"No proxies in an order: {why}.")
    unit = macro_unit(score.unit for score in rows[0].capabilities.values())
    ways = {score.higher_is_better for score in rows[0].capabilities.values()}
    if unit == MIXED or len(ways) > 1:
        return Section(key, title, question, missing="Capabilities of several units or directions have no one best.")
    higher = ways.pop()
    values = [_macro(row.capabilities) for row in rows]
    best, errors, best_at, place = [], [], [], 0
    for number_, (value, _) in enumerate(values):
        if (value > values[place][0]) if higher else (value < values[place][0]):
            place = number_
        best_at.append(place)
        best.append(values[place][0])
        errors.append(values[place][1])
    counts = list(range(1, len(rows) + 1))
    known = all(error is not None for error in errors)
    low, high = (
        [one + side * NORMAL * (error or 0.0) for one, error in zip(best, errors, strict=True)] for side in (-1, 1)
    )
    svg = lines(
        "progress", "Best macro score so far",
        {"best so far": Line(counts, best, low if known else None, high if known else None),
         "each proxy": Line(counts, [value for value, _ in values])},
        ("proxies scored", f"macro score, {unit} ({'higher' if higher else 'lower'} is better)"),
    )  # fmt: skip
    iterations: dict[Any, list[int]] = {}
    for number_, row in enumerate(rows):
        iterations.setdefault(row.iteration, []).append(number_)
    table: list[list[Cell | str]] = []
    for name, members in iterations.items():
        own = [values[one][0] for one in members]
        table.append(
            [
                "—" if name is None else str(name), str(len(members)), number(max(own) if higher else min(own)),
                number(sum(own) / len(own)), number(best[members[-1]]),
            ]
        )  # fmt: skip
    names = list(rows[0].merge_weights)
    kept = {name: rows[best_at[members[-1]]].merge_weights for name, members in iterations.items()}
    moved: list[list[Cell | str]] = [
        ["—" if name is None else str(name), *(number(weights.get(one, 0.0), 3) for one in names)]
        for name, weights in kept.items()
    ]
    last = counts[[one == best[-1] for one in best].index(True)]
    failed = len(run.rows) - len(run.scored)
    return Section(
        key, title, question,
        answer=(
            f"The best of {len(rows)} proxies was the {last}. one; after it {len(rows) - last} brought "
            f"nothing better."
        )
        + (f" {failed} failed." if failed else ""),
        figures=[Figure("Best proxy so far", svg, (
            "Band: 95 % interval of the best one's score over items; the best of many is partly "
            "luck."
        ))],
        tables=[
            Table("By iteration", ["iteration", "proxies", f"best, {unit}", "mean", "best so far"], table),
            Table("The best proxy so far, after each iteration: its weights", ["iteration", *names], moved),
        ],
        notes=["What the mixture itself would have been after fewer proxies is not in the records."],
    )  # fmt: skip


def _macro(capabilities: Scores) -> tuple[float, float | None]:
    scores, errors = ([getattr(one, name) for one in capabilities.values()] for name in ("score", "stderr"))
    stderr = None if None in errors else math.hypot(*errors) / len(errors)
    return sum(scores) / len(scores), stderr


def ledger_section(run: RunRecords) -> Section:
    """Return tokens and device-seconds by stage, beside the same search over trained proxies."""
    key, title, question = "cost", "Cost", "Was it worth it?"
    stages = run.stages
    if not stages:
        return Section(key, title, question, missing="Nothing was trained or scored in this folder.")
    rows: list[list[Cell | str]] = []
    for name, stage in stages.items():
        count = (
            counted(stage["num_models"], "model") if "num_models" in stage else counted(stage["num_proxies"], "proxy")
        )
        rows.append([name, count, f"{stage['num_tokens']:,}", duration(stage["device_s"])])
    tokens = sum(stage["num_tokens"] for stage in stages.values())
    seconds = sum(stage["device_s"] for stage in stages.values())
    rows.append(["all", "", f"{tokens:,}", duration(seconds)])
    tables = [Table("Spent, by stage", ["stage", "made", "tokens trained", "device time"], rows, num_text=2)]
    cost = run.cost
    answer = f"{tokens:,} tokens and {duration(seconds)} of devices so far."
    if cost is not None:
        answer = _worth(cost, stages) or answer
        tables += _growth(cost)
    if run.timing:
        times = [
            [row["stage"], f"{row['wall_time_s']:,.0f} s", f"{row['peak_memory_gib']:.2f} GiB"] for row in run.timing
        ]
        caption = (
            "Each call of `run`: wall time and peak memory of all processes on the leading node; what "
            "was done already takes no time"
        )
        tables.append(Table(caption, ["stage", "wall time", "peak memory"], times, is_open=False))
    notes = [
        "Device time is that of training, merging and scoring, without start-up. These are counts, "
        "not estimates: they have no interval."
    ]
    return Section(key, title, question, answer=answer, tables=tables, notes=notes)


def _worth(cost: Mapping[str, Any], stages: Mapping[str, Mapping[str, Any]]) -> str:
    trained, components = cost["if_proxies_were_trained"], stages.get("components")
    if trained is None or components is None:
        return ""
    ratio = trained["num_tokens"] / components["num_tokens"] if components["num_tokens"] else None
    text = (
        f"As many proxies, each trained as long as a component, would take {trained['num_tokens']:,} tokens"
        + (f", {ratio:.1f} times the components'" if ratio else "")
        + f"; merging pays from {cost['break_even_proxies']} proxies on."
    )
    same = cost["same_answer_by_trained_proxies"]
    if same["num_tokens"] is not None:
        return text + f" Trained proxies that order mixtures as well: {same['num_tokens']:,} tokens."
    return text + f" What trained proxies that order mixtures as well would take: {same['reason']}."


def _growth(cost: Mapping[str, Any]) -> list[Table]:
    growth = cost.get("growth")
    if growth is None:
        return []
    rows: list[list[Cell | str]] = []
    for row in growth["rows"]:
        ours, theirs = row["component_tokens"], row["trained_proxy_tokens"]
        counts = [f"{row[count]:,}" for count in ("num_datasets", "num_proxies")]
        rows.append([*counts, f"{ours:,}", f"{theirs:,}", percent(ours / theirs)])
    how = (
        "as `verify` measured it"
        if growth["measured"]
        else "as long as a component: how long it takes was not measured"
    )
    columns = ["datasets", "proxies", "tokens of components", "tokens of trained proxies", "share"]
    caption = f"As datasets grow in number: components against trained proxies, each {how}"
    return [Table(caption, columns, rows, is_open=False)]
