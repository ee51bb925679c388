"""Scores of checkpoints, under `runs/<name>/scores/`: `<model>.json` to read, `<model>.npy` with every item.

A suite with external scores takes two steps: ranks leave what they give in `parts/`, and the record is written by the
process that runs the commands (`complete`), so that it is there with all its scores or not at all.
"""

import io
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nemo_demix.artifacts import DataManifest, fingerprint, is_done, read_json, write_bytes, write_json, write_text
from nemo_demix.config import DemixConfig
from nemo_demix.progress import Progress, tell
from nemo_demix.runtime.ranks import Ranks
from nemo_demix.scoring.answer_store import AnswerStore
from nemo_demix.scoring.external import external_scores
from nemo_demix.scoring.identity import score_fingerprints, suite_fingerprint
from nemo_demix.scoring.items import Items, ModelItems, Score, is_guessed, pack_items, scores_from_json, unpack_items
from nemo_demix.scoring.result import ModelResult
from nemo_demix.scoring.scores import describe_macro, score_report
from nemo_demix.scoring.suite import Suite

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoreTarget:
    """A checkpoint to score."""

    name: str
    checkpoint: Path
    model_fingerprint: str

    def record_path(self, config: DemixConfig) -> Path:
        """Return the path of the model's record, which is written last."""
        return config.run_dir / "scores" / f"{self.name}.json"

    def fingerprint(self, config: DemixConfig, manifest: DataManifest) -> str:
        """Fingerprint of the model and everything it is scored on."""
        return fingerprint(model=self.model_fingerprint, suite=suite_fingerprint(config.suite, manifest))

    def weights_fingerprint(self, config: DemixConfig) -> str:
        """Return what stored answers are kept by: a checkpoint is loaded in the precision that the run trains in."""
        return fingerprint(model=self.model_fingerprint, precision=config.train.precision)

    def is_done(self, config: DemixConfig, manifest: DataManifest) -> bool:
        """Return whether exactly this is scored already."""
        return is_done(self.record_path(config), self.fingerprint(config, manifest))

    def part_path(self, config: DemixConfig) -> Path:
        """Return what ranks gave, until the external scores are there too."""
        return config.run_dir / "scores" / "parts" / f"{self.name}.json"

    def part_fingerprint(self, config: DemixConfig, manifest: DataManifest) -> str:
        """Fingerprint of the model and everything that ranks score it on."""
        found = score_fingerprints(config.suite, manifest)
        on_ranks = {name: value for name, value in found.items() if not name.startswith("external/")}
        return fingerprint(model=self.model_fingerprint, groups=on_ranks)

    def needs_ranks(self, config: DemixConfig, manifest: DataManifest) -> bool:
        """Return whether a live model has something left to give."""
        if self.is_done(config, manifest):
            return False
        if all(name.startswith("external/") for name in score_fingerprints(config.suite, manifest)):
            return False
        return not is_done(self.part_path(config), self.part_fingerprint(config, manifest))

    def forget(self, config: DemixConfig) -> None:
        """Make it count as not scored."""
        self.record_path(config).unlink(missing_ok=True)
        self.part_path(config).unlink(missing_ok=True)


def score_targets(config: DemixConfig, manifest: DataManifest, targets: Sequence[ScoreTarget], ranks: Ranks) -> None:
    """Score what is not scored yet, as far as a live model can. Collective: every rank."""
    from nemo_demix.runtime.model import build_model, load_checkpoint
    from nemo_demix.scoring.scorer import Scorer

    todo = [target for target in targets if target.needs_ranks(config, manifest)]
    if not todo:
        return
    model, scorer = build_model(config, manifest), Scorer(config.suite, manifest, None, AnswerStore.of(config))
    for place, target in enumerate(todo):
        started = time.monotonic()
        if ranks.is_main:
            tell(logger, Progress("scoring trained models", place, len(todo), "model", target.name, is_line=False))
        fill = partial(load_checkpoint, model, target.checkpoint)
        result = scorer.score(model, ranks.is_main, target.weights_fingerprint(config), fill)
        if not ranks.is_main:
            continue
        _write_harness(config.run_dir / "scores", target.name, result)
        seconds = round(time.monotonic() - started, 3)
        if external_scores(config.suite):
            part = {"wall_time_s": seconds, "fingerprint": target.part_fingerprint(config, manifest)}
            _write_items(target.part_path(config), result.items, part)
            logger.info("%s: scored by the ranks; its external scores come next", target.name)
        else:
            _write_record(config, manifest, target, scorer.suite, result.items, seconds)


def complete(
    config: DemixConfig,
    manifest: DataManifest,
    target: ScoreTarget,
    suite: Suite,
    external: ModelItems,
    external_time_s: float,
) -> None:
    """Write the record of a model whose external scores are there, beside what ranks have given."""
    path = target.part_path(config)
    given: dict[str, Any] = {"items": {}, "wall_time_s": 0.0}
    items: dict[str, Items] = {}
    if suite.on_ranks:
        given, items = _read_items(path)
    seconds = round(given["wall_time_s"] + external_time_s, 3)
    _write_record(config, manifest, target, suite, items | dict(external), seconds)
    for one in (path, path.with_suffix(".npy")):
        one.unlink(missing_ok=True)


def _write_record(
    config: DemixConfig,
    manifest: DataManifest,
    target: ScoreTarget,
    suite: Suite,
    items: ModelItems,
    wall_time_s: float,
) -> None:
    report = score_report(suite, items)
    record = {
        "name": target.name,
        "checkpoint": str(target.checkpoint),
        **report,
        "wall_time_s": wall_time_s,
        "fingerprint": target.fingerprint(config, manifest),
    }
    _write_items(target.record_path(config), items, record)
    logger.info("%s: %s", target.name, describe_macro(report["capabilities"]))
    if guessed := [name for name, score in report["scores"].items() if is_guessed(score)]:
        logger.warning("%s: no better or worse than guessing on %s", target.name, ", ".join(guessed))


def _write_items(path: Path, items: ModelItems, record: dict[str, Any]) -> None:
    """Write a record with every item beside it; the record is written last."""
    facts, packed = pack_items(items)
    buffer = io.BytesIO()
    np.save(buffer, packed, allow_pickle=False)
    write_bytes(path.with_suffix(".npy"), buffer.getvalue())
    write_json(path, record | {"items": facts})


def _read_items(path: Path) -> tuple[dict[str, Any], dict[str, Items]]:
    record = read_json(path)
    return record, unpack_items(record["items"], np.load(path.with_suffix(".npy"), allow_pickle=False))


def _write_harness(folder: Path, name: str, result: ModelResult) -> None:
    """Write lm-eval's own results under `lm_eval/<model>.json`, and its samples, if asked for, beside them."""
    if result.lm_eval is not None:
        write_json(folder / "lm_eval" / f"{name}.json", result.lm_eval)
    for task, samples in result.samples.items():
        lines = (json.dumps(sample, ensure_ascii=False, default=str) + "\n" for sample in samples)
        write_text(folder / "lm_eval" / name / f"samples_{task}.jsonl", "".join(lines))


def model_scores(path: Path) -> dict[str, Score]:
    """Return a model's scores by name, of its record `scores/<model>.json`."""
    return scores_from_json(read_json(path)["scores"])


def load_scores(config: DemixConfig, name: str) -> tuple[dict[str, Any], ModelItems]:
    """Return a model's score record and what it gave on every item."""
    return _read_items(config.run_dir / "scores" / f"{name}.json")
