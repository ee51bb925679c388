"""Score rows as columns by capability, and the order that needs no model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import DemixConfig
from nemo_demix.errors import ScoreError
from nemo_demix.fidelity.consistency import Columns
from nemo_demix.fidelity.references import Reference
from nemo_demix.prediction.capabilities import capability_averages
from nemo_demix.scoring.identity import PROXY_USES, averaged_scores, heldout_scores, judged_scores
from nemo_demix.scoring.items import Score, Scores


def score_sets(config: DemixConfig, manifest: DataManifest) -> dict[str, dict[str, str]]:
    """Return the two kinds of score, each as {score name: capability}; benchmarks that a search may not see take no
    part.
    """
    averaged = averaged_scores(judged_scores(config.suite, manifest, PROXY_USES))
    sets = {
        "benchmarks": {name: score.capability for name, score in averaged.items()},
        "heldout": heldout_scores(config.suite, manifest),
    }
    return {name: capability_of for name, capability_of in sets.items() if capability_of}


def columns(models: Mapping[str, Scores], capability_of: Mapping[str, str], what: str) -> Columns:
    """Return capability averages of models' scores, in the models' order.

    Raises:
        ScoreError: if a model lacks a score, or a capability mixes scores of both directions.
    """
    higher_is_better: dict[str, bool] = {}
    for name, scores in models.items():
        for score_name, capability in capability_of.items():
            if score_name not in scores:
                raise ScoreError(f"{what} {name}: no score {score_name}; found {', '.join(scores)}; score it again")
            higher = scores[score_name].higher_is_better
            if higher_is_better.setdefault(capability, higher) != higher:
                raise ScoreError(f"{capability}: its average would mix scores of both directions, as of {score_name}")
    values = {name: np.array([scores[name].score for scores in models.values()]) for name in capability_of}
    return Columns(capability_averages(values, capability_of), higher_is_better)


def mean_scores(models: Sequence[Scores]) -> dict[str, Score]:
    """Return the mean of one mixture's models, of one or several data orders, of the scores that all have; without
    standard errors where it is of several: they met the same items.
    """
    if len(models) == 1:
        return dict(models[0])
    return {
        name: replace(score, score=float(np.mean([scores[name].score for scores in models])), stderr=None)
        for name, score in models[0].items()
        if all(name in scores for scores in models)
    }


def null_columns(references: Sequence[Reference], manifest: DataManifest, capabilities: Sequence[str]) -> Columns:
    """Build the scores that need no model at all: the share of each reference's data that serves a capability.

    Returns:
        Shares from 0 to 1 by capability, float64, shape (references,) each; more is better.
    """
    shares = {
        capability: np.array(
            [
                sum(
                    share
                    for name, share in reference.data_shares.items()
                    if manifest.datasets[name].capability == capability
                )
                for reference in references
            ]
        )
        for capability in capabilities
    }
    return Columns(shares, dict.fromkeys(capabilities, True), has_unit=False)
