"""Mixed predictions as proxies: every component scored once, a mixture scored from its tokens' probabilities.

Under `runs/<name>/search/predictions/<suite>/`: `<component>.npy`, the log-probability of every gold token, and
`<component>.json`, its record, written last. fp32: half precision has steps of 0.004 to 0.008 nats where a token costs
4 to 16 nats, and the mixture of one component alone would no longer have that component's scores.

Axes: M mixtures, C components, R requests, T gold tokens.
"""

import io
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nemo_demix.artifacts import DataManifest, file_sha256, fingerprint, is_done, load_record, write_bytes, write_json
from nemo_demix.config import DemixConfig
from nemo_demix.constraints import Constraints
from nemo_demix.errors import ConfigError, ScoreError
from nemo_demix.mixture import Array, check_simplex
from nemo_demix.runtime.model import load_checkpoint
from nemo_demix.scoring.evaluate import gold_offsets, gold_token_logprobs
from nemo_demix.scoring.suite import Suite, group_fingerprints
from nemo_demix.search.convex import Optimum, best_prediction_mixture
from nemo_demix.search.proxies.base import Evaluation, LiveModel, OnLiveModel
from nemo_demix.search.token_predictions import Float32Array, TokenPredictions
from nemo_demix.training.jobs import TrainJob, load_model

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictionsRecord:
    """What a component's array of log-probabilities is of."""

    component: str
    num_tokens: int
    sha256: str  # of the array's file
    wall_time_s: float
    fingerprint: str  # of the component and of everything it is scored on


class PredictionProxies(OnLiveModel):
    """Mixtures of the components' predictions: log-likelihood scores, in milliseconds, and convex.

    A mixture with merge weights alpha gives a token the probability sum_i alpha_i p_i(token). The weights stand for the
    same data shares as those of a merge. Scores that need generated text have no such form: they need merges.

    Args:
        components: The component models, trained.
        live: The model to score components in; not built where all are scored already.
    Raises:
        ConfigError: if merges of this run are not linear, or a component is not trained yet.
        ScoreError: if a component's scores are not finite, or its stored log-probabilities are damaged.
    Memory: 4 bytes a component and gold token, on rank 0; `scores_MB` and `optimum` say what they add.
    Collective: construction, which scores what is not scored yet. The rest is rank 0's alone.
    """

    kind = "predictions"

    def __init__(
        self,
        config: DemixConfig,
        manifest: DataManifest,
        components: Sequence[TrainJob],
        live: LiveModel,
    ) -> None:
        if config.merge.method != "linear":
            raise ConfigError(
                f"merge.method={config.merge.method} with search.proxy={config.search.proxy}: a mixture of predictions "
                "stands for a linear merge only; set merge.method=linear or search.proxy=merge"
            )
        super().__init__(live)
        self.names = [job.name for job in components]
        groups = group_fingerprints(config.suite, manifest, live.uses)
        folder = config.run_dir / "search" / "predictions" / fingerprint(groups=groups)[:8]
        fingerprints = {job.name: fingerprint(component=job.fingerprint, groups=groups) for job in components}
        for job in components:
            _score_component(self._live, job, folder, fingerprints[job.name])
        if live.ranks.is_main:
            offsets_R = gold_offsets(self.suite)
            rows = [_read(folder, name, fingerprints[name], int(offsets_R[-1])) for name in self.names]
            self._predictions = TokenPredictions(np.stack(rows), offsets_R, token_weights(self.suite))

    def announce(self, mixtures: Sequence[Mapping[str, float]]) -> None:
        """Nothing: a mixture costs milliseconds."""

    def evaluate(self, weights: Mapping[str, float]) -> Evaluation:
        """Score one mixture of merge weights; on rank 0.

        Raises:
            MixtureError: if the weights are not on the simplex of the components.
        """
        started = time.monotonic()
        weights_C = np.array(list(check_simplex(weights, self.names, "merge weights").values()))
        bits_R = self._predictions.bits_R(weights_C)
        return Evaluation(bits_R, 0.0, time.monotonic() - started)

    def scores_MB(self, weights_MC: Array, groups: Sequence[str]) -> dict[str, Array]:
        """The named scores of many mixtures at once, see `TokenPredictions.scores_MB`; on rank 0."""
        return self._predictions.scores_MB(weights_MC, groups)

    def optimum(self, constraints: Constraints, weights: Mapping[str, float]) -> Optimum:
        """The exact best mixture for a weighted sum of scores, see `best_prediction_mixture`; on rank 0."""
        return best_prediction_mixture(self._predictions, weights, constraints)


def token_weights(suite: Suite) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By score: the places of its gold tokens, and what a bit of each counts in it.

    A benchmark is the mean over items of bits per byte; a held-out set is total bits over total bytes.
    """
    offsets_R = gold_offsets(suite)
    found = {}
    for group, capability in suite.capabilities.items():
        rows, sizes = suite.members[group]
        weights = np.full(len(rows), 1.0 / sizes.sum()) if capability is None else 1.0 / (len(rows) * sizes)
        tokens = np.concatenate([np.arange(offsets_R[index], offsets_R[index + 1]) for index in rows])
        found[group] = (tokens, np.repeat(weights, [offsets_R[index + 1] - offsets_R[index] for index in rows]))
    return found


def _score_component(live: LiveModel, job: TrainJob, folder: Path, expected: str) -> None:
    """Score a component unless it is done. Collective: every rank."""
    record_path = folder / f"{job.name}.json"
    done = [is_done(record_path, expected)]
    torch.distributed.broadcast_object_list(done, src=0)  # a slower rank could find the record just written
    if done[0]:
        return
    started = time.monotonic()
    load_checkpoint(live.model, Path(load_model(job).checkpoint))
    try:
        logprobs_T = gold_token_logprobs(live.model, live.suite)
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


def _read(folder: Path, name: str, expected: str, num_tokens: int) -> Float32Array:
    """A component's log-probabilities, mapped from disk.

    Raises:
        ScoreError: if the file is not the one that its record is of.
    """
    path = folder / f"{name}.npy"
    record = load_record(folder / f"{name}.json", PredictionsRecord)
    assert record.fingerprint == expected
    advice = f"delete {path.with_suffix('.json')} and run the same command again, which scores {name} anew"
    if not path.exists():
        raise ScoreError(f"{path}: not found beside its record; {advice}")
    if file_sha256(path) != record.sha256:
        raise ScoreError(f"{path}: damaged: its SHA-256 is not the recorded {record.sha256[:12]}...; {advice}")
    logprobs_T: Float32Array = np.load(path, mmap_mode="r", allow_pickle=False)
    assert logprobs_T.shape == (num_tokens,), "the fingerprint covers the suite"
    return logprobs_T
