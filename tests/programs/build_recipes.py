"""Build the NeMo objects of every role of a recipe, without its data; the recipe's files need not exist.

And count the parameters of Megatron's own model, whole, on torch's meta device, where none is allocated.
"""

import json
import sys
from typing import Any

import fiddle as fdl
import torch

from nemo_demix.artifacts import DataManifest, DatasetRecord
from nemo_demix.command_line import recipes_folder
from nemo_demix.config import ParallelConfig, register_schema, to_dataclasses
from nemo_demix.prepared import PreparedRun
from nemo_demix.runtime.model import build_model
from nemo_demix.runtime.nemo.training import training_recipe
from nemo_demix.runtime.ranks import start_ranks, stop_ranks
from nemo_demix.runtime.recipe import model_shape
from nemo_demix.training.train import as_training


def main() -> None:
    from hydra import compose, initialize_config_dir

    register_schema()
    start_ranks(ParallelConfig())
    found: dict[str, Any] = {}
    for name in sys.argv[1:]:
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
            recipe = training_recipe(config, manifest, as_training(config, manifest, job))
            model, optimizer = fdl.build(recipe.model.config), fdl.build(recipe.optim)
            layout = fdl.build(recipe.trainer.strategy).parallelism
            found[f"{name}/{job.role}/{job.name}"] = {
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


if __name__ == "__main__":
    main()
