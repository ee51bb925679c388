"""The layouts a checkpoint comes in, found by content. A new one is a class, and its place in `LAYOUTS`.

A torch_dist folder (`.metadata` and `.distcp` files) stands in one of four:

    nemo2            ROOT/weights/, ROOT/context/
    megatron_bridge  as the next, with iter_0000100/run_config.yaml and train_state.pt
    megatron_lm      ROOT/latest_checkpointed_iteration.txt, ROOT/iter_0000100/ or ROOT/release/
    torch_dcp        only the torch_dist folder, as torch.distributed.checkpoint saves it

Everything else is refused with the way out.
"""

from pathlib import Path

from nemo_demix.checkpoints.layouts.base import Layout, check_finished
from nemo_demix.checkpoints.layouts.megatron_bridge import MegatronBridge
from nemo_demix.checkpoints.layouts.megatron_lm import MegatronLM
from nemo_demix.checkpoints.layouts.nemo2 import Nemo2
from nemo_demix.checkpoints.layouts.torch_dcp import TorchDcp
from nemo_demix.checkpoints.refusals import check_folder
from nemo_demix.errors import CheckpointError

__all__ = ["LAYOUTS", "Layout", "detect", "locate"]

# Asked in this order, and the first that matches it is. Of these four one alone matches; a layout that has all that
# another is known by, and more, stands before that.
LAYOUTS: tuple[type[Layout], ...] = (Nemo2, MegatronBridge, MegatronLM, TorchDcp)


def detect(path: Path) -> Layout:
    """Find the checkpoint at `path`, and read what its own files say of it.

    Args:
        path: Its root or its torch_dist folder.
    Raises:
        CheckpointError: if there is no checkpoint, its save was cut off, or it is of a form that is not read; it says
            how to convert it.
    """
    layout = locate(path)
    # Read now and kept: what is wrong with them is said here, and what belongs to a checkpoint stays the same.
    _ = layout.companions, layout.architecture
    return layout


def locate(path: Path) -> Layout:
    """Find the checkpoint at `path` without reading what else it holds.

    Raises:
        CheckpointError: as `detect`.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path}: not found; expected a checkpoint folder")
    if path.name in ("", ".."):
        path = path.resolve()
    for layout_class in LAYOUTS:
        path = layout_class.root_of(path)
    check_finished(path)
    for layout_class in LAYOUTS:
        layout = layout_class.matches(path)
        if layout is not None:
            layout.check()
            return layout
    check_folder(path)
    raise CheckpointError(
        f"{path}: has a `.metadata` of no layout that is read; expected NeMo 2's, Megatron's or torch's"
    )
