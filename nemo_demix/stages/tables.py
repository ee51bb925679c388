"""The tables a run ends with."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from nemo_demix.artifacts import DataManifest
from nemo_demix.mixture import token_proportional
from nemo_demix.scoring.identity import JUDGED
from nemo_demix.search.baselines import PUBLISHED
from nemo_demix.search.floors import FLOORS_COST, differences_of, nothing_gained

_BY = {"merge": "merged proxies", "predictions": "mixed predictions"}
_MEANING = {
    "better": "better than",
    "worse": "worse than",
    "not distinguishable": "not distinguishable from",
}


def print_result(manifest: DataManifest, mixture: dict[str, Any], result: dict[str, Any], cost: dict[str, Any]) -> None:
    """Print what was chosen, what was predicted, what was measured, and whether it beats the baselines."""
    console = Console(width=118)
    console.print(_mixture_table(manifest, mixture))
    for line in _edges(mixture):
        console.print(line)
    if floors := mixture["notes"].get("floors"):
        console.print(_floor_table(floors))
        if nothing_gained(floors):
            console.print(
                "Above this run's floors nothing is predicted to be better than what they are counted from: what one "
                "capability gains, another pays for. A team that takes such a trade sets search.default_floor and "
                "search.heldout_floor."
            )
    console.print(_score_table(mixture, result))
    if (demix := mixture["baselines"].get(PUBLISHED)) is not None:
        console.print(_published(mixture, demix))
    for name, comparison in result["chosen_minus"].items():
        unmeasured = ", ".join(comparison["unmeasured"])
        console.print(
            f"The final model is [bold]{_MEANING[comparison['verdict']]}[/bold] the {name} baseline: "
            f"{comparison['difference']:+.4f} bits/byte, macro ({_interval(comparison)}; "
            f"{f'not measured: {unmeasured}' if unmeasured else 'items and seeds'}).{_orders(comparison)}"
        )
        if by_capability := comparison.get("capabilities"):  # earlier releases did not write it
            heldout = comparison.get("heldout")
            console.print(_by_capability({**by_capability, **({"held-out text": heldout} if heldout else {})}))
    for name in result.get("same_as_chosen", ()):  # earlier releases trained the same mixture twice
        console.print(f"The {name} mixture is the chosen one: one model was trained for both.")
    console.print(_cost_line(cost))


def _edges(mixture: dict[str, Any]) -> list[str]:
    """Return what the components cannot stand for, where the mixture is at the end of it."""
    lines = []
    for edge in mixture.get("reach", ()):  # earlier releases did not look
        line = (
            f"{edge['dataset']} has the {edge['bound']} share that these components can stand for "
            f"({100 * edge['share']:.1f} %)."
        )
        if edge["gain"] is not None and edge["gain"] > 0:
            line += (
                f" Beyond it, each further hundredth is predicted to gain about {edge['gain']:.4f} bits/byte: one more "
                f"component ({edge['component_tokens']:,} tokens) on a blend beyond it would open the way "
                "(components.blends, or another components.beta)."
            )
        elif edge["gain"] is None:
            line += " What lies beyond needs another components.beta, or components.blends of its own."
        lines.append(line)
    return lines


def _floor_table(prices: Sequence[Mapping[str, Any]]) -> Table:
    """Show what floors cost: this run's first, then looser and tighter ones."""
    table = Table(title=FLOORS_COST, title_justify="left")
    columns, rows = differences_of(prices)
    for heading in ("floor", *columns):
        table.add_column(heading, justify="left" if heading == "floor" else "right")
    for label, values in rows.items():
        table.add_row(
            label, *("-" if value is None else f"{value:+.4f}".replace("-0.0000", "+0.0000") for value in values)
        )
    return table


def _published(mixture: dict[str, Any], demix: dict[str, Any]) -> str:
    """Say what DeMix's own search answers on the same proxies."""
    shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in demix["data_shares"].items())
    # Where merges choose, they were asked for where they may improve, not in DeMix's iterations.
    what = "search" if mixture["notes"].get("chosen_by") == "predictions" else "way of choosing"
    line = f"DeMix's published {what} ends, on the same {mixture['num_proxies']} merged proxies, with {shares}."
    if (gap := demix["chosen_minus_this"]) is not None:
        line += (
            f" By {_BY[demix['proxy']]} the mixture above is {_MEANING[gap['verdict']]} it: {gap['difference']:+.4f} "
            f"bits/byte. DeMix keeps no floor{_paid(mixture, demix)}; its answer is trained where it is among "
            "final.baselines."
        )
    return line


def _paid(mixture: dict[str, Any], demix: dict[str, Any]) -> str:
    """Say which capabilities DeMix's answer is predicted to be worse in than the proportional mixture."""
    baseline = mixture["baselines"].get("proportional", {}).get("predicted", {})
    directions = {name: score["higher_is_better"] for name, score in (mixture["measured"] or {}).items()}
    worse = []
    for name, score in demix["predicted"].items():
        if name in baseline and name in directions:
            gap = score - baseline[name]
            if (-gap if directions[name] else gap) > 0:
                worse.append(f"{name} {gap:+.4f}")
    return f", and is predicted to be worse than the proportional mixture in {', '.join(worse)}" if worse else ""


def _by_capability(comparisons: dict[str, dict[str, Any]]) -> str:
    """Say which capabilities gain and which pay, held-out text too; floors are under what is predicted of them."""
    said = (f"{name} {one['difference']:+.4f}, {one['verdict']}" for name, one in comparisons.items())
    # Earlier releases gave no errors by source here.
    has_seeds = any((one.get("standard_errors") or {}).get("seeds") is not None for one in comparisons.values())
    return f"By capability, by the sampled items {'and data orders' if has_seeds else 'alone'}: {'; '.join(said)}."


def _orders(comparison: dict[str, Any]) -> str:
    """Say what each data order gave, where the difference is of several."""
    orders = comparison.get("orders", ())  # earlier releases trained in one
    if len(orders) < 2:
        return ""
    return f" It is the mean of {len(orders)} data orders: {', '.join(f'{one:+.4f}' for one in orders)}."


def _interval(comparison: dict[str, Any]) -> str:
    if comparison["low"] is None:
        return "no interval is known"
    return f"95 % interval {comparison['low']:+.4f} to {comparison['high']:+.4f}"


def _cost_line(cost: dict[str, Any]) -> str:
    stages = cost["stages"]
    parts = [f"{stage['num_tokens']:,} tokens of {name}" for name, stage in stages.items() if stage["num_tokens"]]
    if "search" in stages:
        rate = cost["proxies_per_minute"]
        parts.append(f"{stages['search']['num_proxies']} proxies" + (f" ({rate:.0f} a minute)" if rate else ""))
    line = f"Cost: {', '.join(parts)}."
    trained, matched = cost["if_proxies_were_trained"], cost["same_answer_by_trained_proxies"]
    if trained is not None:
        line += f" As many proxies, trained as long as a component: {trained['num_tokens']:,} tokens."
    if matched["num_tokens"] is not None:
        line += f" Trained proxies that order mixtures as well: {matched['num_tokens']:,} tokens."
    return line


def _mixture_table(manifest: DataManifest, mixture: dict[str, Any]) -> Table:
    table = Table(title="The mixture", title_justify="left")
    for heading in ("dataset", "capability", "tokens", "merge weight", "data share", "epochs", "proportional"):
        table.add_column(heading, justify="left" if heading in ("dataset", "capability") else "right")
    proportional = token_proportional({name: record.num_train_tokens for name, record in manifest.datasets.items()})
    weights = mixture["merge_weights"] or {}  # none where a strategy gives data shares
    for name, record in manifest.datasets.items():
        table.add_row(
            name,
            record.capability,
            f"{record.num_train_tokens:,}",
            f"{weights[name]:.3f}" if name in weights else "-",
            f"{100 * mixture['data_shares'][name]:.1f} %",
            f"{mixture['epochs'][name]:.2f}",
            f"{100 * proportional[name]:.1f} %",
        )
    return table


def _score_table(mixture: dict[str, Any], result: dict[str, Any]) -> Table:
    title = "Gold-answer bits per byte (lower is better; ± one standard error)"
    if any(JUDGED in name for name in next(iter(result["models"].values()))["scores"]):
        title += "\n(predicted: of the items that were searched; all else: of those that no search saw)"
    table = Table(title=title, title_justify="left")
    predicted, measured = mixture["predicted"], mixture["measured"] or {}
    models = {name: model["capabilities"] for name, model in result["models"].items()}
    headings = ["capability", "predicted", "its proxy", *(f"final: {name}" for name in models)]
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "capability" else "right")
    for capability in next(iter(models.values())):
        guess, proxy = predicted.get(capability), measured.get(capability)
        columns = [_show(guess["score"], guess["std"]) if guess else "-", _of(proxy) if proxy else "-"]
        table.add_row(capability, *columns, *(_of(scores[capability]) for scores in models.values()))
    averages = [_macro(scores, next(iter(models.values()))) for scores in (predicted, measured)]
    table.add_row("macro", *averages, *(f"{model['macro']:.4f}" for model in result["models"].values()))
    return table


def _macro(scores: dict[str, Any], capabilities: dict[str, Any]) -> str:
    """Return the mean over all capabilities; none where some are not known, as a mean over fewer compares with
    nothing.
    """
    if set(scores) != set(capabilities):
        return "-"
    return f"{sum(score['score'] for score in scores.values()) / len(scores):.4f}"


def _of(score: dict[str, Any]) -> str:
    return _show(score["score"], score["stderr"])


def _show(value: float, spread: float | None) -> str:
    return f"{value:.4f} ± {spread:.4f}" if spread is not None else f"{value:.4f}"
