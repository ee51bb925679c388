"""Scores of programs outside: each is given a checkpoint's folder and answers with JSON."""

from nemo_demix.scoring.external.scorer import ExternalScorer, Model
from nemo_demix.scoring.external.settings import external_fingerprints, external_scores

__all__ = ["ExternalScorer", "Model", "external_fingerprints", "external_scores"]
