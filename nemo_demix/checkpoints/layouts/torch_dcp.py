"""Only the torch_dist folder, as torch.distributed.checkpoint saves it."""

from pathlib import Path
from typing import ClassVar, Self

from nemo_demix.checkpoints.architecture import Architecture
from nemo_demix.checkpoints.layouts.base import Layout
from nemo_demix.checkpoints.layouts.training_folder import RUN_CONFIG, has_tracker, is_iteration, written_by_megatron
from nemo_demix.checkpoints.refusals import check_folder, check_metadata


class TorchDcp(Layout):
    """A checkpoint of torch alone, which says nothing of its model."""

    kind: ClassVar[str] = "torch_dcp"
    companions: ClassVar[tuple[Path, ...]] = ()  # type: ignore[assignment,misc]
    architecture: ClassVar[Architecture] = Architecture()  # type: ignore[misc]

    @classmethod
    def matches(cls, path: Path) -> Self | None:
        """Return it where there is `.metadata`, and nothing that NeMo or Megatron would have written around it."""
        others = [path / "weights", path / RUN_CONFIG, path / "metadata.json"]
        if has_tracker(path) or is_iteration(path) or any(other.exists() for other in others):
            return None
        return cls(path, path) if ".metadata" in {child.name for child in path.iterdir()} else None

    def check(self) -> None:
        """Refuse another form than torch_dist, such as a save of Megatron's that lacks metadata.json."""
        check_folder(self.weights)
        check_metadata(self.weights, by_megatron=written_by_megatron(self.weights))
