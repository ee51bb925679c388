"""Build the objects of every role of a recipe by its back end, without its data; the recipe's files need not exist.

    build_recipes.py BACKEND RECIPE ...

And count the parameters of Megatron's own model, whole, on torch's meta device, where none is allocated.
"""

import json
import sys
from typing import Any

import torch

from nemo_demix.artifacts import DataManifest, DatasetRecord
from nemo_demix.command_line import recipes_folder
from nemo_demix.config import DemixConfig, ParallelConfig, register_schema, to_dataclasses
from nemo_demix.prepared import PreparedRun
from nemo_demix.runtime.backend import Training
from nemo_demix.runtime.model import build_model
from nemo_demix.runtime.ranks import start_ranks, stop_ranks
from nemo_demix.runtime.recipe import model_shape
from nemo_demix.training.train import as_training


def main() -> None:
    from hydra import compose, initialize_config_dir

    backend, *names = sys.argv[1:]
    register_schema()
    start_ranks(ParallelConfig(), backend)
    found: dict[str, Any] = {}
    for name in names:
        with initialize_config_dir(str(recipes_folder()), version_base="1.3"):
            config = to_dataclasses(compose(name, overrides=["hydra.searchpath=[pkg://nemo_demix.conf]"]))
        datasets = {
            dataset: DatasetRecord(dataset, value.capability, f"/{dataset}", None, 1, 0, 1, 1, 1, 1, [], {}, dataset)
            for dataset, value in config.datasets.items()
        }
        tokenizer = {"path": "/t", "eos_id": 0, "kind": "huggingface", "fingerprint": "t"}
        tokenizer["vocab_size"] = config.tokenizer.vocab_size or config.model.vocab_size
        manifest = DataManifest(tokenizer, datasets, {}, "m")
        equal = dict.fromkeys(datasets, 1 / len(datasets))
        run = PreparedRun(config, manifest)
        jobs = [run.base, *run.components, *run.references({"r_0": equal}, {"r_0": 0}), *run.finals({"mixture": equal})]
        for job in jobs:
            training = as_training(config, manifest, job)
            made = by_bridge(config, manifest, training) if backend == "bridge" else by_nemo(config, manifest, training)
            found[f"{name}/{job.role}/{job.name}"] = made
        config.parallel = ParallelConfig()
        shape = model_shape(config, manifest.tokenizer["vocab_size"])
        assert shape is not None
        with torch.device("meta"):
            model = build_model(config, manifest)
        found[f"{name}/parameters"] = {
            "built": sum(parameter.numel() for parameter in model.parameters()),
            "counted": shape.num_parameters,
        }
    print(json.dumps(found), flush=True)
    stop_ranks()


def by_nemo(config: DemixConfig, manifest: DataManifest, training: Training) -> dict[str, Any]:
    import fiddle as fdl

    from nemo_demix.runtime.nemo.training import training_recipe

    recipe = training_recipe(config, manifest, training)
    model, optimizer = fdl.build(recipe.model.config), fdl.build(recipe.optim)
    layout = fdl.build(recipe.trainer.strategy).parallelism
    return {
        "num_layers": model.num_layers,
        "seq_length": model.seq_length,
        "max_lr": optimizer.config.lr,
        "min_lr": optimizer.lr_scheduler.min_lr,
        "max_steps": recipe.trainer.max_steps,
        "layout": {
            "tensor": layout.tensor_model_parallel_size,
            "pipeline": layout.pipeline_model_parallel_size,
            "expert": layout.expert_model_parallel_size,
            "sequence": layout.sequence_parallel,
            "nodes": recipe.trainer.num_nodes,
        },
        "ranks": recipe.trainer.num_nodes * recipe.trainer.devices,
        "context": layout.context_parallel_size,
        "optimizer": optimizer.config.optimizer,
        "weight_decay": optimizer.config.weight_decay,
        "precision": recipe.trainer.plugins and recipe.trainer.plugins.precision,
        "paths": recipe.data.paths,
        "global_batch_size": recipe.data.global_batch_size,
    }


def by_bridge(config: DemixConfig, manifest: DataManifest, training: Training) -> dict[str, Any]:
    from nemo_demix.runtime.bridge.training import training_recipe

    recipe = training_recipe(config, manifest, training)
    model, (paths, weights) = recipe.model, recipe.dataset.blend
    return {
        "num_layers": model.num_layers,
        "seq_length": model.seq_length,
        "max_lr": recipe.optimizer.lr,
        "min_lr": recipe.optimizer.min_lr,
        "max_steps": recipe.train.train_iters,
        "layout": {
            "tensor": model.tensor_model_parallel_size,
            "pipeline": model.pipeline_model_parallel_size,
            "expert": model.expert_model_parallel_size,
            "sequence": model.sequence_parallel,
        },
        "context": model.context_parallel_size,
        "optimizer": recipe.optimizer.optimizer,
        "weight_decay": recipe.scheduler.end_weight_decay,
        "precision": recipe.mixed_precision and recipe.mixed_precision.replace("_", "-"),
        "paths": [word for pair in zip(map(str, weights or [1.0]), paths, strict=True) for word in pair],
        "global_batch_size": recipe.train.global_batch_size,
    }


if __name__ == "__main__":
    main()
