"""Build the NeMo objects of every role of a recipe, without its data; the recipe's files need not exist."""

import json
import sys

import fiddle as fdl

from nemo_demix.artifacts import DataManifest, DatasetRecord
from nemo_demix.cli import recipes_folder
from nemo_demix.config import register_schema, to_dataclasses
from nemo_demix.training.jobs import base_job, component_jobs, final_jobs, reference_jobs
from nemo_demix.training.train import training_recipe


def main() -> None:
    from hydra import compose, initialize_config_dir

    register_schema()
    found = {}
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
        jobs = [base_job(config, manifest), *component_jobs(config, manifest)]
        jobs += reference_jobs(config, manifest, {"r_0": equal}, {"r_0": 0})
        jobs += final_jobs(config, manifest, {"mixture": equal})
        for job in jobs:
            recipe = training_recipe(config, manifest, job)
            model, optimizer = fdl.build(recipe.model.config), fdl.build(recipe.optim)
            strategy = fdl.build(recipe.trainer.strategy)
            found[f"{name}/{job.role}/{job.name}"] = {
                "num_layers": model.num_layers,
                "seq_length": model.seq_length,
                "max_lr": optimizer.config.lr,
                "min_lr": optimizer.lr_scheduler.min_lr,
                "max_steps": recipe.trainer.max_steps,
                "layout": {
                    "tensor": strategy.parallelism.tensor_model_parallel_size,
                    "pipeline": strategy.parallelism.pipeline_model_parallel_size,
                    "expert": strategy.parallelism.expert_model_parallel_size,
                    "sequence": strategy.parallelism.sequence_parallel,
                    "nodes": recipe.trainer.num_nodes,
                    "data": recipe.trainer.num_nodes
                    * recipe.trainer.devices
                    // (
                        strategy.parallelism.tensor_model_parallel_size
                        * strategy.parallelism.pipeline_model_parallel_size
                    ),
                },
                "context": strategy.parallelism.context_parallel_size,
                "optimizer": optimizer.config.optimizer,
                "weight_decay": optimizer.config.weight_decay,
                "precision": recipe.trainer.plugins and recipe.trainer.plugins.precision,
                "paths": recipe.data.paths,
                "global_batch_size": recipe.data.global_batch_size,
            }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
