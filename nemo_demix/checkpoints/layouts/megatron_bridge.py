"""Megatron-Bridge: as Megatron-LM, with run_config.yaml and train_state.pt in the iteration's folder.

Source: Megatron-Bridge training/utils/checkpoint_utils.py.
"""

from functools import cached_property
from pathlib import Path
from typing import ClassVar

from nemo_demix.checkpoints.architecture import Architecture, from_config, read_yaml, section
from nemo_demix.checkpoints.layouts.training_folder import RUN_CONFIG, TrainingFolder


class MegatronBridge(TrainingFolder):
    """A checkpoint of Megatron-Bridge, which writes run_config.yaml last."""

    kind: ClassVar[str] = "megatron_bridge"

    @classmethod
    def recognises(cls, weights: Path) -> bool:
        """Return whether run_config.yaml is there."""
        return (weights / RUN_CONFIG).is_file()

    @cached_property
    def architecture(self) -> Architecture:
        """What the model section of `run_config.yaml` says."""
        run_config = self.weights / RUN_CONFIG
        model = section(read_yaml(run_config.parent, run_config), "model")
        # Newer versions keep the TransformerConfig in a section of its own.
        return from_config({**section(model, "transformer"), **model}, model.get("_target_"))
