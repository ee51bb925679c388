"""Mixed predictions as proxies: every component scored once, a mixture scored from its tokens' probabilities.

Under `runs/<name>/search/predictions/<suite>/`: `<component>.npy`, the log-probability of every gold token, and
`<component>.json`, its record, written last. fp32: half precision has steps of 0.004 to 0.008 nats where a token costs
4 to 16 nats, and the mixture of one component alone would no longer have that component's scores.

Axes: M mixtures, C components, R requests, T gold tokens.
"""

import io
import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_demix.artifacts import file_sha256, fingerprint, is_done, load_record, write_bytes, write_json
from nemo_demix.checkpoints.store import checkpoint_path
from nemo_demix.constraints import Constraints
from nemo_demix.errors import ScoreError, refuse
from nemo_demix.mixture import Array, check_simplex
from nemo_demix.prepared import PreparedRun
from nemo_demix.scoring.batches import gold_offsets
from nemo_demix.scoring.identity import score_fingerprints
from nemo_demix.scoring.result import ModelResult
from nemo_demix.scoring.scores import likelihood_items
from nemo_demix.scoring.suite import Suite
from nemo_demix.search.convex import Limit, Optimum, best_prediction_mixture
from nemo_demix.search.proxies.base import Evaluation, LiveModel
from nemo_demix.search.space import linear_errors
from nemo_demix.search.token_predictions import Float32Array, TokenPredictions
from nemo_demix.training.jobs import TrainJob, load_model

if TYPE_CHECKING:
    from nemo_demix.scoring.scorer import Scorer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictionsRecord:
    """What a component's array of log-probabilities is of."""

    component: str
    num_tokens: int
    sha256: str  # of the array's file
    wall_time_s: float
    fingerprint: str  # of the component and of everything it is scored on


class PredictionProxies:
    """Mixtures of the components' predictions: log-likelihood scores, in milliseconds, and convex.

    A mixture with merge weights alpha gives a token the probability sum_i alpha_i p_i(token). The weights stand for the
    same data shares as those of a merge. Scores that need generated text have no such form: they need merges. No ranks
    take part, once every component is scored, see `score_component`.

    Args:
        run: The run, whose components are scored.
        suite: What they were scored on, of benchmarks used for `uses`.
    Raises:
        ConfigError: if merges of this run are not linear.
        ScoreError: if a component's stored log-probabilities are damaged.
    Memory: 4 bytes a component and gold token; `scores_MB` and `optimum` say what they add.
    """

    kind = "predictions"

    def __init__(self, run: PreparedRun, suite: Suite, uses: Collection[str] | None) -> None:
        refuse(linear_errors(run.config))
        self.suite = suite
        self.names = [job.name for job in run.components]
        offsets_R = gold_offsets(suite.requests)
        stored = {job.name: _stored(run, job, uses) for job in run.components}
        rows = [_read(*stored[name], int(offsets_R[-1])) for name in self.names]
        self._predictions = TokenPredictions(np.stack(rows), offsets_R, token_weights(suite))

    def evaluate(self, mixtures: Sequence[Mapping[str, float]]) -> Iterator[tuple[int, Evaluation | ScoreError]]:
        """Score mixtures of merge weights, in their order.

        Raises:
            MixtureError: if weights are not on the simplex of the components.
        """
        for place, weights in enumerate(mixtures):
            started = time.monotonic()
            weights_C = np.array(list(check_simplex(weights, self.names, "merge weights").values()))
            items = likelihood_items(self.suite, self._predictions.bits_R(weights_C))
            yield place, Evaluation(ModelResult(items), 0.0, time.monotonic() - started)

    def scores_MB(self, weights_MC: Array, names: Sequence[str]) -> dict[str, Array]:
        """Return the named scores of many mixtures at once, see `TokenPredictions.scores_MB`."""
        return self._predictions.scores_MB(weights_MC, names)

    def optimum(
        self, constraints: Constraints, objective: Mapping[str, float], limits: Sequence[Limit] = ()
    ) -> Optimum:
        """Return the exact best mixture for a weighted sum of scores, see `best_prediction_mixture`."""
        return best_prediction_mixture(self._predictions, objective, constraints, limits)

    def resampled(self, rng: np.random.Generator) -> "PredictionProxies":
        """Return the same over items drawn with replacement, within each score."""
        found = copy(self)
        found._predictions = self._predictions.resampled(rng)
        return found

    def portable(self, names: Sequence[str], resampled: Sequence[Any]) -> dict[str, Any]:
        """Return what the named scores are worked out from, see `TokenPredictions.portable`."""
        return self._predictions.portable(names, [one._predictions for one in resampled])


def unscored(run: PreparedRun, uses: Collection[str] | None) -> list[str]:
    """Return the components whose log-probabilities are not stored yet."""
    return [job.name for job in run.components if not is_done(*_stored(run, job, uses))]


def score_component(run: PreparedRun, live: LiveModel, uses: Collection[str] | None, name: str) -> None:
    """Score a component, if it is not scored yet.

    Raises:
        ConfigError: if it is not trained yet.
        ScoreError: if its scores are not finite.
    Collective: every rank of a group.
    """
    job = next(job for job in run.components if job.name == name)
    _score_component(live, live.scorer(uses), job, *_stored(run, job, uses))


def _stored(run: PreparedRun, job: TrainJob, uses: Collection[str] | None) -> tuple[Path, str]:
    """Return a component's record, and the fingerprint it has to have."""
    scores = score_fingerprints(run.config.suite, run.manifest, uses)
    folder = run.folder / "search" / "predictions" / fingerprint(groups=scores)[:8]
    return folder / f"{job.name}.json", fingerprint(component=job.fingerprint, groups=scores)


def token_weights(suite: Suite) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the places of each score's gold tokens, and what a bit of each counts in it, by score; both of one shape.

    A benchmark is the mean over items of bits per byte; a held-out set is total bits over total bytes.
    """
    offsets_R = gold_offsets(suite.requests)
    found = {}
    for name, (rows, sizes) in suite.members.items():
        weights = np.full(len(rows), 1.0 / sizes.sum()) if name in suite.heldout else 1.0 / (len(rows) * sizes)
        tokens = np.concatenate([np.arange(offsets_R[index], offsets_R[index + 1]) for index in rows])
        found[name] = (tokens, np.repeat(weights, [offsets_R[index + 1] - offsets_R[index] for index in rows]))
    return found


def _score_component(live: LiveModel, scorer: "Scorer", job: TrainJob, record_path: Path, expected: str) -> None:
    import torch

    from nemo_demix.runtime.model import load_checkpoint

    done = [is_done(record_path, expected)]
    torch.distributed.broadcast_object_list(done, src=0)  # a slower rank could find the record just written
    if done[0]:
        return
    started = time.monotonic()
    load_checkpoint(live.model, checkpoint_path(load_model(job).checkpoint))
    try:
        logprobs_T = scorer.gold_token_logprobs(live.model)
    except ScoreError as error:
        raise ScoreError(f"component {job.name}: {error}") from None
    if not live.ranks.is_main:
        return
    buffer = io.BytesIO()
    np.save(buffer, logprobs_T, allow_pickle=False)
    path = record_path.with_suffix(".npy")
    write_bytes(path, buffer.getvalue())
    seconds = round(time.monotonic() - started, 3)
    write_json(record_path, PredictionsRecord(job.name, len(logprobs_T), file_sha256(path), seconds, expected))
    logger.info("component %s: %d gold tokens scored in %.1f s", job.name, len(logprobs_T), seconds)


def _read(record_path: Path, expected: str, num_tokens: int) -> Float32Array:
    """Return a component's log-probabilities, mapped from disk.

    Raises:
        ScoreError: if the file is not the one that its record is of.
    """
    path = record_path.with_suffix(".npy")
    record = load_record(record_path, PredictionsRecord)
    assert record.fingerprint == expected
    advice = f"delete {record_path} and run the same command again, which scores {record.component} anew"
    if not path.exists():
        raise ScoreError(f"{path}: not found beside its record; {advice}")
    if file_sha256(path) != record.sha256:
        raise ScoreError(f"{path}: damaged: its SHA-256 is not the recorded {record.sha256[:12]}...; {advice}")
    logprobs_T: Float32Array = np.load(path, mmap_mode="r", allow_pickle=False)
    assert logprobs_T.shape == (num_tokens,), "the fingerprint covers the suite"
    return logprobs_T
