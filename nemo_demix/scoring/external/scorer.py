"""External scores of one model after another; safe to use from several threads."""

import shutil
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol

from nemo_demix.config import DemixConfig, ExternalConfig
from nemo_demix.errors import ConfigError, refuse
from nemo_demix.scoring.answer_store import AnswerStore
from nemo_demix.scoring.external.answers import read_answer
from nemo_demix.scoring.external.command import Command, Commands
from nemo_demix.scoring.external.settings import (
    CHECKPOINT,
    NAME,
    OUTPUT,
    command_fingerprint,
    external_errors,
    external_scores,
    filled,
)
from nemo_demix.scoring.items import Items


class Model(Protocol):
    """A model that is written to disk when someone wants it there."""

    name: str
    weights_fingerprint: str | None

    def path(self, format: str) -> Path:
        """Return the model's folder in a format: megatron | huggingface.

        Raises:
            DemixError: if it cannot be written.
        """


class ExternalScorer:
    """Runs the commands of `suite.external` on models.

    Args:
        uses: Uses of the scores to give; a command with none of them is not run. None: all.
    Raises:
        ConfigError: if a command cannot be run as it is described, or its program is not there.
    """

    def __init__(self, config: DemixConfig, uses: Collection[str] | None) -> None:
        if config.suite.external_workers < 1:
            raise ConfigError(f"suite.external_workers={config.suite.external_workers}: expected at least 1")
        self.names = set(external_scores(config.suite, uses))
        self.workers = config.suite.external_workers
        self._config, self._commands = config, Commands()
        self._store = AnswerStore.of(config)
        self._asked: dict[str, ExternalConfig] = {}
        for key, external in config.suite.external.items():
            refuse(external_errors(key, external))
            if any(f"external/{key}/{name}" in self.names for name in external.scores):
                _find_program(key, external)
                self._asked[key] = external

    def score(self, model: Model) -> tuple[dict[str, Items], float]:
        """Return items by score name, and the seconds that it took.

        Raises:
            ScoreError: if a command fails, takes too long, or does not answer as the configuration says.
            DemixError: if the model cannot be written to disk.
        """
        started = time.monotonic()
        found: dict[str, Items] = {}
        for key, config in self._asked.items():
            stored = f"external_{command_fingerprint(config)}"
            answer = self._store.json(model.weights_fingerprint, stored)
            if answer is not None and set(config.scores) <= set(answer):
                items = read_answer(key, config, answer)
            else:
                answer = self._run(key, config, model)
                items = read_answer(key, config, answer)
                self._store.put_json(model.weights_fingerprint, stored, {name: answer[name] for name in config.scores})
            found |= {name: one for name, one in items.items() if name in self.names}
        return found, time.monotonic() - started

    def __enter__(self) -> "ExternalScorer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the commands that run; no other is started."""
        self._commands.stop()

    def _run(self, key: str, config: ExternalConfig, model: Model) -> dict[str, Any]:
        log = (self._config.run_dir / "logs" / "external" / key / f"{model.name}.log").resolve()
        output = log.with_suffix(".json") if any(OUTPUT in part for part in config.command) else None
        values = {CHECKPOINT: str(model.path(config.format)), OUTPUT: str(output), NAME: model.name}
        words = filled(config.command, values)
        what = f"external/{key}: {model.name}"
        return self._commands.run(Command(what, words, config.env, output, log, config.timeout_s, config.retries))


def _find_program(key: str, config: ExternalConfig) -> None:
    program = config.command[0]
    if shutil.which(program, path=config.env.get("PATH")) is None and not any(
        placeholder in program for placeholder in (CHECKPOINT, OUTPUT, NAME)
    ):
        raise ConfigError(f"suite.external.{key}.command: {program}: no such program here, or it may not be run")
