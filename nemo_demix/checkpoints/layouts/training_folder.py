"""The folder of a training run, which Megatron-LM and Megatron-Bridge share: iterations, and a tracker that names one.

    ROOT/latest_checkpointed_iteration.txt, ROOT/iter_0000100/ or ROOT/release/

An iteration's folder that was given another name is a checkpoint too, without a tracker.
"""

import re
from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

from nemo_demix.checkpoints.files import read_file
from nemo_demix.checkpoints.layouts.base import Layout, check_within
from nemo_demix.checkpoints.refusals import check_folder, check_metadata
from nemo_demix.errors import CheckpointError
from nemo_demix.stack import locate as locate_module

TRACKER = "latest_checkpointed_iteration.txt"
BRIDGE_TRACKER = "latest_train_state.pt"
RUN_CONFIG = "run_config.yaml"

_ITERATION = re.compile(r"iter_(\d{7,})|release")


class TrainingFolder(Layout):
    """An iteration of a training run, or a copy of one."""

    moving: ClassVar[frozenset[str]] = frozenset({TRACKER, BRIDGE_TRACKER})

    @classmethod
    @abstractmethod
    def recognises(cls, weights: Path) -> bool:
        """Return whether the torch_dist folder is of this layout, and not of the other."""

    @classmethod
    def matches(cls, path: Path) -> Self | None:
        """Return the iteration that the tracker names, or the one whose folder this is.

        Raises:
            CheckpointError: if the tracker is damaged, or names what is not there.
        """
        if has_tracker(path):
            found = cls(path, _tracked(path))
        elif (path / "weights").is_dir():
            return None  # NeMo's, whatever it is called
        else:
            found = cls(path.parent if is_iteration(path) else path, path)
        return found if cls.recognises(found.weights) else None

    def check(self) -> None:
        """Refuse what every layout refuses; in a folder of any name, no more than is known to be Megatron's."""
        check_folder(self.weights)
        by_megatron = is_iteration(self.weights) or written_by_megatron(self.weights)
        check_metadata(self.weights, by_megatron)

    @cached_property
    def companions(self) -> tuple[Path, ...]:
        """What every layout has, and the trackers, if they name this iteration and not another of the same run."""
        trackers = self.among(self.root / name for name in (TRACKER, BRIDGE_TRACKER))
        return tuple(sorted({*super().companions, *(trackers if self._is_tracked() else ())}))

    @property
    def tracker(self) -> str | None:
        """What the tracker file has to say for this checkpoint to be the one that is loaded; None: it has none."""
        match = _ITERATION.fullmatch(self.weights_relative.name)
        return None if match is None else str(int(match[1])) if match[1] else "release"

    @property
    def own_files(self) -> dict[Path, bytes]:
        """The tracker, naming this iteration."""
        return {} if self.tracker is None else {Path(TRACKER): self.tracker.encode()}

    def _is_tracked(self) -> bool:
        if self.weights == self.root or not has_tracker(self.root):
            return False
        try:
            return _tracked(self.root) == self.weights
        except CheckpointError:
            return False


def has_tracker(root: Path) -> bool:
    """Return whether a file of a folder says which iteration of a training run was the last."""
    return (root / TRACKER).is_file() or (root / BRIDGE_TRACKER).is_file()


def is_iteration(path: Path) -> bool:
    """Return whether a folder has the name of a training run's iteration."""
    return _ITERATION.fullmatch(path.name) is not None


def written_by_megatron(path: Path) -> bool:
    """Return whether what stands in a torch_dist folder of any name shows that NeMo or Megatron wrote it."""
    return (path / "common.pt").exists() or (path / "context").is_dir()


def _tracked(root: Path) -> Path:
    """Return the folder that the tracker of a training run names."""
    tracker = root / TRACKER
    if tracker.is_file():
        found = read_file(root, tracker).decode(errors="replace").strip()
        if not (found.isdecimal() or found == "release"):
            raise CheckpointError(f"{tracker}: expected an iteration number or `release`, found {found[:40]!r}")
    else:  # early versions of Megatron-Bridge
        tracker = root / BRIDGE_TRACKER
        if locate_module("torch") is None:
            raise CheckpointError(
                f"{tracker}: torch has to read it, and is not installed; name one of its iter_* folders, or "
                "pip install 'nemo-demix[merge]'"
            )
        from nemo_demix.checkpoints.common_state import load_plain

        try:
            found = str(int(load_plain(read_file(root, tracker), tracker)["step"]))
        except Exception as error:  # many kinds, on damaged or hostile files; nothing of it was run
            raise CheckpointError(f"{tracker}: expected Megatron-Bridge's train state ({error})") from None
    if len(found) > 20:
        raise CheckpointError(f"{tracker}: names an iteration of {len(found)} digits; expected a number")
    weights = root / (found if found == "release" else f"iter_{int(found):07d}")
    check_within(root, weights)
    if not weights.is_dir():
        others = sorted(child.name for child in root.iterdir() if _ITERATION.fullmatch(child.name))
        raise CheckpointError(
            f"{tracker}: names {weights.name}, which is not there; found {', '.join(others) or 'no iteration'}: give "
            "the folder of one, or correct the file"
        )
    return weights
