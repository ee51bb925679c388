"""Checkpoints of a training run: how each back end names them and what is in them, which are whole, which are kept."""

import re
from collections.abc import Collection
from pathlib import Path

from nemo_demix.checkpoints.saved import is_complete

_PREFIX = {"nemo": "step_", "bridge": "iter_"}  # Megatron-Bridge looks for its own name
_DIGITS = {"nemo": 8, "bridge": 7}
WEIGHTS_PREFIX = {"nemo": "module.", "bridge": ""}  # of their names


def step_folder(checkpoints: Path, step: int, backend: str) -> Path:
    """Return where the checkpoint after `step` optimizer steps lies."""
    return checkpoints / f"{_PREFIX[backend]}{step:0{_DIGITS[backend]}d}"


def saved_steps(checkpoints: Path, backend: str) -> dict[int, Path]:
    """Return folders of checkpoints by their step, in order, whole or not."""
    name = re.compile(rf"{_PREFIX[backend]}(\d{{{_DIGITS[backend]},}})")
    found = {int(match[1]): path for path in checkpoints.glob("*") if (match := name.fullmatch(path.name))}
    return {step: path for step, path in sorted(found.items()) if path.is_dir()}


def latest_checkpoint(checkpoints: Path, backend: str) -> tuple[int, Path | None]:
    """Return the newest complete checkpoint of a training run: (steps done, folder), or (0, None)."""
    whole = [(step, path) for step, path in saved_steps(checkpoints, backend).items() if is_complete(path)]
    return whole[-1] if whole else (0, None)


def outdated(checkpoints: Path, step: int, keep_steps: Collection[int], backend: str) -> list[Path]:
    """Return what was only for resuming, and lies before a checkpoint that stands now."""
    found = saved_steps(checkpoints, backend)
    return [path for earlier, path in found.items() if earlier < step and earlier not in keep_steps]
