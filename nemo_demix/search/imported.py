"""A search over scores from elsewhere: fit, predict, choose. No model takes part.

Neither models nor ranks nor prepared data are needed, and torch is not imported.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nemo_demix.artifacts import DataManifest, file_sha256, fingerprint
from nemo_demix.config import DemixConfig, SearchConfig
from nemo_demix.constraints import Budget, Constraints
from nemo_demix.errors import ConfigError, found_by, refuse
from nemo_demix.mixture import BlendMatrix, token_proportional
from nemo_demix.scoring.imported import ImportedScores, Table, Value, by_pattern, read_imported
from nemo_demix.scoring.imported.mixtures import ROUNDING_TOLERANCE
from nemo_demix.scoring.items import Score
from nemo_demix.scoring.scores import check_units
from nemo_demix.search.baselines import baseline_shares, heuristic_shares
from nemo_demix.search.choose import Choice
from nemo_demix.search.objective import OBJECTIVES
from nemo_demix.search.proxy_row import ProxyRow
from nemo_demix.search.ranking import objective_errors
from nemo_demix.search.record import Facts, mixture_record, write_mixture
from nemo_demix.search.sample import max_prior_weights
from nemo_demix.search.space import SearchSpace, search_folder, search_settings
from nemo_demix.search.strategies import STRATEGIES, strategy_of

_REVISION = 2  # raised whenever the same inputs give another mixture

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImportedProblem:
    """A search over imported scores, before anything is fitted.

    Attributes:
        found: What was read.
        space: What may be mixed; what no mixture varies is pinned in it.
        settings: The recipe's settings, without a default floor that nothing can be counted from.
        fixed: Weight of each component that is the same in all mixtures, so that no score knows what it does.
        is_of_recipe: The mixtures are merge weights of the recipe's components; else they are data shares.
        notes: What the user should know.
        fingerprint: Fingerprint of everything that can change the mixture.
    """

    found: ImportedScores
    space: SearchSpace
    settings: SearchConfig
    fixed: dict[str, float]
    is_of_recipe: bool
    notes: list[str]
    fingerprint: str


def read_problem(config: DemixConfig, given: Table | None = None) -> ImportedProblem:
    """Return what `search.imported` and the recipe ask for.

    Where the mixtures are of the recipe's datasets, their numbers are merge weights of component models, and the data
    shares follow by the recipe's blends; `components.beta=0` says that they are data shares themselves. Mixtures of
    other datasets are data shares.

    Args:
        given: The table of scores where a program has it.

    Raises:
        ConfigError: if a setting does not fit the files, the strategy needs proxies of its own, or the objective or a
            capability averages scores of several units.
        ScoreError: if the scores cannot be read.
        MixtureError: if a mixture is not one, or none satisfies the constraints.
    """
    settings = config.search
    if strategy_of(settings).from_rows is None:
        able = [name for name, strategy in STRATEGIES.items() if strategy.from_rows is not None]
        raise ConfigError(
            f"search.strategy={settings.strategy}: imported scores cannot be added to; expected one of "
            f"{', '.join(able)}"
        )
    manifest = _manifest(config)
    found = read_imported(settings.imported, list(config.datasets), given)
    fixed = fixed_weights(config, found)
    space = imported_space(config, found, manifest, fixed)
    check_mean(settings, space, found)
    notes = list(found.notes)
    if fixed:
        shown = ", ".join(f"{name} {share:.4g}" for name, share in fixed.items())
        notes.append(
            f"every mixture has the same share of {shown}: no score knows what another one does, so it is kept; score "
            "mixtures that vary it, or leave it out of the recipe"
        )
    if note := no_floor(settings, space):
        notes.append(note)
        settings = replace(settings, default_floor=None)
    expected = imported_fingerprint(config, manifest, given)
    return ImportedProblem(found, space, settings, fixed, _is_of_recipe(config, found), notes, expected)


def no_floor(settings: SearchConfig, space: SearchSpace) -> str:
    """Return why no default floor holds: there is no mixture to count it from; empty: there is, or none is
    asked for.
    """
    if settings.default_floor is None or settings.floor_baseline in space.baselines:
        return ""
    return (
        f"no floor under the capabilities: it is counted from the {settings.floor_baseline} mixture, and these "
        f"datasets' tokens are not known; set search.floor_baseline to one of {', '.join(space.baselines)}, or "
        "search.default_floor=null"
    )


def search_imported(config: DemixConfig, problem: ImportedProblem) -> Path:
    """Search, and write `search/mixture.json`; returns its path.

    Raises:
        ScoreError, MixtureError: as `choose_imported`.
    """
    record, choice = choose_imported(config, problem)
    write_mixture(search_folder(config), record, choice)
    return search_folder(config) / "mixture.json"


def choose_imported(config: DemixConfig, problem: ImportedProblem) -> tuple[dict[str, Any], Choice]:
    """Return the record of `search/mixture.json`, and the choice.

    Raises:
        ScoreError: if the scores are too few for the predictor.
        MixtureError: if no mixture is above the floors.
    """
    found, settings, space = problem.found, problem.settings, problem.space
    rows = imported_rows(found)
    logger.info(
        "search: fitting %s to %d imported mixtures of %d datasets, %d benchmarks",
        settings.predictor.kind,
        len(rows),
        len(found.datasets),
        len(found.benchmarks),
    )
    choose = strategy_of(settings).from_rows
    assert choose is not None, "`read_problem` refuses others"
    choice = choose(settings, space, rows, config.seed)
    imported = {"num_rows": len(rows), "excluded": found.excluded, "notes": problem.notes, "fixed": problem.fixed}
    choice = replace(choice, notes={**choice.notes, "imported": imported})
    facts = Facts(
        seed=config.seed,
        fingerprint=problem.fingerprint,
        proxy="imported",
        is_merge=problem.is_of_recipe,
        num_proxies=len(rows),
    )
    return mixture_record(config.search, space, choice, facts), choice


def fixed_weights(config: DemixConfig, found: ImportedScores) -> dict[str, float]:
    """Return components that weigh the same in every mixture, but for the rounding of its numbers; absent ones
    weigh 0.
    """
    names = list(config.datasets) if _is_of_recipe(config, found) else list(found.datasets)
    fixed = {}
    for name in names:
        weights = [row.weights.get(name, 0.0) for row in found.rows]
        if max(weights) - min(weights) <= ROUNDING_TOLERANCE * max(weights):
            fixed[name] = min(weights)
    return fixed if len(found.rows) > 1 else {}


def check_mean(settings: SearchConfig, space: SearchSpace, found: ImportedScores) -> None:
    """Refuse an average over scores of several units: of a capability's scores, and of all for `mean`.

    Scores of which the unit is not known are one more unit: they are taken to be alike only among themselves.

    Raises:
        ConfigError: naming two scores.
    """
    refuse(objective_errors(settings))
    units = {name: found.metrics[name].unit or "a unit that is not known" for name in space.objective_capabilities}
    members: dict[str, dict[str, float]] = {}
    for name, owner in space.objective_capabilities.items():
        members.setdefault(owner, {})[name] = 1.0
    refuse(
        ConfigError(f"search.imported.capabilities: {error}") for error in found_by(lambda: check_units(members, units))
    )
    if OBJECTIVES[settings.objective].needs_one_unit and len(set(units.values())) > 1:
        first = {unit: name for name, unit in reversed(units.items())}
        which = "; ".join(f"{name} is in {unit}" for unit, name in first.items())
        raise ConfigError(
            f"search.objective={settings.objective}: {which}, and these "
            "have no mean; set search.objective=utility, which scales each, or end the columns' names in their metrics"
        )


def imported_space(
    config: DemixConfig, found: ImportedScores, manifest: DataManifest | None, fixed: Mapping[str, float]
) -> SearchSpace:
    """Return what may be mixed: components of the recipe's datasets, or the files' own datasets.

    Args:
        fixed: What `fixed_weights` gave. The equal baseline shares the rest between the others.

    The prior is the datasets' token shares where `prepare` has counted them, else equal.

    Raises:
        ScoreError: if a capability averages scores of both directions.
        MixtureError: if the constraints leave no mixture.
    """
    if _is_of_recipe(config, found):
        blend = _recipe_blends(config)
    else:
        blend = BlendMatrix.unmixed(found.datasets)
        manifest = None
    names = list(blend.datasets)
    budget, prior = None, dict.fromkeys(names, 1.0 / len(names))
    rest = (1.0 - sum(fixed.values())) / max(1, len(names) - len(fixed))
    equal = {name: fixed.get(name, rest) for name in names}
    baselines = {"equal": blend.data_shares(equal) if fixed else prior}
    if manifest is not None:
        tokens = {name: manifest.datasets[name].num_train_tokens for name in names}
        budget, prior = Budget(config.final.num_tokens, tokens), token_proportional(tokens)
        baselines = baseline_shares(config, manifest) | (baselines if fixed else {})
    elif heuristic := heuristic_shares(config, names):
        baselines["heuristic"] = heuristic
    max_weights = max_prior_weights(config.search.sampler, prior)
    suite = config.suite.benchmarks
    use = {name: suite[name].use if name in suite else "search" for name in found.benchmarks}
    capabilities = {
        name: owner
        for name, owner in imported_capabilities(config, found.benchmarks).items()
        if use[name] != "report"  # nothing is chosen by it
    }
    return SearchSpace(
        blend=blend,
        prior=prior,
        capabilities=capabilities,
        higher_is_better=found.higher_is_better,
        use=use,
        constraints=Constraints.build(config.search.constraints, blend, budget, prior, max_weights, fixed),
        baselines=baselines,
    )


def imported_capabilities(config: DemixConfig, names: Collection[str]) -> dict[str, str]:
    """Return each score's capability: of `search.imported.capabilities`, else of the suite's of its name, else
    its own.
    """
    suite = config.suite.benchmarks
    own = by_pattern(config.search.imported.capabilities, names)
    return {name: own.get(name) or (suite[name].capability if name in suite else name) for name in names}


def imported_rows(found: ImportedScores) -> list[ProxyRow]:
    """Return imported mixtures as rows of scores, such as proxies leave."""

    def score(name: str, value: Value) -> Score:
        return Score(
            value.score,
            value.stderr,
            unit=found.metrics[name].unit,
            higher_is_better=found.higher_is_better[name],
        )

    return [
        ProxyRow(row.name, dict(row.weights), scores={name: score(name, value) for name, value in row.scores.items()})
        for row in found.rows
    ]


def imported_fingerprint(config: DemixConfig, manifest: DataManifest | None, given: Table | None = None) -> str:
    """Fingerprint all that can change the mixture: the files' content, the settings, and what is known of tokens."""
    imported = config.search.imported
    return fingerprint(
        revision=_REVISION,
        files={path.name: file_sha256(path) for path in _files(imported.scores) + _files(imported.mixtures)}
        | ({} if given is None else {str(given.source): fingerprint(columns=given.columns)}),
        search=search_settings(config),
        blends=(list(config.datasets), config.components.general, config.components.beta, config.components.blends),
        suite={name: (entry.capability, entry.use) for name, entry in config.suite.benchmarks.items()},
        tokens=manifest and {name: record.num_train_tokens for name, record in manifest.datasets.items()},
        final_tokens=config.final.num_tokens,
        seed=config.seed,
    )


def _files(source: str | None) -> list[Path]:
    if source is None:
        return []
    path = Path(source)
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _manifest(config: DemixConfig) -> DataManifest | None:
    """Return what `prepare` counted, if it has run and for these datasets."""
    path = config.run_dir / "datasets" / "manifest.json"
    if not path.exists():
        return None
    manifest = DataManifest.load(path)
    return manifest if set(manifest.datasets) == set(config.datasets) else None


def _is_of_recipe(config: DemixConfig, found: ImportedScores) -> bool:
    return set(found.datasets) <= set(config.datasets)


def _recipe_blends(config: DemixConfig) -> BlendMatrix:
    """Return what the recipe's components are trained on; as for jobs, from the configuration alone."""
    settings, names = config.components, list(config.datasets)
    planned = BlendMatrix.demix(names, settings.general, settings.beta)
    blends: dict[str, Any] = {
        name: dict(zip(names, row_D, strict=True)) for name, row_D in zip(names, planned.rows_CD.tolist(), strict=True)
    }
    return BlendMatrix.from_blends({**blends, **settings.blends}, names)
