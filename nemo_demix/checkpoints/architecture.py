"""What a checkpoint's own files say of its model, read without running or trusting them.

Source: megatron.core.transformer.TransformerConfig (names and defaults); megatron.core.safe_globals (what Megatron-LM's
`common.pt` names); nemo.lightning.io (`context/`).
"""

import argparse
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_demix.artifacts import parse_json
from nemo_demix.checkpoints.files import read_file
from nemo_demix.checkpoints.objects import read_common_state
from nemo_demix.checkpoints.plain_yaml import parse_yaml
from nemo_demix.errors import CheckpointError, DemixError
from nemo_demix.stack import locate as locate_module

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Architecture:
    """The shape of a model; None: the checkpoint does not say."""

    model_class: str | None = None  # dotted path of the class or provider that builds it
    num_layers: int | None = None
    hidden_size: int | None = None
    ffn_hidden_size: int | None = None
    num_attention_heads: int | None = None
    num_query_groups: int | None = None
    kv_channels: int | None = None
    gated_linear_unit: bool | None = None
    tied_embeddings: bool | None = None
    num_experts: int | None = None  # 0: dense
    vocab_size: int | None = None  # as configured; Megatron-LM stores it padded, NeMo and Megatron-Bridge do not


# Our field -> the name in a TransformerConfig, which NeMo's and Megatron-Bridge's files share.
_CONFIG_NAMES = {
    "num_layers": "num_layers",
    "hidden_size": "hidden_size",
    "ffn_hidden_size": "ffn_hidden_size",
    "num_attention_heads": "num_attention_heads",
    "num_query_groups": "num_query_groups",
    "kv_channels": "kv_channels",
    "gated_linear_unit": "gated_linear_unit",
    "tied_embeddings": "share_embeddings_and_output_weights",
    "num_experts": "num_moe_experts",
    "vocab_size": "vocab_size",
}


def nemo_architecture(context: Path) -> Architecture:
    """Read NeMo 2's `context/model.yaml`, or `context/io.json` of versions that did not write it yet."""
    if (context / "model.yaml").is_file():
        model = _read_yaml(context.parent, context / "model.yaml")
        return _from_config(_section(model, "config"), model.get("_target_"))
    if (context / "io.json").is_file():
        return _from_io_json(context / "io.json")
    return Architecture()


def bridge_architecture(run_config: Path) -> Architecture:
    """Read the model section of Megatron-Bridge's `run_config.yaml`."""
    model = _section(_read_yaml(run_config.parent, run_config), "model")
    # Newer versions keep the TransformerConfig in a section of its own.
    return _from_config({**_section(model, "transformer"), **model}, model.get("_target_"))


def megatron_lm_architecture(weights: Path) -> Architecture:
    """Read the command line that Megatron-LM keeps in the common state, where it can be read safely."""
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
    return _from_config(config, None)


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


def _read_yaml(root: Path, path: Path) -> dict[str, Any]:
    try:
        found = parse_yaml(read_file(root, path), unknown_tags=True)
    except ValueError as error:
        logger.warning("%s: not YAML (%s); the architecture is unknown", path, str(error).partition("\n")[0])
        return {}
    return found if isinstance(found, dict) else {}


def _section(mapping: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = mapping.get(name)
    return value if isinstance(value, dict) else {}


def _from_config(config: Mapping[str, Any], model_class: Any, complete: bool = True) -> Architecture:
    """Take the sizes from a TransformerConfig's values; those that a complete one lacks are Megatron's defaults."""
    values = {ours: config.get(name) for ours, name in _CONFIG_NAMES.items()}
    values = {name: value if isinstance(value, int) else None for name, value in values.items()}
    hidden, heads = values["hidden_size"], values["num_attention_heads"]
    if complete and hidden is not None and heads:
        defaults = {"ffn_hidden_size": 4 * hidden, "num_query_groups": heads, "kv_channels": hidden // heads}
        values.update({name: default for name, default in defaults.items() if values[name] is None})
    if complete and values["num_experts"] is None and "num_moe_experts" in config:
        values["num_experts"] = 0
    return Architecture(model_class if isinstance(model_class, str) else None, **values)


def _from_io_json(path: Path) -> Architecture:
    """Read fiddle's graph of the model's configuration: it holds what was set, without the defaults of its classes."""
    try:
        graph = parse_json(read_file(path.parents[1], path), path)
    except CheckpointError:
        raise
    except DemixError as error:
        logger.warning("%s: not the graph NeMo writes (%r); the architecture is unknown", path, error)
        return Architecture()
    values = io_json_config(graph)
    if not values:
        logger.warning("%s: not the graph NeMo writes; the architecture is unknown", path)
    return _from_config(values, values.get(_CLASS), complete=False)


_CLASS = "_target_"  # as in model.yaml


def io_json_config(graph: Any) -> dict[str, Any]:
    """The plain values that NeMo's `context/io.json` sets in the model's configuration, by name; empty: it is none.

    `_target_` is the model's class.
    """
    try:
        objects = graph["objects"]
        model = _attributes(objects, _attributes(objects, graph["root"])["model"])
        config = _attributes(objects, model["config"])
        target = model["__fn_or_cls__"]
        values = {name: value.get("value") for name, value in config.items() if value.get("type") == "leaf"}
        return {**values, _CLASS: f"{target['module']}.{target['name']}"}
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


def _attributes(objects: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """The attributes of one object of the graph by name; the class it builds as `__fn_or_cls__`."""
    found = objects[reference["key"]]
    metadata = objects[found["metadata"]["key"]]
    return {**_named(found["items"]), "__fn_or_cls__": _named(metadata["items"])["fn_or_cls"]}


def _named(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key.removeprefix("Attr(name='").removesuffix("')"): value for key, value in items}
