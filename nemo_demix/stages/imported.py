"""`search` over imported scores: what was understood, then the mixture with its intervals, as tables."""

import logging
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nemo_demix.artifacts import is_done, read_json
from nemo_demix.config import DemixConfig
from nemo_demix.search.imported import ImportedProblem, read_problem, search_imported
from nemo_demix.search.imported_table import print_imported
from nemo_demix.search.space import search_folder

INTERVALS = (
    "From the 5th to the 95th percentile, top: of the best mixtures of the pool; refits: of what other draws of these "
    "scores would choose."
)
logger = logging.getLogger(__name__)


def imported_stage(config: DemixConfig) -> None:
    """Search the scores of `search.imported`, unless exactly that is done. Neither models nor ranks are needed.

    Raises:
        ConfigError, ScoreError, MixtureError: as `read_problem` and `search_imported`.
    """
    console = Console(width=118)
    problem = read_problem(config)
    print_imported(problem, console)
    path = search_folder(config) / "mixture.json"
    if not config.force and is_done(path, problem.fingerprint):
        logger.info("search: done already")
    else:
        search_imported(config, problem)
        logger.info("search: wrote %s", path)
    record = read_json(path)
    console.print(_mixture(record))
    console.print(INTERVALS)
    console.print(_predicted(problem, record))
    for rule in record["constraints"]["binding"]:
        console.print(f"Binding: {escape(rule)}", highlight=False)


def _mixture(record: Mapping[str, Any]) -> Table:
    table = Table(title="The mixture", title_justify="left")
    weights = record["merge_weights"]
    baselines = {name: one["data_shares"] for name, one in record["baselines"].items()}
    columns = ("dataset", *(["merge weight"] if weights else []), "data share", "top", "refits", *baselines)
    for heading in columns:
        table.add_column(escape(heading), justify="left" if heading == "dataset" else "right")
    for name, share in record["data_shares"].items():
        interval = record["intervals"][name]
        weight = [f"{weights[name]:.3f}"] if weights else []
        shown = [_percent(*interval["top"]), _percent(*interval["refits"]) if interval["refits"] else "-"]
        others = [_percent(shares[name]) for shares in baselines.values()]
        table.add_row(escape(name), *weight, _percent(share), *shown, *others)
    return table


def _predicted(problem: ImportedProblem, record: Mapping[str, Any]) -> Table:
    """Tabulate what is predicted of the mixture and of each baseline, and how well the predictor ranks out of fold."""
    baselines = {name: one["predicted"] for name, one in record["baselines"].items()}
    table = Table(title="Predicted scores (± one standard deviation)", title_justify="left")
    for heading in ("capability", "better", "unit", "the mixture", *baselines, "rho (out of fold)"):
        table.add_column(escape(heading), justify="left" if heading in ("capability", "better", "unit") else "right")
    space, rho = problem.space, record["cross_validation"]["capability_rho"]
    owners = {owner: problem.found.metrics[name].unit or "-" for name, owner in space.objective_capabilities.items()}
    for name, higher in space.capability_directions().items():
        one = record["predicted"][name]
        table.add_row(
            escape(name),
            "higher" if higher else "lower",
            owners[name],
            f"{one['score']:.5g} ± {one['std']:.2g}",
            *(f"{predicted[name]:.5g}" for predicted in baselines.values()),
            "-" if rho[name] is None else f"{rho[name]:.2f}",
        )
    return table


def _percent(*shares: float) -> str:
    return f"{' to '.join(f'{100 * share:.1f}' for share in shares)} %"
