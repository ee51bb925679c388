"""Models as folders on disk, for programs that read a checkpoint: merges, and Hugging Face exports.

A helper process makes them one after another (`folders_worker`): the process of a search stays as small as it is,
imports no NeMo, and outlives a merge that runs out of memory.
"""

import json
import logging
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nemo_demix.errors import DemixError, ScoreError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MergeOrder:
    """A merge to write, all but its weights.

    Attributes:
        components: Checkpoints by name.
        base: Base of the method's task vectors; None where the method uses none.
        seed: Seed of the method's random masks.
        memory_gib: Memory that is promised to the merge.
    """

    components: Mapping[str, str]
    base: str | None
    method: str
    parameters: Mapping[str, Any]
    seed: int
    objects_from: str | None
    memory_gib: float


class FolderMaker:
    """The helper process, started when it is first needed; safe to use from several threads.

    Args:
        log: File that gets all that it prints.
        tokenizer: The folder of a Hugging Face tokenizer, for checkpoints that bring none.
    """

    def __init__(self, log: Path, tokenizer: str | None) -> None:
        self._log, self._tokenizer = log.resolve(), tokenizer
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._closed = False

    def merge(self, order: MergeOrder, weights: Mapping[str, float], folder: Path) -> None:
        """Write a merge as `folder`, in the components' layout and dtype; nothing if it is there already.

        Raises:
            DemixError: the user's mistake that was found, such as a damaged component or a full disk.
            ScoreError: if the helper was lost.
        """
        self._ask({"make": "merge", **asdict(order), "weights": dict(weights), "folder": str(folder)})

    def export(self, checkpoint: Path, folder: Path) -> None:
        """Write a NeMo 2 checkpoint as a Hugging Face model and tokenizer, as `nemo-demix export` does.

        Raises:
            DemixError, ScoreError: as `merge`.
        """
        self._ask(
            {"make": "export", "checkpoint": str(checkpoint), "folder": str(folder), "tokenizer": self._tokenizer}
        )

    def close(self) -> None:
        """End the helper, whatever it is at."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()  # its workers end with it
            process.wait()

    def _ask(self, request: Mapping[str, Any]) -> None:
        with self._lock:
            if self._closed:
                raise ScoreError("no model is written to disk any more: this run is being stopped")
            if self._process is None or self._process.poll() is not None:
                self._process = self._start()
            process = self._process
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except BrokenPipeError:
                line = ""
            if not line:
                raise ScoreError(
                    f"the process that writes models to disk was lost (exit code {process.wait()}); see {self._log}"
                )
        answer = json.loads(line)
        if "mistake" in answer:
            raise DemixError(answer["mistake"])
        if "failure" in answer:
            raise ScoreError(f"{request['folder']} was not written: {answer['failure']}; see {self._log}")

    def _start(self) -> "subprocess.Popen[str]":
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with open(self._log, "ab") as log:
            # A session of its own: a signal to our process group is ours to pass on.
            return subprocess.Popen(
                [sys.executable, "-m", "nemo_demix.merging.folders_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )


class ModelFolder:
    """One model, written to disk in the formats that are asked for.

    Args:
        name: Name of the model, for messages and logs.
        weights_fingerprint: Fingerprint of its weights.
        folder: Everything that is written for it lies below.
        source: The model's checkpoint, or what to merge with which weights.
    """

    def __init__(
        self,
        name: str,
        weights_fingerprint: str,
        folder: Path,
        source: Path | tuple[MergeOrder, Mapping[str, float]],
        maker: FolderMaker,
    ) -> None:
        self.name = name
        self.weights_fingerprint: str | None = weights_fingerprint
        self._folder, self._source, self._maker = folder.resolve(), source, maker

    def path(self, format: str) -> Path:
        """Return the model's folder in a format: megatron | huggingface. Raises as `FolderMaker`."""
        if format == "megatron" and isinstance(self._source, Path):
            return self._source.resolve()
        path = self._folder / format
        if path.exists():
            return path
        if format == "huggingface":
            self._maker.export(self.path("megatron"), path)
        else:
            assert not isinstance(self._source, Path)
            self._maker.merge(*self._source, path)
        return path

    def remove(self, kept: set[str]) -> None:
        """Remove what was written, but for the formats to keep."""
        if not self._folder.exists():
            return
        for path in self._folder.iterdir():
            if path.name not in kept:
                shutil.rmtree(path)
        if not any(self._folder.iterdir()):
            self._folder.rmdir()
