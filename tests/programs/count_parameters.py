"""Megatron's own parameter counts of recipes' models, whole, without allocating one: on torch's meta device.

    count_parameters.py RECIPE ...

The last line is JSON: {recipe: number of parameters}.
"""

import json
import os
import sys

import torch
from hydra import compose, initialize_config_dir

from nemo_demix.artifacts import DataManifest
from nemo_demix.cli import recipes_folder
from nemo_demix.config import ParallelConfig, register_schema, to_dataclasses
from nemo_demix.runtime.model import build_model
from nemo_demix.runtime.ranks import start_ranks, stop_ranks


def main() -> None:
    register_schema()
    os.environ.setdefault("DEMIX_DATA", "/data")
    start_ranks(ParallelConfig())
    found = {}
    for name in sys.argv[1:]:
        with initialize_config_dir(str(recipes_folder()), version_base="1.3"):
            config = to_dataclasses(compose(name, overrides=["hydra.searchpath=[pkg://nemo_demix.conf]"]))
        config.parallel = ParallelConfig()
        manifest = DataManifest({"vocab_size": config.model.vocab_size or config.tokenizer.vocab_size}, {}, {}, "m")
        with torch.device("meta"):
            model = build_model(config, manifest)
        found[name] = sum(parameter.numel() for parameter in model.parameters())
    print(json.dumps(found), flush=True)
    stop_ranks()


if __name__ == "__main__":
    main()
