"""The fidelity study's page where its run's folder is gone: the folder's records again, from the committed scores."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _study import RECIPE, nemo_demix

from nemo_demix.artifacts import DataManifest, ModelRecord, canonical_json, write_json, write_text
from nemo_demix.config import load_resolved
from nemo_demix.fidelity.record import fidelity_path
from nemo_demix.fidelity.references import Reference
from nemo_demix.fidelity.report import Measured, fidelity_report
from nemo_demix.scoring.items import Score, Scores
from nemo_demix.search.proxy_row import ProxyRow

_KINDS = ("merge", "predictions")


def write_page(rows: Sequence[dict[str, Any]], runs: Path) -> None:
    """Prepare the study's data, write its scores where `verify` would have, and have `nemo-demix report` make the page.

    The committed scores have no standard errors, and of the models only the figures that are in the rows: what the page
    would show of the rest it says to be missing.
    """
    nemo_demix(runs, "prepare")
    config = load_resolved(runs / RECIPE / "config.yaml")
    manifest = DataManifest.load(runs / RECIPE / "datasets" / "manifest.json")
    measured = _measured(rows)
    write_json(config.run_dir / "verify" / "references.json", list(measured.references))
    for name, scores in measured.scores.items():
        record = {"name": name, "scores": {score: one.to_json() for score, one in scores.items()}}
        write_json(config.run_dir / "scores" / f"reference_{name}.json", record)
    lines = [
        canonical_json({**row.to_json(), "proxy": kind}) + "\n"
        for kind, found in measured.proxies.items()
        for row in found.values()
    ]
    write_text(config.run_dir / "scores" / "proxies.jsonl", "".join(lines))
    write_json(fidelity_path(config), fidelity_report(config, manifest, measured, _components(rows)))
    nemo_demix(runs, "report")


def _measured(rows: Sequence[dict[str, Any]]) -> Measured:
    """What `verify` measured in the study's own run: one seed of the components, merged linearly."""
    fields = ("name", "mixture", "merge_weights", "data_shares", "seed")
    references = [Reference(**{key: row[key] for key in fields}) for row in rows if row["kind"] == "mixture"]
    weights = {one.name: one.merge_weights for one in references}
    trained: dict[int | None, dict[str, Scores]] = {}
    for row in rows:
        if row["kind"] == "trained":
            trained.setdefault(row["tokens"], {})[row["name"]] = _scored(row)
    proxies = {
        kind: {
            row["name"]: ProxyRow(row["name"], weights[row["name"]], scores=_scored(row))
            for row in rows
            if row["kind"] == kind and row["components"] == "seed_0" and row.get("method") is None
        }
        for kind in _KINDS
    }
    return Measured(references, trained.pop(None), {n: found for n, found in trained.items() if n is not None}, proxies)


def _scored(row: dict[str, Any]) -> Scores:
    return {name: Score(value) for name, value in row["scores"].items()}


def _components(rows: Sequence[dict[str, Any]]) -> list[ModelRecord]:
    """The components, of whose records the study's figures take the tokens and the delta."""
    return [
        ModelRecord(
            "component", row["name"], "", {}, {}, row["num_tokens"], 0, row["final_loss"], row["delta"], None, 0.0, ""
        )
        for row in rows
        if row["kind"] == "component" and row["run"] == RECIPE
    ]
