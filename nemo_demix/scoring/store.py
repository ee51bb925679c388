"""Scores of checkpoints, under `runs/<name>/scores/`: `<model>.json` to read, `<model>.npy` with every bit count."""

import io
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nemo_demix.artifacts import DataManifest, fingerprint, is_done, read_json, write_bytes, write_json
from nemo_demix.config import DemixConfig
from nemo_demix.runtime.model import build_model, load_checkpoint
from nemo_demix.runtime.ranks import Ranks
from nemo_demix.scoring.evaluate import request_bits
from nemo_demix.scoring.scores import macro, score_report
from nemo_demix.scoring.suite import build_suite, suite_fingerprint

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
    model, suite = build_model(config, manifest), build_suite(config.suite, manifest)
    for target in todo:
        started = time.monotonic()
        load_checkpoint(model, target.checkpoint)
        bits_R = request_bits(model, suite)
        if not ranks.is_main:
            continue
        report = score_report(suite, bits_R)
        write_bits(target.record_path(config).with_suffix(".npy"), bits_R)
        record: dict[str, Any] = {
            "name": target.name,
            "checkpoint": str(target.checkpoint),
            **report,
            "wall_time_s": round(time.monotonic() - started, 3),
            "fingerprint": target.fingerprint(config, manifest),
        }
        write_json(target.record_path(config), record)
        logger.info("%s: %.4f bits/byte, macro over capabilities", target.name, macro(report["capabilities"]))


def write_bits(path: Path, bits_R: np.ndarray) -> None:
    """Write every request's bits, whole or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, bits_R, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def load_scores(config: DemixConfig, name: str) -> tuple[dict[str, Any], np.ndarray]:
    """A model's score record and its bits per request."""
    path = config.run_dir / "scores" / f"{name}.json"
    return read_json(path), np.load(path.with_suffix(".npy"), allow_pickle=False)
