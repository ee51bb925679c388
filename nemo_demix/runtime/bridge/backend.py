"""Megatron-Bridge behind the interface of `runtime/backend.py`."""

from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import DemixConfig, ParallelConfig
from nemo_demix.model_shape import shape_of
from nemo_demix.runtime.bridge.recipe import base_recipe, override_model, shape_values, values_of
from nemo_demix.runtime.bridge.training import train
from nemo_demix.runtime.ranks import Ranks
from nemo_demix.runtime.recipe import check_shape, padded_vocab_size

__all__ = ["build_model", "shape_values", "start_groups", "train", "use_cpu"]


def use_cpu() -> None:
    """Do nothing: importing this package has done it, see `stand_ins`."""


def start_groups(parallel: ParallelConfig, ranks: Ranks) -> None:
    """Start Megatron's groups as Bridge would; it finds them, and leaves them alone."""
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=parallel.tensor,
        pipeline_model_parallel_size=parallel.pipeline,
        expert_model_parallel_size=parallel.expert,
        expert_tensor_parallel_size=1,
    )


def build_model(config: DemixConfig, manifest: DataManifest) -> torch.nn.Module:
    """Build this rank's part of the model by Bridge's model provider, see `runtime.model.build_model`."""
    recipe = base_recipe(config)
    provider = recipe.model
    provider.vocab_size, provider.should_pad_vocab = padded_vocab_size(config, manifest.tokenizer), False
    override_model(recipe, config)
    check_shape(shape_of(values_of(recipe)), config)
    model = provided(provider)
    if torch.cuda.is_available():
        model = model.cuda()
    return model.eval()


def provided(provider: Any) -> torch.nn.Module:
    """Build this rank's part of the model of a provider of Bridge's, with weights not yet set."""
    provider.perform_initialization = False
    provider.finalize()
    provider._pg_collection = ProcessGroupCollection.use_mpu_process_groups()
    model: torch.nn.Module = provider.provide()
    return model


def start_alone() -> None:
    """Start a process group of this process only, with Megatron's groups in it."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
        start_groups(ParallelConfig(), Ranks(0, 0, 1))
