"""What models answered, kept by their weights and by what they were asked: a changed suite runs only what is new.

`runs/<name>/scores/answers/<xy>/<xy...>/<hash>.npz` or `.json`, where `xy...` is the fingerprint of the weights. A
`.npz` holds all that was asked in one go: requests that run together share batches, which decide a score's last digits,
so they are kept together or not at all. A file that cannot be read counts as not there.
"""

import io
import logging
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from nemo_demix.artifacts import canonical_json, fingerprint, json_value, write_bytes
from nemo_demix.config import DemixConfig

logger = logging.getLogger(__name__)
T = TypeVar("T")
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class AnswerStore:
    """A folder of answers.

    Attributes:
        folder: Folder that answers are kept in; None: nothing is kept.
        reads: Whether kept answers are used; they are not where a stage is forced to score again.
    """

    folder: Path | None
    reads: bool = True

    @classmethod
    def of(cls, config: DemixConfig) -> "AnswerStore":
        """Return the store of a run."""
        return cls(config.run_dir / "scores" / "answers" if config.suite.cache else None, not config.force)

    def arrays(self, weights_fingerprint: str | None, decode: Mapping[str, Callable[[Arrays], T]]) -> dict[str, T]:
        """Return what `put_arrays` kept of some keys.

        Args:
            weights_fingerprint: Fingerprint of the model's weights; None: not known, so nothing is kept of it.
            decode: Makes something of a key's arrays, and refuses by ValueError or KeyError what they cannot be.
        """
        found: dict[str, T] = {}
        folder = self._path(weights_fingerprint, "")
        if folder is None or not self.reads:
            return found
        for path in sorted(folder.glob("*.npz")):
            try:
                with np.load(path, allow_pickle=False) as file:
                    keys = {name.partition("/")[0] for name in file.files} & set(decode)
                    found |= {key: decode[key](_members(file, key)) for key in keys}
            except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
                _tell_damaged(path, error)
        return found

    def put_arrays(self, weights_fingerprint: str | None, answers: Mapping[str, Arrays]) -> None:
        """Keep arrays by key, all or none."""
        path = self._path(weights_fingerprint, f"{fingerprint(keys=sorted(answers))}.npz")
        if path is not None:
            buffer = io.BytesIO()
            members = {f"{key}/{name}": array for key, arrays in answers.items() for name, array in arrays.items()}
            np.savez(buffer, **members)
            write_bytes(path, buffer.getvalue())

    def json(self, weights_fingerprint: str | None, key: str) -> dict[str, Any] | None:
        """Return what `put_json` kept; None: nothing."""
        path = self._path(weights_fingerprint, f"{key}.json")
        if path is None or not self.reads or not path.exists():
            return None
        try:
            found = json_value(path.read_bytes())
            if not isinstance(found, dict):
                raise ValueError(f"expected an object, found {type(found).__name__}")
        except (OSError, ValueError) as error:
            _tell_damaged(path, error)
            return None
        return found

    def put_json(self, weights_fingerprint: str | None, key: str, value: Mapping[str, Any]) -> None:
        """Keep plain values, whole or not at all."""
        if (path := self._path(weights_fingerprint, f"{key}.json")) is not None:
            write_bytes(path, canonical_json(value).encode())

    def _path(self, weights_fingerprint: str | None, name: str) -> Path | None:
        if self.folder is None or weights_fingerprint is None:
            return None
        return self.folder / weights_fingerprint[:2] / weights_fingerprint / name


NO_STORE = AnswerStore(None)


def _members(file: Mapping[str, np.ndarray], key: str) -> Arrays:
    return {name.partition("/")[2]: file[name] for name in file if name.startswith(f"{key}/")}


def _tell_damaged(path: Path, error: Exception) -> None:
    logger.warning("%s: damaged (%s: %s); it is scored again, and replaced", path, type(error).__name__, error)
