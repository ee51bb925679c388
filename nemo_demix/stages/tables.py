"""The tables a run ends with."""

from typing import Any

from rich.console import Console
from rich.table import Table

from nemo_demix.artifacts import DataManifest

_MEANING = {
    "better": "better than",
    "worse": "worse than",
    "not distinguishable": "not distinguishable from",
}


def print_result(manifest: DataManifest, mixture: dict[str, Any], result: dict[str, Any], cost: dict[str, Any]) -> None:
    """What was chosen, what was predicted, what was measured, and whether it beats the baselines."""
    console = Console(width=118)
    console.print(_mixture_table(manifest, mixture))
    console.print(_score_table(mixture, result))
    for name, comparison in result["chosen_minus"].items():
        console.print(
            f"The final model is [bold]{_MEANING[comparison['verdict']]}[/bold] the {name} baseline: "
            f"{comparison['difference']:+.4f} bits/byte, macro (95 % interval {comparison['low']:+.4f} to "
            f"{comparison['high']:+.4f} over the benchmark items sampled; training seeds are not varied)."
        )
    stages, trained = cost["stages"], cost["if_proxies_were_trained"]
    console.print(
        f"Cost: {stages['components']['num_tokens']:,} component tokens and {stages['search']['num_proxies']} proxies "
        f"({cost['proxies_per_minute']:.0f} a minute, {100 * cost['merge_share_of_search']:.1f} % of it merging); "
        f"training as many proxies would take {trained['num_tokens']:,} tokens."
    )


def _mixture_table(manifest: DataManifest, mixture: dict[str, Any]) -> Table:
    table = Table(title="The mixture", title_justify="left")
    for heading in ("dataset", "capability", "tokens", "merge weight", "data share", "epochs", "proportional"):
        table.add_column(heading, justify="left" if heading in ("dataset", "capability") else "right")
    proportional = mixture["baselines"]["proportional"]["data_shares"]
    for name, record in manifest.datasets.items():
        table.add_row(
            name,
            record.capability,
            f"{record.num_train_tokens:,}",
            f"{mixture['merge_weights'][name]:.3f}",
            f"{100 * mixture['data_shares'][name]:.1f} %",
            f"{mixture['epochs'][name]:.2f}",
            f"{100 * proportional[name]:.1f} %",
        )
    return table


def _score_table(mixture: dict[str, Any], result: dict[str, Any]) -> Table:
    table = Table(title="Gold-answer bits per byte (lower is better; ± one standard error)", title_justify="left")
    models = {name: model["capabilities"] for name, model in result["models"].items()}
    headings = ["capability", "predicted", "its merge", *(f"final: {name}" for name in models)]
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "capability" else "right")
    for capability, predicted in mixture["predicted"].items():
        columns = [_show(predicted["score"], predicted["std"]), _of(mixture["measured"][capability])]
        table.add_row(capability, *columns, *(_of(scores[capability]) for scores in models.values()))
    macro_predicted = sum(value["score"] for value in mixture["predicted"].values()) / len(mixture["predicted"])
    finals = (f"{model['macro']:.4f}" for model in result["models"].values())
    table.add_row("macro", f"{macro_predicted:.4f}", f"{mixture['measured_macro']:.4f}", *finals)
    return table


def _of(score: dict[str, Any]) -> str:
    return _show(score["score"], score["stderr"])


def _show(value: float, spread: float | None) -> str:
    return f"{value:.4f} ± {spread:.4f}" if spread is not None else f"{value:.4f}"
