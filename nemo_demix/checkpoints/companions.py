"""Whether the small files of a checkpoint are what their names say, and agree with each other and with its tensors.

Where others trained it, no checksum covers them; a merge takes them over, and its outputs are loaded by them.
"""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from nemo_demix.artifacts import parse_json
from nemo_demix.checkpoints.layouts import Layout
from nemo_demix.checkpoints.layouts.nemo2 import io_json_config
from nemo_demix.checkpoints.metadata import TensorEntry
from nemo_demix.errors import CheckpointError, DemixError
from nemo_demix.plain_yaml import parse_yaml

_METADATA_KEYS = ("sharded_backend", "sharded_backend_version", "common_backend", "common_backend_version")
_LAYER = re.compile(r"(?:module\.)?decoder\.layers\.(\d{1,9}(?=\.))?")
_EMBEDDING = re.compile(r"(?:module\.)?embedding\.word_embeddings\.weight")
_AGAIN = "one of them is damaged or was changed: copy the checkpoint again, or make them agree"


def check_companions(layout: Layout, tensors: Mapping[str, TensorEntry]) -> None:
    """Refuse a checkpoint whose small files are damaged, as far as they themselves and its tensors show it.

    Raises:
        CheckpointError: naming the file, or the two that disagree.
    """
    read = {path: content for path in layout.companions if (content := _parsed(layout, path)) is not None}
    for path, content in read.items():
        if path.name == "metadata.json" and isinstance(content, dict):
            _check_keys(layout.root / path, content)
    model, graph = Path("context/model.yaml"), Path("context/io.json")
    if model in read and graph in read:
        values = io_json_config(read[graph])
        values.pop("_target_", None)  # of the model; the YAML's is of its configuration
        _compare_models(layout.root, read[model], values)
    _check_sizes(layout, tensors)


def _parsed(layout: Layout, path: Path) -> Any:
    """Return the content of a file that is JSON or YAML by its name; None for others."""
    where = layout.root / path
    try:
        if path.suffix == ".json":
            return parse_json(layout.read(path), where)
        if path.suffix in (".yaml", ".yml"):
            return parse_yaml(layout.read(path), unknown_tags=True)
    except CheckpointError:
        raise
    except DemixError as error:
        raise CheckpointError(f"{str(error).partition(';')[0]}; copy the checkpoint again") from None
    except ValueError as error:
        raise CheckpointError(f"{where}: expected YAML, found: {error}; copy the checkpoint again") from None
    return None


def _check_keys(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse keys that are nearly one of Megatron's own, which reads this file by its keys; releases may add others."""
    absent = [key for key in _METADATA_KEYS if key not in content]
    for key in set(content) - set(_METADATA_KEYS):
        if meant := get_close_matches(key, absent, 1, 0.9):
            raise CheckpointError(f"{path}: has the key {key[:80]!r}, expected {meant[0]}; copy the checkpoint again")
    for key in _METADATA_KEYS:
        if key.endswith("version") and type(content.get(key, 1)) is not int:
            raise CheckpointError(f"{path}: {key}: expected a number, found {content[key]!r:.40}; copy it again")


def _compare_models(root: Path, model: Any, values: Mapping[str, Any]) -> None:
    """Compare the two descriptions that NeMo writes of its model: what was set as a graph, and all of it as YAML."""
    config = model.get("config") if isinstance(model, dict) else None
    if not isinstance(config, dict):
        return
    for name, value in values.items():
        if name not in config:
            continue
        found = config[name]
        try:  # YAML has numbers such as 1e-5 as text
            same = found == value if isinstance(found, bool) else float(found) == float(value)
        except (TypeError, ValueError, OverflowError):
            same = found == value
        if not same:
            raise CheckpointError(
                f"{root / 'context'}: {name} is {value!r:.40} in io.json, {found!r:.40} in model.yaml; {_AGAIN}"
            )


def _check_sizes(layout: Layout, tensors: Mapping[str, TensorEntry]) -> None:
    said = layout.architecture
    layers = 0
    for name, entry in tensors.items():
        width = entry.shape[-1] if entry.shape else 1
        if _EMBEDDING.fullmatch(name) and said.hidden_size not in (None, width):
            raise _other(layout, "hidden_size", said.hidden_size, f"{name} is {width} wide")
        if match := _LAYER.match(name):
            layers = max(layers, int(match[1]) + 1 if match[1] else entry.shape[0] if entry.shape else 1)
    if layers and said.num_layers not in (None, layers):
        raise _other(layout, "num_layers", said.num_layers, f"its tensors are of {layers}")


def _other(layout: Layout, name: str, said: int | None, found: str) -> CheckpointError:
    return CheckpointError(f"{layout.root}: {name} is {said} in its configuration, but {found}; {_AGAIN}")
