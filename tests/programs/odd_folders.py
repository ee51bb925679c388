"""Odd Hugging Face folders, imported with Megatron-Bridge: what is said of each, one after another in one process."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from nemo_demix.config import DemixConfig
from nemo_demix.errors import DemixError
from nemo_demix.stages.convert import import_stage


def told(config: DemixConfig, good: Path, folder: Path) -> dict[str, str]:
    """The error of each odd folder's import, or "imported".

    Args:
        good: A folder of the recipe's model, which is copied.
        folder: Where the copies go; code of theirs that runs makes `folder/trace`.
    """
    config.convert.output = str(folder / "out")
    found = {}
    for name, spoil in ODD.items():
        shutil.copytree(good, folder / name)
        spoil(folder / name)
        config.convert.source = str(folder / name)
        try:
            import_stage(config)
            found[name] = "imported"
            shutil.rmtree(folder / "out")
        except DemixError as error:
            found[name] = str(error)
        assert not (folder / "out").exists(), name
    return found


def _says(**changes: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


def _with_code(folder: Path) -> None:
    """Have the folder bring code for everything that transformers would load from it."""
    (folder / "evil.py").write_text(f"open({str(folder.parent / 'trace')!r}, 'w')\nclass Evil: ...\n")
    _says(auto_map={"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"})(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": [None, "evil.Evil"]}}))


def _without(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "model.safetensors"
        tensors = load_file(path)
        del tensors[name]
        save_file(tensors, path, {"format": "pt"})

    return spoil


def _cut(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "model.safetensors"
        tensors = load_file(path)
        save_file({**tensors, name: tensors[name][:-2].clone()}, path, {"format": "pt"})

    return spoil


ODD: dict[str, Callable[[Path], None]] = {
    "code": _with_code,
    "unknown": _says(architectures=["SomeoneElsesForCausalLM"]),
    "silent": _says(architectures=None),
    "other_size": _says(rms_norm_eps=1e-3),
    "window": _says(use_sliding_window=True, sliding_window=16, max_window_layers=0, layer_types=None),
    "bias": _says(attention_bias=True),
    "positions": _says(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e6}),
    "missing": _without("model.norm.weight"),
    "short": _cut("model.layers.0.mlp.up_proj.weight"),
}
