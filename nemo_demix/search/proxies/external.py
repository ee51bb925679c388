"""External scores of proxies: worked out in the process of the search, while ranks score the rest."""

import logging
import queue
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from nemo_demix.checkpoints.store import checkpoint_path
from nemo_demix.config import DemixConfig
from nemo_demix.errors import ScoreError
from nemo_demix.merging.folders import FolderMaker, MergeOrder, ModelFolder
from nemo_demix.merging.methods import build_method
from nemo_demix.mixture import check_simplex
from nemo_demix.prepared import PreparedRun
from nemo_demix.scoring.external import ExternalScorer
from nemo_demix.scoring.result import ModelResult
from nemo_demix.scoring.suite import Suite
from nemo_demix.search.identity import merge_fingerprint
from nemo_demix.search.proxies.base import Evaluation, Proxies
from nemo_demix.training.jobs import load_model

logger = logging.getLogger(__name__)
Found = Evaluation | ScoreError


class Background:
    """A few threads for work that mostly waits.

    Unlike those of an executor, nothing waits for them when the process ends: a command may run for an hour yet.
    """

    def __init__(self, workers: int) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        for _ in range(workers):
            threading.Thread(target=self._work, daemon=True).start()

    def submit(self, task: Callable[[], None]) -> None:
        """Have a task done some time; the task must not raise."""
        self._tasks.put(task)

    def _work(self) -> None:
        while True:
            self._tasks.get()()


class WithExternal:
    """Proxies with the external scores beside those of the ranks.

    A command that fails makes its proxy fail, with the reason; the others go on.

    Args:
        proxies: Give what a live model gives. None: the suite has external scores alone, and no rank is started.
        model: A mixture's proxy, as something to write to disk.
    """

    def __init__(
        self,
        kind: str,
        suite: Suite,
        proxies: Proxies | None,
        scorer: ExternalScorer,
        model: Callable[[Mapping[str, float]], ModelFolder],
        kept: set[str],
    ) -> None:
        self.kind, self.suite = kind, suite
        self._proxies, self._scorer, self._model, self._kept = proxies, scorer, model, kept
        self._background: Background | None = None

    def evaluate(self, mixtures: Sequence[Mapping[str, float]]) -> Iterator[tuple[int, Found]]:
        """See `Proxies.evaluate`."""
        if self._background is None:
            self._background = Background(self._scorer.workers)
        ready: queue.SimpleQueue[tuple[int, Found | BaseException]] = queue.SimpleQueue()
        num_waiting = 0
        try:
            for place, found in self._on_ranks(mixtures):
                if isinstance(found, ScoreError):
                    yield place, found
                    continue
                self._background.submit(partial(self._complete, place, mixtures[place], found, ready))
                num_waiting += 1
                while not ready.empty():
                    num_waiting -= 1
                    yield _taken(*ready.get())
            for _ in range(num_waiting):
                yield _taken(*ready.get())
        except BaseException:
            self._scorer.stop()
            raise

    def _on_ranks(self, mixtures: Sequence[Mapping[str, float]]) -> Iterator[tuple[int, Found]]:
        if self._proxies is not None:
            return self._proxies.evaluate(mixtures)
        return ((place, Evaluation(ModelResult({}), 0.0, 0.0)) for place in range(len(mixtures)))

    def _complete(
        self,
        place: int,
        weights: Mapping[str, float],
        found: Evaluation,
        ready: "queue.SimpleQueue[tuple[int, Found | BaseException]]",
    ) -> None:
        try:
            model = self._model(weights)
            try:
                items, seconds = self._scorer.score(model)
            finally:
                model.remove(self._kept)
            result = replace(found.result, items={**found.result.items, **items})
            ready.put((place, replace(found, result=result, external_time_s=seconds)))
        except BaseException as error:  # for the thread that waits for it
            ready.put((place, error))


def _taken(place: int, found: Found | BaseException) -> tuple[int, Found]:
    if isinstance(found, (Evaluation, ScoreError)):
        return place, found
    raise found


def merged_models(run: PreparedRun, maker: FolderMaker) -> Callable[[Mapping[str, float]], ModelFolder]:
    """Merge weights as a model that can be written below `search/external/<hash of weights>/`.

    Raises:
        ConfigError: if a component or the base is not trained yet.
    """
    order = _merge_order(run)
    folder = external_folder(run.config)
    names = [job.name for job in run.components]

    def model(weights: Mapping[str, float]) -> ModelFolder:
        checked = check_simplex(weights, names, "merge weights")
        merged = merge_fingerprint(run, checked)
        return ModelFolder(f"p_{merged[:8]}", merged, folder / merged, (order, checked), maker)

    return model


def trained_models(run: PreparedRun, maker: FolderMaker) -> Callable[[Mapping[str, float]], ModelFolder]:
    """Return data shares as the proxy that was trained on them."""
    num_proxies = sum(run.config.search.iterations)

    def model(shares: Mapping[str, float]) -> ModelFolder:
        job = run.proxy(shares, num_proxies)
        folder = external_folder(run.config) / job.fingerprint
        return ModelFolder(job.name, job.fingerprint, folder, checkpoint_path(load_model(job).checkpoint), maker)

    return model


def external_folder(config: DemixConfig) -> Path:
    """Return what is written for external commands; nothing of it outlives its command, unless it is to be kept."""
    return config.run_dir / "search" / "external"


def kept_formats(config: DemixConfig) -> set[str]:
    """Return formats of which a command wants its models kept."""
    return {external.format for external in config.suite.external.values() if external.keep_checkpoint}


@contextmanager
def folder_maker(config: DemixConfig, folder: Path) -> Iterator[FolderMaker]:
    """Make folders of models for this run, below a folder; what a killed process left there is removed, unless kept."""
    if folder.exists() and not kept_formats(config):
        shutil.rmtree(folder)
    maker = FolderMaker(config.run_dir / "logs" / "external" / "models.log", config.tokenizer.huggingface_path)
    try:
        yield maker
    finally:
        maker.close()
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()


def _merge_order(run: PreparedRun) -> MergeOrder:
    settings: Any = run.config.merge
    checkpoints = {job.name: load_model(job).checkpoint for job in run.components}
    method = build_method(settings.method, settings.parameters, settings.seed, len(checkpoints), has_base=True)
    base = settings.base or load_model(run.base).checkpoint if method.uses_base else None
    return MergeOrder(
        components={name: str(Path(path).resolve()) for name, path in checkpoints.items()},
        base=None if base is None else str(Path(base).resolve()),
        method=settings.method,
        parameters=settings.parameters,
        seed=settings.seed,
        objects_from=settings.objects_from if settings.objects_from in checkpoints else None,
        memory_gib=settings.memory_gib,
    )
