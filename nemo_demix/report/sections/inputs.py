"""Can the inputs be trusted, and how is all of it repeated."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import yaml

import nemo_demix
from nemo_demix.report.blocks import QUIET, WORSE, Cell, Figure, Section, Table, duration, number, percent
from nemo_demix.report.figures import Line, Mark, forest, lines
from nemo_demix.report.records import RunRecords

_MOST_POINTS = 120  # of a loss curve
_MOST_CURVES = 24  # of one figure
_ROLES = {"base": "the base", "component": "components", "reference": "references", "final": "final models"}


def inputs_section(run: RunRecords) -> Section:
    """Return loss curves, delta of the components, overlap with the benchmarks, licences."""
    key, title, question = "inputs", "Models and data", "Can I trust the inputs?"
    figures = [*_curves(run), *_delta(run)]
    tables = [*_models(run), *_overlap(run), *_sources(run)]
    if not figures and not tables:
        why = "No data were prepared and no model was trained in this folder: the scores are from elsewhere."
        return Section(key, title, question, missing=why)
    return Section(key, title, question, answer=_trust(run), figures=figures, tables=tables)


def _trust(run: RunRecords) -> str:
    parts = []
    deltas = {
        name: record.delta for name, record in run.models.get("component", {}).items() if record.delta is not None
    }
    if deltas:
        worst = max(deltas, key=lambda name: deltas[name])
        limit = run.config.trust.max_delta
        parts.append(
            f"Farthest from the base is {worst}, by {number(deltas[worst], 3)}: "
            f"{'within' if deltas[worst] <= limit else 'BEYOND'} the gate of {limit}."
        )
    if run.manifest is not None:
        hits = [
            (found["share_items_hit"], dataset, benchmark)
            for dataset, record in run.manifest.datasets.items()
            for benchmark, found in record.overlap.items()
            if found["num_items_hit"]
        ]
        if hits:
            share, dataset, benchmark = max(hits)
            parts.append(f"The largest overlap: {percent(share, 2)} of the items of {benchmark} are in {dataset}.")
        elif any(record.overlap for record in run.manifest.datasets.values()):
            parts.append("No item of a benchmark was found in a dataset.")
    return " ".join(parts)


def _curves(run: RunRecords) -> list[Figure]:
    found = []
    for role, called in _ROLES.items():
        curves = {name: steps for (of, name), steps in run.losses.items() if of == role}
        if not curves:
            continue
        shown = dict(list(curves.items())[:_MOST_CURVES])
        series = {name: _thinned(steps) for name, steps in shown.items()}
        title = f"Training loss of {called}"
        svg = lines(f"loss-{role}", title, series, ("step", "loss, nats/token (lower is better)"))
        note = "Band: from the least to the largest loss of the steps around. One run each: no interval between runs."
        if len(curves) > len(shown):
            note += f" The first {len(shown)} of {len(curves)}."
        found.append(Figure(title, svg, note))
    return found


def _thinned(steps: Sequence[tuple[int, float]]) -> Line:
    """Return means of stretches of steps, with the least and the largest in each."""
    pieces = np.array_split(np.array(steps), min(len(steps), _MOST_POINTS))
    return Line(
        [float(piece[:, 0].mean()) for piece in pieces],
        [float(piece[:, 1].mean()) for piece in pieces],
        [float(piece[:, 1].min()) for piece in pieces],
        [float(piece[:, 1].max()) for piece in pieces],
    )


def _delta(run: RunRecords) -> list[Figure]:
    records = run.models.get("component", {})
    marks = [
        Mark(name, record.delta, record.delta, record.delta)
        for name, record in records.items()
        if record.delta is not None
    ]
    if not marks:
        return []
    limit = run.config.trust.max_delta
    title = "How far each component moved from the base"
    svg = forest("delta", title, {"delta": marks}, "delta, no unit (← better)", limit)
    return [
        Figure(
            title,
            svg,
            f"Dashed: the trust gate, trust.max_delta={limit}. Measured exactly, from all weights: no interval.",
        )
    ]


def _models(run: RunRecords) -> list[Table]:
    rows: list[list[Cell | str]] = []
    for role, records in run.models.items():
        for name, record in records.items():
            blend = ", ".join(
                f"{dataset} {percent(share, 0)}" for dataset, share in record.blend.items() if share >= 0.005
            )
            figures = [f"{record.num_tokens:,}", f"{record.num_steps:,}", number(record.final_loss)]
            rows.append([name, role, blend, *figures, number(record.delta, 3), duration(record.wall_time_s)])
    columns = ["model", "role", "trained on", "tokens", "steps", "last loss, nats/token", "delta", "wall time"]
    return [Table("Models", columns, rows, num_text=3, is_open=len(rows) <= 12)] if rows else []


def _overlap(run: RunRecords) -> list[Table]:
    if run.manifest is None:
        return []
    found = {name: record.overlap for name, record in run.manifest.datasets.items() if record.overlap}
    benchmarks = list(dict.fromkeys(benchmark for overlap in found.values() for benchmark in overlap))
    if not benchmarks:
        return []
    ngram = next(iter(next(iter(found.values())).values()))["ngram"]
    rows: list[list[Cell | str]] = []
    for name, overlap in found.items():
        cells: list[Cell | str] = []
        for benchmark in benchmarks:
            one = overlap.get(benchmark)
            if one is None:
                cells.append("—")
            elif one["num_items_hit"]:
                cells.append(
                    Cell(
                        f"{one['num_items_hit']:,} ({percent(one['share_items_hit'], 2)})",
                        WORSE,
                        min(1.0, 10 * one["share_items_hit"]),
                    )
                )
            else:
                cells.append(Cell("0", QUIET))
        rows.append([name, *cells])
    return [
        Table(
            f"Items of each benchmark that share {ngram} words in a row with a dataset (lower is better)",
            ["dataset", *benchmarks],
            rows,
        )
    ]


def _sources(run: RunRecords) -> list[Table]:
    if run.manifest is None:
        return []
    rows: list[list[Cell | str]] = []
    for name, record in run.manifest.datasets.items():
        for source in record.sources:
            origin = source.get("origin") or source.get("path") or source.get("name") or "—"
            sizes = (source.get("num_documents"), source.get("num_bytes"))
            rows.append(
                [name, _licence(source), str(origin), *("—" if size is None else f"{size:,}" for size in sizes)]
            )
    for name, one in run.manifest.benchmarks.items():
        origin = str(one.source.get("origin") or "—")
        rows.append([f"{name} (benchmark)", _licence(one.source), origin, f"{one.num_items:,}", "—"])
    return [
        Table(
            "Licences and origins",
            ["of", "licence", "origin", "documents or items", "bytes"],
            rows,
            num_text=3,
            is_open=False,
        )
    ]


def _licence(source: Mapping[str, Any]) -> Cell:
    licence = source.get("licence")
    return Cell(str(licence)) if licence else Cell("not stated", WORSE)


def repeat_section(run: RunRecords) -> Section:
    """Return configuration, fingerprints, the commands."""
    prints: list[list[Cell | str]] = []
    if run.manifest is not None:
        prints.append(["data (datasets/manifest.json)", run.manifest.fingerprint])
    for role, records in run.models.items():
        prints += [[f"{role}: {name}", record.fingerprint] for name, record in records.items()]
    for what, record in (("mixture (search/mixture.json)", run.mixture), ("result (final/result.json)", run.result)):
        if record is not None:
            prints.append([what, record["fingerprint"]])
    if run.fidelity is not None and "fingerprint" in run.fidelity:
        prints.append(["study (verify/fidelity.json)", run.fidelity["fingerprint"]])
    imported = (run.mixture or {}).get("proxy") == "imported"
    stage = "search" if imported else "run"
    lines_ = [
        "# save the configuration below as repeat.yaml, then:",
        f"nemo-demix {stage} --config-name ./repeat.yaml",
        *(["nemo-demix verify --config-name ./repeat.yaml"] if run.fidelity is not None else []),
        "# this page again, from the run's folder alone:",
        f"nemo-demix report --config-name ./repeat.yaml "
        f"{shlex.quote(f'runs_dir={run.folder.parent}')} {shlex.quote(f'name={run.name}')}",
    ]
    verbatim = {"Commands": "\n".join(lines_)}
    if run.mixture is not None:
        verbatim["The chosen mixture, as an override"] = heuristic_override(run.mixture["data_shares"])
    verbatim["Configuration (repeat.yaml)"] = f"defaults: [demix_schema, _self_]\n{_yaml(asdict(run.config))}"
    caption = "Fingerprints: of all that can change each output"
    tables = [Table(caption, ["of", "fingerprint"], prints, num_text=2, is_open=False)] if prints else []
    tables += _releases(run)
    absent = "" if run.releases else " Those of torch, NeMo and Megatron are not in the records of this run."
    return Section(
        "repeat",
        "To repeat it",
        "How do I repeat it?",
        answer=f"Seed {run.config.seed}. The same seed and inputs give the same mixture, byte for byte.",
        tables=tables,
        notes=[
            f"The configuration is {run.config_note or 'the one that the run saved when it last started ranks'}.",
            f"Page written by nemo_demix {nemo_demix.__version__}.{absent} `nemo-demix doctor` lists a machine's.",
        ],
        verbatim=verbatim,
    )


def _releases(run: RunRecords) -> list[Table]:
    """Return a column a launch; launches with the same releases share one."""
    columns: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for launch, found in run.releases.items():
        columns.setdefault(tuple(sorted(found.items())), []).append(launch)
    packages = list(dict.fromkeys(package for found in run.releases.values() for package in found))
    rows: list[list[Cell | str]] = [[one, *(dict(found).get(one, "—") for found in columns)] for one in packages]
    headings = ["package", *(", ".join(launches) for launches in columns.values())]
    caption = "Releases that the ranks had, by what they were started for"
    return [Table(caption, headings, rows, num_text=len(headings), is_open=False)] if rows else []


def heuristic_override(data_shares: Mapping[str, float]) -> str:
    """Return the mixture as YAML for a recipe: names need no escapes that a command line would."""
    return _yaml({"search": {"heuristic": dict(data_shares)}})


def _yaml(value: object) -> str:
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1000)
    return text
