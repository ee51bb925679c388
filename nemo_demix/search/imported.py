"""A search over scores from elsewhere: fit, predict, choose. No model takes part.

Neither models nor ranks nor prepared data are needed, and torch is not imported.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nemo_demix.artifacts import DataManifest, file_sha256, fingerprint, is_done
from nemo_demix.config import DemixConfig
from nemo_demix.constraints import Budget, Constraints
from nemo_demix.errors import ConfigError
from nemo_demix.mixture import BlendMatrix, token_proportional
from nemo_demix.scoring.imported import ImportedScores, read_imported
from nemo_demix.search.baselines import baseline_shares, heuristic_shares
from nemo_demix.search.choose import choose_from_rows
from nemo_demix.search.record import Facts, mixture_record, write_mixture
from nemo_demix.search.refine import choose_refined
from nemo_demix.search.score_log import Row
from nemo_demix.search.space import SearchSpace, search_folder, search_settings

logger = logging.getLogger(__name__)
CHOOSE = {"demix": choose_from_rows, "regmix": choose_from_rows, "recommended": choose_refined}  # by strategy


def search_imported(config: DemixConfig) -> Path:
    """Search the scores of `search.imported`, unless exactly that is done; returns `search/mixture.json`.

    Where the mixtures are of the recipe's datasets, their numbers are merge weights of component models, and the data
    shares follow by the recipe's blends; `components.beta=0` says that they are data shares themselves. Mixtures of
    other datasets are data shares.

    Raises:
        ConfigError: if a setting does not fit the files, or the strategy needs proxies of its own.
        ScoreError: if the scores cannot be read, or are too few for the predictor.
        MixtureError: if a mixture is not one, or none satisfies the constraints.
    """
    if config.search.strategy not in CHOOSE:
        raise ConfigError(
            f"search.strategy={config.search.strategy}: imported scores cannot be added to; "
            f"expected one of {', '.join(CHOOSE)}"
        )
    manifest = _manifest(config)
    path = search_folder(config) / "mixture.json"
    found = read_imported(config.search.imported, list(config.datasets))
    for note in found.notes:
        logger.warning("search: %s", note)
    expected = imported_fingerprint(config, manifest)
    if not config.force and is_done(path, expected):
        logger.info("search: done already")
        return path
    space = imported_space(config, found, manifest)
    rows = [imported_row(row.name, row.weights, row.scores) for row in found.rows]
    sizes = (len(rows), len(found.datasets), len(found.benchmarks))
    logger.info("search: %d imported mixtures of %d datasets, %d benchmarks", *sizes)
    settings = config.search
    if settings.default_floor is not None and settings.floor_baseline not in space.baselines:
        logger.warning(
            "search: no floor under the capabilities: it is counted from the %s mixture, and these datasets' tokens "
            "are not known; set search.floor_baseline to one of %s, or search.default_floor=null",
            settings.floor_baseline,
            ", ".join(space.baselines),
        )
        settings = replace(settings, default_floor=None)
    choice = CHOOSE[settings.strategy](settings, space, rows, config.seed)
    imported = {"num_rows": len(rows), "excluded": found.excluded, "notes": found.notes}
    choice = replace(choice, notes={**choice.notes, "imported": imported})
    facts = Facts(
        seed=config.seed,
        fingerprint=expected,
        proxy="imported",
        is_merge=_is_of_recipe(config, found),
        num_proxies=len(rows),
    )
    write_mixture(path.parent, mixture_record(config.search, space, choice, facts), choice)
    return path


def imported_space(config: DemixConfig, found: ImportedScores, manifest: DataManifest | None) -> SearchSpace:
    """What may be mixed: components of the recipe's datasets, or the files' own datasets.

    The prior is the datasets' token shares where `prepare` has counted them, else equal.

    Raises:
        ScoreError: if a capability averages scores of both directions.
        MixtureError: if the constraints leave no mixture.
    """
    if _is_of_recipe(config, found):
        blend = _recipe_blends(config)
    else:
        blend = BlendMatrix(found.datasets, found.datasets, np.eye(len(found.datasets)))
        manifest = None
    names = list(blend.datasets)
    budget, prior = None, dict.fromkeys(names, 1.0 / len(names))
    baselines = {"equal": prior}
    if manifest is not None:
        tokens = {name: manifest.datasets[name].num_train_tokens for name in names}
        budget, prior = Budget(config.final.num_tokens, tokens), token_proportional(tokens)
        baselines = baseline_shares(config, manifest)
    elif heuristic := heuristic_shares(config, names):
        baselines["heuristic"] = heuristic
    multiple = config.search.sampler.max_prior_multiple
    max_weights = None if multiple is None else {name: multiple * share for name, share in prior.items()}
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
        constraints=Constraints.build(config.search.constraints, blend, budget, prior, max_weights),
        baselines=baselines,
    )


def imported_capabilities(config: DemixConfig, benchmarks: Iterable[str]) -> dict[str, str]:
    """Each benchmark's capability: of `search.imported.capabilities`, else of the suite's of its name, else its own."""
    suite, own = config.suite.benchmarks, config.search.imported.capabilities
    return {name: own.get(name) or (suite[name].capability if name in suite else name) for name in benchmarks}


def imported_row(name: str, weights: Mapping[str, float], scores: Mapping[str, float]) -> Row:
    """An imported mixture as a row of scores, such as proxies leave."""
    return {
        "iteration": None,
        "name": name,
        "merge_weights": dict(weights),
        "status": "OK",
        "reason": None,
        "scores": {benchmark: {"score": score} for benchmark, score in scores.items()},
    }


def imported_fingerprint(config: DemixConfig, manifest: DataManifest | None) -> str:
    """Of everything that can change the mixture: the files' content, the settings, and what is known of tokens."""
    imported = config.search.imported
    return fingerprint(
        files={path.name: file_sha256(path) for path in _files(imported.scores) + _files(imported.mixtures)},
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
    """What `prepare` counted, if it has run and for these datasets."""
    path = config.run_dir / "datasets" / "manifest.json"
    if not path.exists():
        return None
    manifest = DataManifest.load(path)
    return manifest if set(manifest.datasets) == set(config.datasets) else None


def _is_of_recipe(config: DemixConfig, found: ImportedScores) -> bool:
    return set(found.datasets) <= set(config.datasets)


def _recipe_blends(config: DemixConfig) -> BlendMatrix:
    """What the recipe's components are trained on; as for jobs, from the configuration alone."""
    settings, names = config.components, list(config.datasets)
    planned = BlendMatrix.demix(names, settings.general, settings.beta)
    blends: dict[str, Any] = {
        name: dict(zip(names, row_D, strict=True)) for name, row_D in zip(names, planned.rows_CD.tolist(), strict=True)
    }
    return BlendMatrix.from_blends({**blends, **settings.blends}, names)
