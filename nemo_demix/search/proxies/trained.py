"""Proxies that are really trained, each on its own mixture: what RegMix and CLIMB search over."""

import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial

from nemo_demix.checkpoints.store import checkpoint_path
from nemo_demix.errors import ScoreError
from nemo_demix.prepared import PreparedRun
from nemo_demix.runtime.backend import Diverged
from nemo_demix.runtime.model import load_checkpoint
from nemo_demix.scoring.scorer import Scorer
from nemo_demix.search.proxies.base import Evaluation, LiveModel
from nemo_demix.training.jobs import TrainJob, load_model
from nemo_demix.training.train import train_jobs

logger = logging.getLogger(__name__)


class ProxyTrainer:
    """Trains and scores proxies on ranks: a run a mixture, from the base, under `models/proxy/p_<hash of the shares>`.

    Weights are *data shares* here. The same shares are the same model, in this search and in the next.

    Args:
        num_proxies: How many there will be: the components' tokens in all are divided between them, unless
            `search.trained.num_tokens` says how many each gets.
        live: The model to score them in, and their ranks.
    Raises:
        ConfigError: if a proxy's budget is below one step.
    Memory: the training run's; the live model is let go before, and built again to score.
    Collective: `announce` and `evaluate`.
    """

    def __init__(self, run: PreparedRun, num_proxies: int, live: LiveModel) -> None:
        self._live = live
        self._run, self._num_proxies = run, num_proxies
        self._failed: dict[str, str] = {}  # reason, by the job's fingerprint
        equal = dict.fromkeys(run.manifest.datasets, 1.0 / len(run.manifest.datasets))
        self.num_tokens = self._job(equal).num_tokens  # each

    def announce(self, mixtures: Sequence[Mapping[str, float]]) -> None:
        """Train the proxies of these data shares that are not trained yet, one after another, before any is scored."""
        todo = [job for job in map(self._job, mixtures) if not job.is_done and job.fingerprint not in self._failed]
        if todo:
            self._live.release()
        for job in todo:
            try:
                train_jobs(self._run.config, self._run.manifest, [job], self._live.ranks)
            except Diverged as error:  # on every rank: one failed proxy, with its reason
                self._failed[job.fingerprint] = str(error)
                logger.warning("%s", error)

    def evaluate(self, shares: Mapping[str, float], scorer: Scorer) -> Evaluation:
        """Score the proxy of these data shares, trained first if it is not yet.

        Raises:
            MixtureError: if the shares are not on the simplex of the datasets.
            ScoreError: if its training diverged, or its scores are not finite.
        """
        self.announce([shares])
        job = self._job(shares)
        if job.fingerprint in self._failed:
            raise ScoreError(self._failed[job.fingerprint])
        record = load_model(job)
        started = time.monotonic()
        model = self._live.model
        fill = partial(load_checkpoint, model, checkpoint_path(record.checkpoint))
        result = scorer.score(model, self._live.ranks.is_main, job.fingerprint, fill)
        return Evaluation(result, 0.0, time.monotonic() - started, record.wall_time_s, record.num_tokens)

    def _job(self, shares: Mapping[str, float]) -> TrainJob:
        return self._run.proxy(shares, self._num_proxies)
