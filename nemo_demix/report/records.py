"""What a run's folder holds, read by the readers of those who wrote it.

Nothing is worked out from the configuration that the records do not say: a run of a cluster is reported on a laptop.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from nemo_demix.artifacts import DataManifest, ModelRecord, load_record, read_json, read_json_lines
from nemo_demix.config import DemixConfig, load_resolved
from nemo_demix.config.stages import STAGE_OF
from nemo_demix.errors import ConfigError, DemixError
from nemo_demix.fidelity.columns import mean_scores
from nemo_demix.fidelity.cost import Stages, spent
from nemo_demix.fidelity.references import Reference, shared_orders
from nemo_demix.runtime.ranks import world_size
from nemo_demix.scoring.items import ModelItems, Scores, scores_from_json
from nemo_demix.search.layout import search_groups
from nemo_demix.search.proxy_row import ProxyRow, of_last_search, read_rows, weights_key
from nemo_demix.training.jobs import final_name, final_seeds


@dataclass(frozen=True)
class RunRecords:
    """The records of one run; what is not there is None or empty.

    Attributes:
        config: What the run was last started with, where that was saved; else what the command was given.
        config_note: Where the configuration is from, where it is not the saved one.
        rows: Scored proxies of the configuration that scored the last one, in their order, FAILED ones too.
        rows_reason: Why there are no rows.
        models: Finished models, by role and name.
        losses: Steps and losses of each model that was trained here, by role and name.
        references: The mixtures that `verify` trained models on, as rows; their weights are data shares, their scores
            means over the data orders that all were trained in.
        stand_ins: Scores of what stands for these, by kind and mixture.
        result: `final/result.json`.
        slices: The predicted objective along lines through the mixture.
        what_if: The predictor that chose, as plain values.
        out_of_fold: Scored mixtures' averages by capability, as measured, and as predicted without them.
        items: What the final models gave on every item, by name.
        cost: `cost.json`.
        timing: What each call took of each stage, in order.
        releases: Versions of the packages that each launch of ranks had, by the launch's name.
    """

    folder: Path
    config: DemixConfig
    config_note: str = ""
    manifest: DataManifest | None = None
    models: Mapping[str, Mapping[str, ModelRecord]] = field(default_factory=dict)
    losses: Mapping[tuple[str, str], Sequence[tuple[int, float]]] = field(default_factory=dict)
    mixture: Mapping[str, Any] | None = None
    pareto: Sequence[Mapping[str, Any]] = ()
    slices: Mapping[str, Any] | None = None
    what_if: Mapping[str, Any] | None = None
    out_of_fold: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    rows: Sequence[ProxyRow] = ()
    rows_reason: str = ""
    fidelity: Mapping[str, Any] | None = None
    references: Mapping[str, ProxyRow] = field(default_factory=dict)
    stand_ins: Mapping[str, Mapping[str, Scores]] = field(default_factory=dict)
    result: Mapping[str, Any] | None = None
    items: Mapping[str, ModelItems] = field(default_factory=dict)
    cost: Mapping[str, Any] | None = None
    timing: Sequence[Mapping[str, Any]] = ()
    releases: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.folder.name

    @property
    def scored(self) -> list[ProxyRow]:
        """The rows that have scores."""
        return [row for row in self.rows if row.is_ok]

    @property
    def scored_mixtures(self) -> list[ProxyRow]:
        """The mixtures that have scores: of proxies; where no search scored any, of the models `verify` trained."""
        if self.scored or self.fidelity is None:
            return self.scored
        return [row for name, row in self.references.items() if name not in self.fidelity["excluded"]]

    @property
    def stages(self) -> Stages:
        """What was spent, by stage: the ledger's, or what is finished so far."""
        if self.cost is not None:
            stages: Stages = self.cost["stages"]
            return stages
        groups = {stage: list(self.models.get(role, {}).values()) for role, stage in STAGE_OF.items()}
        imported = self.mixture is not None and self.mixture.get("proxy") == "imported"
        ranks = world_size(self.config.parallel)
        return spent(groups, [] if imported else self.scored, ranks, ranks // search_groups(self.config))

    @property
    def capability_of(self) -> dict[str, str]:
        """The capability of each dataset."""
        if self.manifest is not None:
            return {name: record.capability for name, record in self.manifest.datasets.items()}
        return {name: entry.capability for name, entry in self.config.datasets.items()}


def read_run(config: DemixConfig) -> RunRecords:
    """Return the records in `runs/<name>`.

    Raises:
        ConfigError: if the folder holds no run.
        DemixError: if a record cannot be read.
    """
    folder = config.run_dir
    saved, note = _saved_config(config)
    mixture = _json(folder / "search" / "mixture.json")
    manifest_path = folder / "datasets" / "manifest.json"
    manifest = DataManifest.load(manifest_path) if manifest_path.exists() else None
    models = {role: _models(folder / "models" / role) for role in STAGE_OF}
    log = folder / "search" / "scores.jsonl"
    if manifest is None and mixture is None and not any(models.values()) and not log.exists():
        raise ConfigError(
            f"{folder}: holds no run: expected datasets/manifest.json, models/ or search/mixture.json; give its recipe "
            "with --config-name, or its place with runs_dir= and name="
        )
    result = _json(folder / "final" / "result.json")
    found = RunRecords(
        folder=folder,
        config=saved,
        config_note=note,
        manifest=manifest,
        models=models,
        losses=_losses(folder / "models"),
        mixture=mixture,
        pareto=(_json(folder / "search" / "pareto.json") or {}).get("mixtures", ()),
        out_of_fold=(_json(folder / "search" / "out_of_fold.json") or {}).get("capabilities", {}),
        what_if=(_json(folder / "search" / "what_if.json") or {}).get("what_if"),
        slices=(_json(folder / "search" / "slices.json") or {}).get("slices"),
        fidelity=_json(folder / "verify" / "fidelity.json"),
        result=result,
        cost=_json(folder / "cost.json"),
        timing=_lines(folder / "timing.jsonl"),
        releases=_releases(folder / "logs"),
    )
    found = replace(found, **_rows(found, log))
    if result is not None:
        found = replace(found, items=_items(saved, result))
    return replace(found, **_study(found)) if found.fidelity is not None else found


def _saved_config(config: DemixConfig) -> tuple[DemixConfig, str]:
    path = config.run_dir / "config.yaml"
    if not path.exists():
        return config, "the command's: the run started no ranks, so it saved none"
    try:
        saved = load_resolved(path)
    except (DemixError, OmegaConfBaseException) as error:
        return config, f"the command's: {path} is of another release ({' '.join(str(error).split())})"
    # The folder may have been moved since.
    return replace(saved, runs_dir=config.runs_dir, name=config.name), ""


def _json(path: Path) -> Any:
    return read_json(path) if path.exists() else None


def _lines(path: Path) -> list[Any]:
    return read_json_lines(path) if path.exists() else []


def _models(folder: Path) -> dict[str, ModelRecord]:
    records = [load_record(path, ModelRecord) for path in sorted(folder.glob("*/record.json"))]
    return {record.name: record for record in records}


def _releases(logs: Path) -> dict[str, dict[str, str]]:
    launches = {str(path.parent.relative_to(logs)): read_json(path) for path in sorted(logs.glob("**/launch.json"))}
    return {name: launch["releases"] for name, launch in launches.items() if "releases" in launch}


def _losses(folder: Path) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """Read each model's losses; a step that was done again after an interruption counts as it was done last."""
    found = {}
    for role in STAGE_OF:
        for path in sorted((folder / role).glob("*/losses.jsonl")):
            steps = {int(row["step"]): float(row["loss"]) for row in read_json_lines(path)}
            if steps:
                found[role, path.parent.name] = sorted(steps.items())
    return found


def _rows(found: RunRecords, log: Path) -> dict[str, Any]:
    if found.mixture is not None and found.mixture.get("proxy") == "imported":
        return _imported_rows(found)
    rows = of_last_search(read_rows(log))
    return {"rows": rows, "rows_reason": "" if rows else "no proxy was scored"}


def _imported_rows(found: RunRecords) -> dict[str, Any]:
    """Return the imported files' rows, where these are here and still what was searched."""
    from nemo_demix.scoring.imported import read_imported
    from nemo_demix.search.imported import imported_fingerprint, imported_rows

    assert found.mixture is not None
    if found.config.search.imported.scores is None:
        return {"rows_reason": "the scores were imported; give search.imported.scores as the search had it"}
    try:
        if imported_fingerprint(found.config, found.manifest) != found.mixture["fingerprint"]:
            return {"rows_reason": "the imported files or settings are not those that were searched"}
        read = read_imported(found.config.search.imported, list(found.config.datasets))
    except (DemixError, OSError) as error:
        return {"rows_reason": f"the imported scores are not here: {error}"}
    return {"rows": imported_rows(read)}


def _items(config: DemixConfig, result: Mapping[str, Any]) -> dict[str, ModelItems]:
    """Read the final models' items, as far as they are here and give the scores of the result."""
    from nemo_demix.scoring.scores import mean_items, suite_scores
    from nemo_demix.scoring.store import load_scores

    found = {}
    for name, model in result["models"].items():
        # Earlier releases trained in one data order, and said no seeds.
        named = [final_name(config, name, seed) for seed in result.get("seeds", final_seeds(config)[:1])]
        try:
            items = mean_items([load_scores(config, f"final_{one}")[1] for one in named])
        except (DemixError, OSError):
            continue  # the page says that scores are compared without their items
        if suite_scores(items) == scores_from_json(model["scores"]):
            found[name] = items
    return found


def _orders(folder: Path, drawn: Sequence[Mapping[str, Any]], kept: Collection[str]) -> dict[str, list[str]]:
    """Return each kept mixture's models, of the data orders that `verify` takes the mean of."""
    references = [
        Reference(one["name"], one.get("mixture", one["name"]), {}, one["data_shares"], one.get("seed", 0))
        for one in drawn
    ]
    orders = shared_orders(references, kept)
    return {mixture: [models[mixture] for models in orders] for mixture in kept}


def _study(found: RunRecords) -> dict[str, Any]:
    """Return scores of the references and of what stands for them, by mixture; the latest row of a mixture counts."""
    folder = found.folder
    drawn = _json(folder / "verify" / "references.json") or []
    first = [one for one in drawn if one.get("mixture", one["name"]) == one["name"]]
    orders = _orders(folder, drawn, {one["name"] for one in first} - set((found.fidelity or {})["excluded"]))
    references = {}
    for one in first:
        models = orders.get(one["name"], [one["name"]])
        records = [
            read_json(path)
            for path in (folder / "scores" / f"reference_{name}.json" for name in models)
            if path.exists()
        ]
        if len(records) == len(models):
            scores = mean_scores([scores_from_json(record["scores"]) for record in records])
            capabilities = mean_scores([scores_from_json(record.get("capabilities", {})) for record in records])
            references[one["name"]] = ProxyRow(
                one["name"], one["data_shares"], scores=scores, capabilities=capabilities
            )
    name_of = {weights_key(one["merge_weights"]): one["name"] for one in first if "merge_weights" in one}
    stand_ins: dict[str, dict[str, Scores]] = {}
    for row in read_rows(folder / "scores" / "proxies.jsonl"):
        name = name_of.get(row.key, "")
        if row.is_ok and name in references:
            stand_ins.setdefault(row.proxy or "merge", {})[name] = row.scores
    study: dict[str, Any] = {"references": references, "stand_ins": stand_ins}
    if not found.rows and found.mixture is None:
        study["rows_reason"] = "the proxies here stand for references; `nemo-demix search` scores its own"
    return study
