"""What a checkpoint layout is: how it is known, where its weights are, what its files say, what else belongs to it."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

from nemo_demix.checkpoints.architecture import Architecture
from nemo_demix.checkpoints.files import read_file
from nemo_demix.checkpoints.refusals import check_folder, check_metadata
from nemo_demix.errors import CheckpointError

# What loaders read beside the shards, whoever wrote it. Not on the list, and so left behind: optimizer and data-loader
# side files, and weights in other forms, which would be those of another model.
_COMPANIONS = ("common.pt", "metadata.json", "run_config.yaml", "train_state.pt")
_COMPANION_FOLDERS = ("tokenizer",)


@dataclass(frozen=True)
class Layout(ABC):
    """A checkpoint in one layout. A class of it says what is known of the layout, and no other code asks for its name.

    Args:
        root: What a loader is pointed at.
        weights: The torch_dist folder, with `.metadata` and the `.distcp` files; the root, or below it.
    """

    kind: ClassVar[str]  # its name: in messages, in `merge inspect`
    moving: ClassVar[frozenset[str]] = frozenset()  # files that change as the run saves on: no part of a source

    root: Path
    weights: Path

    @classmethod
    def root_of(cls, path: Path) -> Path:
        """Return the root of a checkpoint that was named by its torch_dist folder; any other path as it is."""
        return path

    @classmethod
    @abstractmethod
    def matches(cls, path: Path) -> Self | None:
        """Return the checkpoint at a folder, where it is of this layout: told by the names of files that are there.

        Args:
            path: A folder that exists, after `root_of` of all layouts.
        Raises:
            CheckpointError: if it is of this layout, but does not say where its weights are.
        """

    def check(self) -> None:
        """Refuse a checkpoint whose save was cut off, or whose weights are in another form than torch_dist.

        Raises:
            CheckpointError: saying what it holds and what to do.
        """
        check_folder(self.weights)
        check_metadata(self.weights, by_megatron=True)

    @property
    @abstractmethod
    def architecture(self) -> Architecture:
        """What its own files say of the model; an empty `Architecture` where they do not say.

        Raises:
            CheckpointError: if a file is damaged, or leads out of the checkpoint.
        """

    @cached_property
    def companions(self) -> tuple[Path, ...]:
        """The files that a merged checkpoint has to carry beside the shards, relative to the root."""
        folders = [self.weights / name for name in _COMPANION_FOLDERS]
        return self.among([*(self.weights / name for name in _COMPANIONS), *within(folders)])

    @property
    def own_files(self) -> dict[Path, bytes]:
        """What a merged checkpoint has in place of a companion, relative to its root: what is of it alone."""
        return {}

    def among(self, paths: Iterable[Path]) -> tuple[Path, ...]:
        """Return which of these are files that are there, relative to the root, sorted."""
        return tuple(sorted(path.relative_to(self.root) for path in paths if path.is_file()))

    @property
    def weights_relative(self) -> Path:
        """The torch_dist folder relative to the root: `weights`, `iter_0000100` or `.`."""
        return self.weights.relative_to(self.root)

    def read(self, relative: Path) -> bytes:
        """Return a small file of the checkpoint, by its path below the root.

        Raises:
            CheckpointError: as `files.read_file`.
            FileNotFoundError: if there is none.
        """
        return read_file(self.home(relative), self.root / relative)

    def home(self, relative: Path) -> Path:
        """Return the folder that a file must not lead out of: the torch_dist folder may itself be named by a link."""
        return self.weights if relative.is_relative_to(self.weights_relative) else self.root


def within(folders: Iterable[Path]) -> list[Path]:
    """Return everything below some folders."""
    return [path for folder in folders for path in folder.rglob("*")]


def check_finished(root: Path) -> None:
    """Refuse a checkpoint beside which NeMo's mark of an unfinished save stands.

    Raises:
        CheckpointError: naming the mark.
    """
    marker = root.with_name(root.name + "-unfinished")
    if marker.exists():
        raise CheckpointError(f"{root}: its save was cut off ({marker.name} stands beside it); use an earlier one")


def check_within(root: Path, folder: Path) -> None:
    """Refuse a folder of a checkpoint that is a link out of it; the checkpoint's own folder may be a link.

    Raises:
        CheckpointError: naming where it leads.
    """
    if not folder.resolve().is_relative_to(root.resolve()):
        raise CheckpointError(
            f"{folder}: is a link to {folder.resolve()}, outside of the checkpoint; it is not followed. Copy the "
            "folder there, or name the checkpoint it belongs to"
        )
