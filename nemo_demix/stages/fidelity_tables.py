"""What `verify` ends with: the run's own Table 2, and what to make of it."""

from typing import Any

from rich.console import Console
from rich.table import Table

_NAMES = {"merge": "merged", "null": "null: own data share"}
_TITLES = {
    "benchmarks": "Proxies against {count} references: gold answers of the benchmarks",
    "heldout": "Proxies against {count} references: held-out text",
}


def print_fidelity(report: dict[str, Any]) -> None:
    """Both tables, noise, deltas, and the price of the same order by trained proxies."""
    console = Console(width=118)
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


def _table(report: dict[str, Any], name: str) -> Table:
    section = report[name]
    title = _TITLES[name].format(count=report["num_references"])
    title += f"\n(macro with its {report['confidence']:.0%} interval; recovery: proxy / reference; "
    title += "null: more data of a capability is better)"
    table = Table(title=title, title_justify="left")
    headings = ["proxy", "rho", *section["capabilities"], "rho, best quarter", "recovery"]
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "proxy" else "right")
    for proxy, figures in section["proxies"].items():
        rho = figures["rho"]
        table.add_row(
            _name(proxy),
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
        lines.append(f"  rho of {_name(first)} minus {_name(second)}: {_interval(macro, signed=True)}")
    for kind, match in section["tokens_to_match"].items():
        lines.append(f"  {_name(kind)}: {_price(match)}")
    noise = section["seed_noise"]
    if noise["std"]["macro"] is None:
        lines.append(f"  Noise of training: {noise['reason']}")
    else:
        ceiling = _show(noise["ceiling_rho"]["macro"])
        lines.append(
            f"  Noise of training: standard deviation {noise['std']['macro']:.4f} between seeds, macro, over "
            f"{noise['num_mixtures']} mixtures; rho between seeds {ceiling}"
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


def _name(proxy: str) -> str:
    if proxy.startswith("trained_"):
        return f"trained, {int(proxy.removeprefix('trained_')):,} tokens"
    return _NAMES.get(proxy, proxy)


def _show(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


def _interval(estimate: dict[str, Any], signed: bool = False) -> str:
    if estimate["value"] is None:
        return "undefined"
    sign = "+" if signed else ""
    value = f"{estimate['value']:{sign}.2f}"
    return (
        value if estimate["low"] is None else f"{value} ({estimate['low']:{sign}.2f} to {estimate['high']:{sign}.2f})"
    )
