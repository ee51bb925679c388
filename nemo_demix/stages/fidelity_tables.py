"""What `verify` ends with: would the proxies choose as the references do, the run's own Table 2, what to make of it."""

from typing import Any

from rich.console import Console
from rich.table import Table

from nemo_demix.fidelity.record import stand_in_name
from nemo_demix.fidelity.resampled import SIZES

_LINE = {"slope": 2, "residual": 4}  # digits; what has an order and no score has neither
_SETS = {"benchmarks": "the benchmarks", "heldout": "held-out text"}
_TITLES = {
    "benchmarks": "Proxies against {references}: gold answers of the benchmarks",
    "heldout": "Proxies against {references}: held-out text",
}


def print_fidelity(report: dict[str, Any]) -> None:
    """Print the objective; order by capability, noise, deltas, and the price of the same order by trained proxies."""
    console = Console(width=118)
    for name in _SETS:
        if name in report:
            _print_objective(console, report, name)
    for name in _TITLES:
        if name in report:
            console.print(_table(report, name))
            for line in _lines(report[name], report["confidence"]):
                console.print(line)
    deltas = {name: delta for name, delta in report["delta"].items() if delta is not None}
    if deltas:
        worst = max(deltas, key=lambda component: deltas[component])
        console.print(f"Delta of the components: {min(deltas.values()):.3f} to {deltas[worst]:.3f} ({worst}).")
    for name, reason in report["excluded"].items():
        console.print(f"Left out: {name}: {reason}.")


def _print_objective(console: Console, report: dict[str, Any], name: str) -> None:
    objective = report[name].get("objective")
    if objective is None:
        console.print(f"The macro score of {_SETS[name]} was not measured: run `nemo-demix verify` again.")
        return
    if objective["reason"]:
        console.print(f"The macro score of {_SETS[name]} is undefined: {objective['reason']}.")
        return
    left_out = objective["left_out"]
    console.print(_objective_table(report, name))
    for kind in report[name]["tokens_to_match"]:
        values = {**objective["differences"], **left_out["differences"]}
        others = {key.removeprefix(f"{kind}_minus_"): value for key, value in values.items() if key.startswith(kind)}
        shown = ", ".join(
            f"{stand_in_name(other, left_out['num_fitted'])} {_interval(value, signed=True)}"
            for other, value in others.items()
            if value["value"] is not None
        )
        console.print(f"  rho of {stand_in_name(kind)} minus that of {shown}")
    laws = {
        key: value["rho"]["reason"] for key, value in left_out["proxies"].items() if key not in objective["proxies"]
    }
    reasons = [
        left_out["reason"],
        *(why and f"{stand_in_name(law, left_out['num_fitted'])}: {why}" for law, why in laws.items()),
    ]
    for reason in filter(None, reasons):
        console.print(f"  At equal cost: {reason}")


def _objective_table(report: dict[str, Any], name: str) -> Table:
    objective = report[name]["objective"]
    left_out = objective["left_out"]
    title = (
        f"Would a proxy choose as {_references(report)} do? The macro score of {_SETS[name]}, "
        f"{objective['unit']}\n(rho with its {report['confidence']:.0%} interval; pairs: all, and of small, middle, "
        "large difference; regret: of its best, of its best 5;\nresidual: standard deviation; left out: rho on "
        "references that a regression of equal cost was not fitted to)"
    )
    table = Table(title=title, title_justify="left")
    for heading in ("proxy", "rho", "pairs right, %", "regret", "slope", "residual", "left out"):
        named = heading == "proxy"
        table.add_column(heading, justify="left" if named else "right", no_wrap=not named)
    for proxy in {**objective["proxies"], **left_out["proxies"]}:
        figures, apart = objective["proxies"].get(proxy), left_out["proxies"].get(proxy)
        cells = ["", "", "", "", ""] if figures is None else _decision_cells(figures)
        table.add_row(
            stand_in_name(proxy, left_out["num_fitted"]), *cells, "" if apart is None else _show(apart["rho"]["value"])
        )
    return table


def _references(report: dict[str, Any]) -> str:
    orders = report.get("num_orders", 1)  # earlier releases took the first alone
    return f"{report['num_references']} references" + (f", means of {orders} data orders," if orders > 1 else "")


def _decision_cells(figures: dict[str, Any]) -> list[str]:
    value = {measure: estimate["value"] for measure, estimate in figures.items()}
    sizes = ", ".join(_show(value[f"pairs_{size}"], 0, 100) for size in SIZES)
    regrets = f"{_show(value['regret'], 4)}, {_show(value['regret_top5'], 4)}"
    pairs = f"{_show(value['pairs'], 0, 100)} ({sizes})"
    line = ["-" if value[name] is None else _show(value[name], digits) for name, digits in _LINE.items()]
    return [_interval(figures["rho"]), pairs, regrets, *line]


def _table(report: dict[str, Any], name: str) -> Table:
    section = report[name]
    title = _TITLES[name].format(references=_references(report))
    title += f"\n(macro with its {report['confidence']:.0%} interval; recovery: proxy / reference; "
    title += "null: more data of a capability is better)"
    table = Table(title=title, title_justify="left")
    headings = ["proxy", "rho", *section["capabilities"], "rho, best quarter", "recovery"]
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "proxy" else "right")
    for proxy, figures in section["proxies"].items():
        rho = figures["rho"]
        table.add_row(
            stand_in_name(proxy),
            _interval(rho["macro"]),
            *(_show(rho[capability]["value"]) for capability in section["capabilities"]),
            _interval(figures["rho_top"]["macro"]),
            _interval(figures["recovery"]["macro"]),
        )
    return table


def _lines(section: dict[str, Any], confidence: float) -> list[str]:
    lines = []
    for name, value in section["differences"].items():
        first, second = name.split("_minus_")
        macro = value["rho"]["macro"]
        lines.append(f"  rho of {stand_in_name(first)} minus {stand_in_name(second)}: {_interval(macro, signed=True)}")
    for kind, match in section["tokens_to_match"].items():
        lines.append(f"  {stand_in_name(kind)}: {_price(match)}")
    noise = section["seed_noise"]
    if noise["std"]["macro"] is None:
        lines.append(f"  Noise of training: {noise['reason']}")
    else:
        ceiling = _show(noise["ceiling_rho"]["macro"])
        lines.append(
            f"  Noise of training: standard deviation {noise['std']['macro']:.4f} between seeds, macro, over "
            f"{noise['num_mixtures']} mixtures, without what a seed does to all of them; rho between seeds {ceiling}"
        )
    return lines


def _price(match: dict[str, Any]) -> str:
    number = f"{match['num_proxies']} trained proxies that order as well"
    if match["ratio"] is not None:
        return f"{number} need {match['ratio']:.1f} x the components' tokens"
    if match["ratio_more_than"] is not None:
        return f"{number} need more than {match['ratio_more_than']:.1f} x the components' tokens: {match['reason']}"
    if match["ratio_at_most"] is not None:
        return f"{number} need at most {match['ratio_at_most']:.1f} x the components' tokens: {match['reason']}"
    return f"what {number} need is not known: {match['reason']}"


def _show(value: float | None, digits: int = 2, scale: int = 1) -> str:
    return "undefined" if value is None else f"{scale * value:.{digits}f}"


def _interval(estimate: dict[str, Any], signed: bool = False) -> str:
    if estimate["value"] is None:
        return "undefined"
    sign = "+" if signed else ""
    value = f"{estimate['value']:{sign}.2f}"
    return (
        value if estimate["low"] is None else f"{value} ({estimate['low']:{sign}.2f} to {estimate['high']:{sign}.2f})"
    )
