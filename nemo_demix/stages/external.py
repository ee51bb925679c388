"""External scores of checkpoints: worked out here, when ranks have given what a live model gives."""

import logging
import queue
from collections.abc import Sequence
from functools import partial

from nemo_demix.errors import ScoreError
from nemo_demix.merging.folders import ModelFolder
from nemo_demix.prepared import PreparedRun
from nemo_demix.progress import Progress, tell
from nemo_demix.scoring.external import ExternalScorer, external_scores
from nemo_demix.scoring.items import Items
from nemo_demix.scoring.store import ScoreTarget, complete
from nemo_demix.scoring.suite import build_suite
from nemo_demix.search.proxies.external import Background, folder_maker, kept_formats

logger = logging.getLogger(__name__)
_Scored = tuple[dict[str, Items], float]


def add_external_scores(run: PreparedRun, targets: Sequence[ScoreTarget]) -> None:
    """Run the suite's external commands on checkpoints that are not scored yet, and write their records.

    Raises:
        ScoreError: if a command failed; the other checkpoints' records are written, and what ranks gave is kept.
        ConfigError: if a command cannot be run.
        DemixError: if a checkpoint cannot be exported.
    """
    config, manifest = run.config, run.manifest
    todo = [target for target in targets if not target.is_done(config, manifest)]
    if not todo or not external_scores(config.suite):
        return
    suite = build_suite(config.suite, manifest)
    folder = config.run_dir / "scores" / "external"
    ready: queue.SimpleQueue[tuple[ScoreTarget, _Scored | BaseException]] = queue.SimpleQueue()
    failures: list[str] = []
    with ExternalScorer(config, None) as scorer, folder_maker(config, folder) as maker:
        background = Background(scorer.workers)
        for target in todo:
            model = ModelFolder(
                target.name, target.weights_fingerprint(config), folder / target.name, target.checkpoint, maker
            )
            background.submit(partial(_score, target, model, scorer, kept_formats(config), ready))
        for count in range(len(todo)):
            target, found = ready.get()
            if isinstance(found, ScoreError):
                logger.warning("%s: %s", target.name, found)
                failures.append(f"{target.name}: {found}")
            elif isinstance(found, BaseException):
                raise found
            else:
                complete(config, manifest, target, suite, *found)
            tell(logger, Progress("score: external scores", count + 1, len(todo), "model"))
    if failures:
        more = f" ({len(failures)} of {len(todo)} models failed)" if len(failures) > 1 else ""
        raise ScoreError(
            f"{failures[0]}{more}; what is scored is kept: correct the command, and run the same stage again"
        )


def _score(
    target: ScoreTarget,
    model: ModelFolder,
    scorer: ExternalScorer,
    kept: set[str],
    ready: "queue.SimpleQueue[tuple[ScoreTarget, _Scored | BaseException]]",
) -> None:
    try:
        try:
            found = scorer.score(model)
        finally:
            model.remove(kept)
        ready.put((target, found))
    except BaseException as error:  # for the thread that waits for it
        ready.put((target, error))
