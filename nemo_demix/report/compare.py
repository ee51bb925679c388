"""`report compare RUN RUN ...`: runs side by side, from their records alone."""

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nemo_demix.artifacts import write_text
from nemo_demix.config import DemixConfig
from nemo_demix.errors import ConfigError
from nemo_demix.mixture import placed_otherwise
from nemo_demix.report.blocks import (
    Cell,
    Figure,
    Section,
    Table,
    counted,
    duration,
    interval,
    number,
    percent,
    sentence,
)
from nemo_demix.report.figures import Mark, forest
from nemo_demix.report.page import page
from nemo_demix.report.records import RunRecords, read_run
from nemo_demix.report.sections.losers import losing
from nemo_demix.report.sections.verdict import comparisons, leading, verdict
from nemo_demix.scoring.items import NORMAL
from nemo_demix.search.baselines import CHOSEN

logger = logging.getLogger(__name__)
_KIND = "comparison of runs"
_MOST_SHOWN = 6  # runs in a figure, which has so many colours; tables have all


def compare_command(arguments: Sequence[str]) -> None:
    """Carry out `nemo-demix report compare RUN RUN ... [--output FILE]`; no recipe is needed.

    Raises:
        ConfigError: if a folder holds no run, or the output is a file that this command has not written.
        DemixError: if a record cannot be read.
    """
    parser = argparse.ArgumentParser(prog="nemo-demix report")
    compare = parser.add_subparsers(required=True).add_parser("compare", help="runs side by side, as one HTML page")
    compare.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="the folder of a run")
    compare.add_argument("--output", type=Path, default=Path("compare.html"), metavar="FILE")
    parsed = parser.parse_args(arguments)
    if len(parsed.runs) < 2:
        raise ConfigError(f"report compare: expected two runs or more, found {parsed.runs[0]}")
    runs = named([read_run(DemixConfig(name=path.resolve().name, runs_dir=str(path.resolve().parent)))
                  for path in parsed.runs])  # fmt: skip
    output = parsed.output
    if output.exists() and f"nemo_demix · {_KIND}<" not in output.read_text(encoding="utf-8", errors="replace"):
        raise ConfigError(f"--output {output}: is there, and is no page of this command; name another file")
    write_text(output, page(" and ".join(runs), _KIND, compared(runs)))
    logger.info("report: %s", output)


def named(runs: Sequence[RunRecords]) -> dict[str, RunRecords]:
    """Return the runs by name; by their folders where two have the same."""
    names = [run.name for run in runs]
    return {run.name if names.count(run.name) == 1 else str(run.folder): run for run in runs}


def compared(runs: Mapping[str, RunRecords]) -> list[Section]:
    """Return all questions about several runs."""
    return [_verdicts(runs), _mixtures(runs), _scores(runs), _evidence(runs), _settings(runs)]


def _verdicts(runs: Mapping[str, RunRecords]) -> Section:
    rows, said = [], []
    for name, run in runs.items():
        found = comparisons(run)
        baseline = leading(found)
        facts = {**verdict(run).facts, **losing(run)}
        losers = next((fact for what, fact in facts.items() if "lose" in what), "—")
        cost = [facts.get(what, "—") for what in ("chosen by", "trust gates", "cost so far")]
        if baseline is None:
            rows.append([name, "no comparison", "—", "—", "—", losers, *cost])
            continue
        one = found.of[baseline]
        said.append(f"{name}: {one['verdict']} than the {baseline} mixture" if one["verdict"] != "not distinguishable"
                    else f"{name}: not distinguishable from the {baseline} mixture")  # fmt: skip
        rows.append([name, f"{one['verdict']} ({found.stage})", baseline, f"{number(one['difference'], signed=True)} "
                     f"{found.unit}", interval(one["low"], one["high"], signed=True), losers, *cost])  # fmt: skip
    columns = ["run", "its mixture is", "against", "difference (negative is better)", "95 % interval"]
    columns += ["capabilities that lose", "chosen by", "trust gates", "cost so far"]
    return Section(
        "verdict", "Verdicts", "Which run?", answer=f"{'; '.join(said)}." if said else "No run has a verdict yet.",
        tables=[Table("Each run by its own measure", columns, rows, num_text=3)],
        notes=["A verdict is of a run's own baseline on its own benchmarks: whether these are the same stands below."],
    )  # fmt: skip


def _mixtures(runs: Mapping[str, RunRecords]) -> Section:
    title, question = "The mixtures", "Do they agree?"
    shares = {name: run.mixture["data_shares"] for name, run in runs.items() if run.mixture is not None}
    if not shares:
        return Section("mixture", title, question, missing="No run has chosen a mixture yet: `nemo-demix search` does.")
    datasets = list(dict.fromkeys(dataset for given in shares.values() for dataset in given))
    rows: list[list[Cell | str]] = [
        [dataset, *(percent(given[dataset]) if dataset in given else "—" for given in shares.values())]
        for dataset in datasets
    ]
    series = {}
    for name in list(shares)[:_MOST_SHOWN]:
        mixture = runs[name].mixture
        assert mixture is not None
        marks = []
        for dataset in datasets:
            known = mixture["intervals"].get(dataset) or {}
            bounds = known.get("refits") or known.get("top") or (None, None)
            low, high = (None if bound is None else 100 * bound for bound in bounds)
            marks.append(Mark(dataset, 100 * shares[name].get(dataset, 0.0), low, high))
        series[name] = marks
    figure = Figure(
        "Data share of each dataset, % of the final run's tokens",
        forest("shares", "Data shares by run", series, "data share, % (neither way is better)"),
        "Line: from the 5th to the 95th percentile of what refits, or the best of the pool, choose.",
    )
    apart = [f"{one} and {other}: {percent(placed_otherwise(shares[one], shares[other]))}"
             for place, one in enumerate(shares) for other in list(shares)[place + 1 :]]  # fmt: skip
    answer = f"Of the data, placed differently: {sentence(apart)}." if apart else f"Only {next(iter(shares))} has one."
    table = Table("Chosen shares", ["dataset", *shares], rows)
    return Section("mixture", title, question, answer=answer, figures=[figure], tables=[table])


def _scores(runs: Mapping[str, RunRecords]) -> Section:
    title, question = "The models", "Which is better at what?"
    scores = {name: run.result["models"][CHOSEN]["capabilities"] for name, run in runs.items() if run.result}
    if not scores:
        why = "No run has trained a model on its mixture yet: `nemo-demix final` does."
        return Section("scores", title, question, missing=why)
    capabilities = list(dict.fromkeys(one for given in scores.values() for one in given))
    rows = [[one, *(_score(given.get(one)) for given in scores.values())] for one in capabilities]
    suites = [
        {} if run.manifest is None else {key: one.fingerprint for key, one in run.manifest.benchmarks.items()}
        for name, run in runs.items()
        if name in scores
    ]
    same = all(suite == suites[0] for suite in suites)
    note = (
        "All runs scored the same benchmark items. Intervals are of items, not paired between runs."
        if same
        else "The runs did NOT score the same benchmark items: their scores cannot be held against each other."
    )
    answer = f"{counted(len(scores), 'run')} trained a model on the mixture that was chosen."
    table = Table("Final models, by capability, with 95 % intervals over items", ["capability", *scores], rows)
    return Section("scores", title, question, answer=answer, tables=[table], notes=[note])


def _score(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return "—"
    way = "higher" if one["higher_is_better"] else "lower"
    reach = "" if one["stderr"] is None else f" ± {number(NORMAL * one['stderr'])}"
    return f"{number(one['score'])}{reach} {one['unit']} ({way} is better)"


def _evidence(runs: Mapping[str, RunRecords]) -> Section:
    rows = []
    for name, run in runs.items():
        checks = (run.mixture or {}).get("cross_validation") or {}
        rho = (run.fidelity or {}).get("benchmarks", {}).get("objective", {}).get("proxies") or {}
        told = [f"{kind}: {number(one['rho']['value'], 2)} ({interval(one['rho']['low'], one['rho']['high'], 2)})"
                for kind, one in rho.items() if kind in ("merge", "predictions")]  # fmt: skip
        stages = run.stages
        rows.append([
            name, "; ".join(told) or "no references", number(checks.get("rho_macro"), 2), f"{len(run.scored):,}",
            f"{sum(stage['num_tokens'] for stage in stages.values()):,}",
            duration(sum(stage["device_s"] for stage in stages.values())),
        ])  # fmt: skip
    columns = ["run", "rho with trained references (95 %)", "rho out of fold", "proxies", "tokens trained", "devices"]
    return Section(
        "evidence", "Evidence and cost", "Which to believe?", answer="More references and proxies narrow intervals.",
        tables=[Table("Higher rho is better", columns, rows, num_text=2)],
    )  # fmt: skip


def _settings(runs: Mapping[str, RunRecords]) -> Section:
    flat = {name: _flat(asdict(run.config)) for name, run in runs.items()}
    keys = list(dict.fromkeys(key for given in flat.values() for key in given))
    rows = [
        [key, *(str(given.get(key, "—")) for given in flat.values())]
        for key in keys
        if len({str(given.get(key)) for given in flat.values()}) > 1 and key not in ("name", "runs_dir")
    ]
    answer = f"{counted(len(rows), 'key')} of the configuration differ." if rows else "The configurations are the same."
    table = Table("Keys that differ", ["key", *flat], rows, num_text=1 + len(flat))
    return Section("settings", "What was done differently", "Why do they differ?", answer=answer, tables=[table])


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {key: value}
    return {name: one for part, item in value.items() for name, one in _flat(item, f"{key}.{part}".lstrip(".")).items()}
