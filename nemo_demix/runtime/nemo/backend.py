"""NeMo behind the interface of `runtime/backend.py`."""

from dataclasses import dataclass
from typing import Any

import torch

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import DemixConfig, ParallelConfig
from nemo_demix.runtime.backend import Trained, Training
from nemo_demix.runtime.lifetime import StopRequest
from nemo_demix.runtime.nemo.recipe import base_recipe, checked_shape, shape_values
from nemo_demix.runtime.ranks import Ranks
from nemo_demix.runtime.recipe import DTYPES, apply_overrides, padded_vocab_size

__all__ = ["build_model", "shape_values", "start_groups", "train", "use_cpu"]


def use_cpu() -> None:
    """Let CUDA code run on the CPU in this process, see `runtime/cpu_alias.py`."""
    from nemo_demix.runtime import cpu_alias

    cpu_alias.install()


def start_groups(parallel: ParallelConfig, ranks: Ranks) -> None:
    """Start Megatron's groups as NeMo's strategy would; it finds them, and leaves them alone."""
    from nemo.lightning import _strategy_lib
    from nemo.lightning.pytorch.strategies.megatron_strategy import ParallelismConfig

    layout = ParallelismConfig(
        tensor_model_parallel_size=parallel.tensor,
        pipeline_model_parallel_size=parallel.pipeline,
        virtual_pipeline_model_parallel_size=None,
        microbatch_group_size_per_vp_stage=1,
        context_parallel_size=1,
        sequence_parallel=parallel.sequence,
        expert_model_parallel_size=parallel.expert,
        moe_extended_tp=False,
        pipeline_dtype=torch.float32,
        expert_tensor_parallel_size=1,
    )
    _strategy_lib.init_parallel_ranks(ranks.world_size, ranks.rank, ranks.local_rank, layout)
    _strategy_lib.init_model_parallel()


def build_model(config: DemixConfig, manifest: DataManifest) -> torch.nn.Module:
    """Build this rank's part of the model by NeMo's model configuration, see `runtime.model.build_model`."""
    import fiddle as fdl
    from nemo.lightning import _strategy_lib

    recipe = base_recipe(config, config.run_dir / "models", "live")
    recipe.model.config.vocab_size = padded_vocab_size(config, manifest.tokenizer)
    apply_overrides(
        recipe, {key: value for key, value in config.model.overrides.items() if key in ("model", "trainer")}
    )
    checked_shape(recipe, config)
    model_config = fdl.build(recipe.model.config)
    strategy = fdl.build(recipe.trainer.strategy)

    @dataclass
    class _Holder:
        config: Any

        def configure_model(self) -> None: ...

    _strategy_lib.set_model_parallel_attributes(_Holder(model_config), strategy.parallelism)
    model_config.params_dtype = model_config.pipeline_dtype = getattr(torch, DTYPES[config.train.precision])
    model_config.bf16 = config.train.precision == "bf16-mixed"
    model_config.fp16 = config.train.precision == "16-mixed"
    model_config.perform_initialization = False
    model = model_config.configure_model(tokenizer=None)
    if torch.cuda.is_available():
        model = model.cuda()
    return model.eval()  # type: ignore[no-any-return]


def train(
    config: DemixConfig, manifest: DataManifest, training: Training, stop_request: StopRequest, ranks: Ranks
) -> Trained:
    """Train one model by NeMo's own pretrain function, see `Backend.train`."""
    from nemo_demix.runtime.nemo.training import train as train_with_nemo

    return train_with_nemo(config, manifest, training, stop_request, ranks)
