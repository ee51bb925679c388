"""Scores of checkpoints, under `runs/<name>/scores/`: `<model>.json` to read, `<model>.npy` with every item."""

import io
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nemo_demix.artifacts import DataManifest, fingerprint, is_done, read_json, write_bytes, write_json, write_text
from nemo_demix.config import DemixConfig
from nemo_demix.runtime.model import build_model, load_checkpoint
from nemo_demix.runtime.ranks import Ranks
from nemo_demix.scoring.identity import suite_fingerprint
from nemo_demix.scoring.items import ModelItems, pack_items, unpack_items
from nemo_demix.scoring.scorer import ModelResult, Scorer
from nemo_demix.scoring.scores import describe_macro, score_report

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoreTarget:
    """A checkpoint to score."""

    name: str
    checkpoint: Path
    model_fingerprint: str

    def record_path(self, config: DemixConfig) -> Path:
        """Written last."""
        return config.run_dir / "scores" / f"{self.name}.json"

    def fingerprint(self, config: DemixConfig, manifest: DataManifest) -> str:
        """Of the model and everything it is scored on."""
        return fingerprint(model=self.model_fingerprint, suite=suite_fingerprint(config.suite, manifest))

    def is_done(self, config: DemixConfig, manifest: DataManifest) -> bool:
        """Whether exactly this is scored already."""
        return is_done(self.record_path(config), self.fingerprint(config, manifest))


def score_targets(config: DemixConfig, manifest: DataManifest, targets: Sequence[ScoreTarget], ranks: Ranks) -> None:
    """Score what is not scored yet. Collective: every rank."""
    todo = [target for target in targets if not target.is_done(config, manifest)]
    if not todo:
        return
    model, scorer = build_model(config, manifest), Scorer(config.suite, manifest, None)
    for target in todo:
        started = time.monotonic()
        load_checkpoint(model, target.checkpoint)
        result = scorer.score(model, ranks.is_main)
        if not ranks.is_main:
            continue
        report = score_report(scorer.suite, result.items)
        facts, packed = pack_items(result.items)
        buffer = io.BytesIO()
        np.save(buffer, packed, allow_pickle=False)
        write_bytes(target.record_path(config).with_suffix(".npy"), buffer.getvalue())
        _write_harness(config.run_dir / "scores", target.name, result)
        record: dict[str, Any] = {
            "name": target.name,
            "checkpoint": str(target.checkpoint),
            **report,
            "items": facts,
            "wall_time_s": round(time.monotonic() - started, 3),
            "fingerprint": target.fingerprint(config, manifest),
        }
        write_json(target.record_path(config), record)
        logger.info("%s: %s", target.name, describe_macro(report["capabilities"]))


def _write_harness(folder: Path, name: str, result: ModelResult) -> None:
    """lm-eval's own results under `lm_eval/<model>.json`, and its samples, if asked for, beside them."""
    if result.lm_eval is not None:
        write_json(folder / "lm_eval" / f"{name}.json", result.lm_eval)
    for task, samples in result.samples.items():
        lines = (json.dumps(sample, ensure_ascii=False, default=str) + "\n" for sample in samples)
        write_text(folder / "lm_eval" / name / f"samples_{task}.jsonl", "".join(lines))


def load_scores(config: DemixConfig, name: str) -> tuple[dict[str, Any], ModelItems]:
    """A model's score record and what it gave on every item."""
    path = config.run_dir / "scores" / f"{name}.json"
    record = read_json(path)
    return record, unpack_items(record["items"], np.load(path.with_suffix(".npy"), allow_pickle=False))
