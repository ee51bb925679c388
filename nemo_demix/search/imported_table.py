"""What was understood of imported scores, as tables: read before anything is fitted."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nemo_demix.search.imported import ImportedProblem

MOST_ROWS = 60  # of a table: thousands of columns are counted, not listed


def print_imported(problem: ImportedProblem, console: Console) -> None:
    """Print the files, what is mixed, what each score is, and everything odd, a line each."""
    found = problem.found
    kind = "merge weights of the recipe's components" if problem.is_of_recipe else "data shares"
    for source, shape in found.sources.items():
        console.print(f"{escape(source)}: {shape}", highlight=False)
    console.print(f"{len(found.rows)} mixtures, taken for {kind}", highlight=False)
    console.print(_datasets(problem))
    console.print(_scores(problem))
    for note in problem.notes:
        console.print(f"note: {escape(note)}", highlight=False)


def _datasets(problem: ImportedProblem) -> Table:
    found = problem.found
    table = Table(title="What was mixed", title_justify="left")
    for heading in ("dataset", "least", "mean", "most", *(["note"] if problem.fixed else [])):
        table.add_column(heading, justify="left" if heading in ("dataset", "note") else "right")
    names = problem.space.names
    for name in names[:MOST_ROWS]:
        shares = [row.weights.get(name, 0.0) for row in found.rows]
        values = (min(shares), sum(shares) / len(shares), max(shares))
        table.add_row(
            escape(name),
            *(f"{100 * value:.1f} %" for value in values),
            *(["never varied: kept as it is"] if name in problem.fixed else []),
        )
    return _shortened(table, len(names))


def _scores(problem: ImportedProblem) -> Table:
    found, space = problem.found, problem.space
    table = Table(title="What was scored", title_justify="left")
    for heading in ("score", "capability", "better", "known by", "unit", "least", "most", "± (median)"):
        table.add_column(heading, justify="right" if heading in ("least", "most", "± (median)") else "left")
    for name in found.benchmarks[:MOST_ROWS]:
        metric, values, stderr = found.metrics[name], found.column(name), found.stderr(name)
        owner = space.capabilities.get(name, "-")
        use = "" if space.use[name] == "search" else f" ({space.use[name]} only)"
        table.add_row(
            escape(name),
            escape(owner + use),
            "higher" if metric.higher_is_better else "lower",
            metric.known_by,
            metric.unit or "not known",
            f"{min(values):.5g}",
            f"{max(values):.5g}",
            "-" if stderr is None else f"{stderr:.2g}",
        )
    return _shortened(table, len(found.benchmarks))


def _shortened(table: Table, count: int) -> Table:
    if count > MOST_ROWS:
        table.caption = f"and {count - MOST_ROWS:,} more"
    return table
