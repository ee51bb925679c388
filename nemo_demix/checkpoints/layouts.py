"""The forms a checkpoint comes in, found by content: where its weights lie and what belongs to them.

A torch_dist folder (`.metadata` and `.distcp` files) stands in one of four layouts:

    nemo2            ROOT/weights/, ROOT/context/
    megatron_lm      ROOT/latest_checkpointed_iteration.txt, ROOT/iter_0000100/ or ROOT/release/
    megatron_bridge  the same, with iter_0000100/run_config.yaml and train_state.pt
    torch_dcp        only the torch_dist folder, as torch.distributed.checkpoint saves it

Everything else is refused with the way out.

Source: Megatron-LM megatron/training/checkpointing.py; Megatron-Bridge training/utils/checkpoint_utils.py; NeMo
nemo/lightning/ckpt_utils.py.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from nemo_demix.checkpoints.architecture import (
    Architecture,
    bridge_architecture,
    megatron_lm_architecture,
    nemo_architecture,
)
from nemo_demix.checkpoints.files import read_file
from nemo_demix.checkpoints.refusals import check_folder, check_metadata
from nemo_demix.errors import CheckpointError
from nemo_demix.stack import locate as locate_module

TRACKER = "latest_checkpointed_iteration.txt"
BRIDGE_TRACKER = "latest_train_state.pt"
RUN_CONFIG = "run_config.yaml"

_ITERATION = re.compile(r"iter_(\d{7,})|release")
# What loaders read beside the shards. Not on the list, and so left behind: optimizer and data-loader side files, and
# weights in other forms, which would be those of another model.
_WEIGHTS_COMPANIONS = ("common.pt", "metadata.json", RUN_CONFIG, "train_state.pt")
_WEIGHTS_FOLDERS = ("tokenizer",)


@dataclass(frozen=True)
class Place:
    """Where a checkpoint's weights are."""

    kind: str  # nemo2 | megatron_lm | megatron_bridge | torch_dcp
    root: Path  # what a loader is pointed at
    weights: Path  # the torch_dist folder

    @property
    def weights_relative(self) -> Path:
        """The torch_dist folder relative to the root: `weights`, `iter_0000100` or `.`."""
        return self.weights.relative_to(self.root)


@dataclass(frozen=True)
class Layout(Place):
    """A checkpoint, and what its own files say of it."""

    companions: tuple[Path, ...]  # relative to the root: the files a merged checkpoint has to carry beside the shards
    architecture: Architecture

    def read(self, relative: Path) -> bytes:
        """A small file of the checkpoint, by its path below the root.

        Raises:
            CheckpointError: as `files.read_file`.
            FileNotFoundError: if there is none.
        """
        return read_file(self.home(relative), self.root / relative)

    def home(self, relative: Path) -> Path:
        """The folder that a file must not lead out of: the torch_dist folder may itself have been named by a link."""
        return self.weights if relative.is_relative_to(self.weights_relative) else self.root

    @property
    def tracker(self) -> str | None:
        """What the tracker file has to say for this checkpoint to be the one that is loaded; None: it has none."""
        match = _ITERATION.fullmatch(self.weights_relative.name)
        return None if match is None else str(int(match[1])) if match[1] else "release"


def detect(path: Path) -> Layout:
    """The layout of the checkpoint at `path`: its root or its torch_dist folder.

    Raises:
        CheckpointError: if there is no checkpoint, its save was cut off, or it is of a form that is not read; it says
            how to convert it.
    """
    place = locate(path)
    match place.kind:
        case "nemo2":
            architecture = nemo_architecture(place.root / "context")
        case "megatron_bridge":
            architecture = bridge_architecture(place.weights / RUN_CONFIG)
        case "megatron_lm":
            architecture = megatron_lm_architecture(place.weights)
        case _:
            architecture = Architecture()
    return Layout(place.kind, place.root, place.weights, _companions(place), architecture)


def locate(path: Path) -> Place:
    """Where the weights of the checkpoint at `path` are, without reading what else it holds.

    Raises:
        CheckpointError: as `detect`.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path}: not found; expected a checkpoint folder")
    if path.name in ("", ".."):
        path = path.resolve()
    if path.name == "weights" and (path.parent / "context").is_dir():
        path = path.parent
    marker = path.with_name(path.name + "-unfinished")
    if marker.exists():
        raise CheckpointError(f"{path}: its save was cut off ({marker.name} stands beside it); use an earlier one")
    if (path / TRACKER).is_file() or (path / BRIDGE_TRACKER).is_file():
        return _training_folder(path, _tracked(path))
    if (path / "weights").is_dir():
        _check_within(path, path / "weights")
        check_folder(path / "weights")
        check_metadata(path / "weights", by_megatron=True)
        return Place("nemo2", path, path / "weights")
    check_folder(path)
    if _ITERATION.fullmatch(path.name):
        return _training_folder(path.parent, path)
    check_metadata(path, by_megatron=(path / "common.pt").exists() or (path / "context").is_dir())
    if (path / RUN_CONFIG).is_file():
        return Place("megatron_bridge", path, path)
    # metadata.json is Megatron's own; torch alone writes none.
    return Place("megatron_lm" if (path / "metadata.json").is_file() else "torch_dcp", path, path)


def _check_within(root: Path, folder: Path) -> None:
    """Refuse a folder of a checkpoint that is a link out of it; the checkpoint's own folder may be a link."""
    if not folder.resolve().is_relative_to(root.resolve()):
        raise CheckpointError(
            f"{folder}: is a link to {folder.resolve()}, outside of the checkpoint; it is not followed. Copy the "
            "folder there, or name the checkpoint it belongs to"
        )


def _training_folder(root: Path, weights: Path) -> Place:
    check_folder(weights)
    check_metadata(weights, by_megatron=True)
    if (weights / RUN_CONFIG).is_file():
        return Place("megatron_bridge", root, weights)
    signs = [weights / "train_state.pt", root / BRIDGE_TRACKER, *root.glob(f"iter_*/{RUN_CONFIG}")]
    if signs := [sign for sign in signs if sign.is_file()]:
        # It writes this file when the shards are finished; without it they would be taken for Megatron-LM's.
        raise CheckpointError(
            f"{weights / RUN_CONFIG}: not found, but {signs[0]} is there, which Megatron-Bridge writes: its save was "
            "cut off, or the file was not copied; use an earlier one, or copy it from the run"
        )
    return Place("megatron_lm", root, weights)


def _tracked(root: Path) -> Path:
    """The folder that the tracker of a training run names."""
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
    _check_within(root, weights)
    if not weights.is_dir():
        others = sorted(child.name for child in root.iterdir() if _ITERATION.fullmatch(child.name))
        raise CheckpointError(
            f"{tracker}: names {weights.name}, which is not there; found {', '.join(others) or 'no iteration'}: give "
            "the folder of one, or correct the file"
        )
    return weights


def _companions(place: Place) -> tuple[Path, ...]:
    if place.kind == "torch_dcp":
        return ()
    found = [place.weights / name for name in _WEIGHTS_COMPANIONS]
    folders = [place.weights / name for name in _WEIGHTS_FOLDERS]
    if place.kind == "nemo2":
        folders.append(place.root / "context")
    trackers = [place.root / name for name in (TRACKER, BRIDGE_TRACKER)]
    if any(tracker.is_file() for tracker in trackers) and _is_tracked(place):
        found += trackers
    for folder in folders:
        found += folder.rglob("*")
    return tuple(sorted(file.relative_to(place.root) for file in found if file.is_file()))


def _is_tracked(place: Place) -> bool:
    """Whether the tracker beside the weights names these, and not another iteration of the same run."""
    try:
        return place.weights != place.root and _tracked(place.root) == place.weights
    except CheckpointError:
        return False
