"""Megatron-LM: ROOT/latest_checkpointed_iteration.txt, ROOT/iter_0000100/ or ROOT/release/.

Source: Megatron-LM megatron/training/checkpointing.py; megatron.core.safe_globals (what its `common.pt` names).
"""

import argparse
import logging
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from nemo_demix.checkpoints.architecture import Architecture, from_config
from nemo_demix.checkpoints.layouts.training_folder import BRIDGE_TRACKER, RUN_CONFIG, TrainingFolder, is_iteration
from nemo_demix.checkpoints.objects import read_common_state
from nemo_demix.errors import CheckpointError
from nemo_demix.stack import locate as locate_module

logger = logging.getLogger(__name__)


class MegatronLM(TrainingFolder):
    """A checkpoint of Megatron-LM."""

    kind: ClassVar[str] = "megatron_lm"

    @classmethod
    def recognises(cls, weights: Path) -> bool:
        """Return whether it is no other's; in a folder of any name, by metadata.json: torch alone writes none."""
        if (weights / RUN_CONFIG).is_file():
            return False
        return is_iteration(weights) or (weights / "metadata.json").is_file()

    def check(self) -> None:
        """Refuse what every layout refuses, and a save of Megatron-Bridge that lacks the file it is known by."""
        super().check()
        if not is_iteration(self.weights):
            return
        signs = [self.weights / "train_state.pt", self.root / BRIDGE_TRACKER, *self.root.glob(f"iter_*/{RUN_CONFIG}")]
        if signs := [sign for sign in signs if sign.is_file()]:
            # It writes this file when the shards are finished; without it they would be taken for Megatron-LM's.
            raise CheckpointError(
                f"{self.weights / RUN_CONFIG}: not found, but {signs[0]} is there, which Megatron-Bridge writes: its "
                "save was cut off, or the file was not copied; use an earlier one, or copy it from the run"
            )

    @cached_property
    def architecture(self) -> Architecture:
        """What the command line says that it keeps in the common state, where that can be read safely."""
        weights = self.weights
        common = read_common_state(weights)
        if common is None:
            return Architecture()
        if locate_module("torch") is None:
            logger.warning(
                "%s: read with torch (pip install 'nemo-demix[merge]'); the architecture is unknown", common.where
            )
            return Architecture()
        from nemo_demix.checkpoints.common_state import load_common

        try:
            found = load_common(common, [(_Inert, name) for name in _INERT] + [argparse.Namespace])
        except CheckpointError:
            raise
        except Exception as error:  # the restricted unpickler raises many kinds; none of them has run anything
            reason = str(error).partition("GLOBAL ")[2].partition(" was not")[0] or str(error).partition("\n")[0]
            logger.warning("%s: not read safely (%s); the architecture is unknown", common.where, reason)
            return Architecture()
        arguments = found.get("args")
        if not isinstance(arguments, argparse.Namespace):
            return Architecture()
        values = vars(arguments)
        grouped, untied = values.get("group_query_attention"), values.get("untie_embeddings_and_output_weights")
        config = {
            **values,
            # Megatron-LM keeps num_query_groups at 1 where attention is not grouped.
            "num_query_groups": values.get("num_query_groups") if grouped else values.get("num_attention_heads"),
            "gated_linear_unit": values.get("swiglu"),
            "share_embeddings_and_output_weights": not untied if isinstance(untied, bool) else None,
            "vocab_size": values.get("padded_vocab_size"),
        }
        if "num_experts" in values:
            config["num_moe_experts"] = values["num_experts"]
        return from_config(config, None)


class _Inert:
    """Stands for a class whose content is not read; building it runs nothing."""

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


# What Megatron-LM puts into common.pt beside plain values: enums of its command line, and state to resume from.
_INERT = (
    "pathlib.PosixPath",
    "pathlib._local.PosixPath",
    "signal.Signals",
    "types.SimpleNamespace",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.ndarray",
    "numpy.dtype",
    "megatron.core.enums.ModelType",
    "megatron.core.optimizer.OptimizerConfig",
    "megatron.core.optimizer.optimizer_config.OptimizerConfig",
    "megatron.core.rerun_state_machine.RerunDiagnostic",
    "megatron.core.rerun_state_machine.RerunMode",
    "megatron.core.rerun_state_machine.RerunState",
    "megatron.core.transformer.enums.AttnBackend",
    "megatron.core.transformer.enums.CudaGraphScope",
)
