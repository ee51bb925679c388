"""Answers that take seconds to find and stay the same, kept in the user's cache folder between commands."""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nemo_demix.artifacts import canonical_json, fingerprint, read_json, write_json
from nemo_demix.errors import DemixError

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return `$XDG_CACHE_HOME/nemo-demix`, or `~/.cache/nemo-demix`. It may be deleted at any time."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "nemo-demix"


def remembered(question: str, inputs: Mapping[str, Any], find: Callable[[], Any]) -> Any:
    """Return what was found earlier for the same inputs, or else what `find` gives, which is then kept.

    An answer is taken only from a file that names exactly these inputs. Where the folder cannot be written, nothing is
    kept, and the next command finds the answer again.

    Args:
        question: A name for files of this kind.
        inputs: All that the answer depends on, as plain values: versions of packages too.
        find: Gives plain values; what it raises is passed on, and not kept.
    """
    if kept := recalled(question, inputs):
        return kept[0]
    path, answer = _place(question, inputs), find()
    try:
        write_json(path, {"inputs": inputs, "answer": answer})
    except OSError as error:
        logger.debug("%s: not kept (%s)", path, error)
    return answer


def recalled(question: str, inputs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the one answer that was kept for these inputs; empty where none was."""
    path = _place(question, inputs)
    try:
        kept = read_json(path) if path.exists() else None
    except DemixError:  # damaged: it is written anew
        return ()
    if isinstance(kept, dict) and canonical_json(kept.get("inputs")) == canonical_json(inputs) and "answer" in kept:
        return (kept["answer"],)
    return ()


def _place(question: str, inputs: Mapping[str, Any]) -> Path:
    return cache_folder() / f"{question}-{fingerprint(inputs=inputs)}.json"
