"""`export` and `import`: between checkpoints and Hugging Face folders, through the back end's own conversion.

No data, no manifest and no ranks are needed; both run in this process, on the CPU. What they print goes to
`logs/<stage>/rank_0.log`. Weights keep their dtype and their bits, both ways: fp32 stays fp32, bf16 stays bf16;
of several precisions, it is the one that holds all values.
"""

import functools
import inspect
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_demix.artifacts import parse_json, sync
from nemo_demix.checkpoints.files import check_name, read_file
from nemo_demix.checkpoints.layouts import locate
from nemo_demix.checkpoints.saved import find_weights
from nemo_demix.checkpoints.store import StorePath, checkpoint_path
from nemo_demix.config import DemixConfig
from nemo_demix.errors import CheckpointError, ConfigError, DemixError
from nemo_demix.terminal import output_to
from nemo_demix.tokenizer import num_ids

if TYPE_CHECKING:
    from nemo_demix.runtime.huggingface import SourceFolder

logger = logging.getLogger(__name__)
# Compared between the recipe's model and a Hugging Face folder. A key that neither has is equal.
_ARCHITECTURE = (
    "num_hidden_layers hidden_size intermediate_size num_attention_heads num_key_value_heads head_dim hidden_act "
    "rms_norm_eps rope_theta rope_scaling partial_rotary_factor sliding_window attention_bias mlp_bias "
    "tie_word_embeddings num_experts num_experts_per_tok moe_intermediate_size norm_topk_prob decoder_sparse_step "
    "mlp_only_layers"
).split()


def export_stage(config: DemixConfig) -> None:
    """Write the NeMo 2 checkpoint `convert.source`, of any parallel layout, as a Hugging Face folder `convert.output`.

    The model is the one that the checkpoint's context/model.yaml describes, whatever the recipe's; no code of the
    checkpoint is run (`runtime/context.py`). `vocab_size` is that of the embedding, padding included. The tokenizer is
    the checkpoint's; where it has none of Hugging Face's format, the recipe's, if `tokenizer.kind` is huggingface.

    Raises:
        ConfigError: if the source or the output is not given, or something is at the output already.
        CheckpointError: if the source is not a whole NeMo 2 checkpoint of a model that Hugging Face's format can hold.
    Memory: the model twice.
    """
    source, output = _paths(config, "export")
    find_weights(source)
    with _converting(config, "export", output) as folder:
        if config.backend == "bridge":
            from nemo_demix.runtime.bridge.export import export_checkpoint as export_with_bridge

            made = export_with_bridge(config, source, folder)
        else:
            from nemo_demix.runtime.context import read_context
            from nemo_demix.runtime.huggingface import export_checkpoint, tokenizer_beside

            source = locate(source).root  # the weights themselves may have been named
            context = read_context(source)
            tokenizer = tokenizer_beside(source / "context", context.tokenizer, config.tokenizer.huggingface_path)
            made = export_checkpoint(source, context, tokenizer, folder)
        _publish(made, output)
    logger.info("export: %s is a Hugging Face model: AutoModelForCausalLM.from_pretrained", output)


def import_stage(config: DemixConfig) -> None:
    """Write the Hugging Face folder `convert.source` as a checkpoint `convert.output`: NeMo 2's, or Megatron-Bridge's.

    The model is the recipe's (`model.recipe` and `model.overrides`), because that is what will load the checkpoint as
    `base.checkpoint`, `components.checkpoints.NAME` or `merge.components.NAME`; each size in config.json is compared
    with it. Only `vocab_size` is the folder's, unless `model.vocab_size` is set and must then be the same. Code in the
    folder is not run, and only safetensors are read.

    Raises:
        ConfigError: if the source or the output is not given, something is at the output already, or the folder's model
            is not the recipe's.
        CheckpointError: if the folder lacks something, or is damaged.
    Memory: the model three times.
    """
    source, output = _paths(config, "import")
    hf_config = _hf_json(source / "config.json")
    with _converting(config, "import", output) as folder:
        from nemo_demix.runtime.generation import read_generation
        from nemo_demix.runtime.huggingface import SourceFolder, load_tokenizer_folder

        files, dtype = _tensors(source, hf_config)
        needed = sum(path.stat().st_size for path in source.glob("*.safetensors"))
        free = shutil.disk_usage(folder).free
        if free < needed:  # Megatron's writer would die of it in a trace
            raise DemixError(f"convert.output={output}: needs {needed} bytes, its disk has {free} free")
        tokenizer = load_tokenizer_folder(source)
        if (needed_rows := num_ids(tokenizer)) > (rows := _vocabulary(source, hf_config)):
            raise CheckpointError(
                f"{source}: its tokenizer has {needed_rows} tokens, its embedding {rows} rows: text would hold "
                "tokens that the model has no weights for. Resize the embedding there (resize_token_embeddings), or "
                "bring the tokenizer that the model was trained with"
            )
        generation = read_generation(source, rows, hf_config)
        found = SourceFolder(source, hf_config, files, dtype, rows, tokenizer, generation)
        if config.backend == "bridge":
            from nemo_demix.runtime.bridge.importing import import_checkpoint as import_with_bridge

            made = import_with_bridge(config, found, folder)
        else:
            made = _import_with_nemo(config, found, folder)
        _publish(made, output)
    kind = "Megatron-Bridge" if config.backend == "bridge" else "NeMo 2"
    logger.info("import: %s is a %s checkpoint, for example for base.checkpoint=", output, kind)
    if config.model.vocab_size is None:
        logger.info("import: its vocabulary has %d rows; set model.vocab_size=%d where it is used", rows, rows)


def _import_with_nemo(config: DemixConfig, source: "SourceFolder", folder: Path) -> Path:
    import fiddle as fdl

    from nemo_demix.runtime.huggingface import expected_tensors, import_model

    model = _sized_model(config, source, folder)
    hf_model = _check_same_model(config, source, model, folder)
    names = set(source.files)
    # A tied model may be saved with its output layer all the same.
    if hf_model.tie_word_embeddings:
        names.discard("lm_head.weight")
    if odd := sorted(names ^ expected_tensors(hf_model)):
        raise CheckpointError(f"{source.path}: its tensors are not those of its config.json; the first is {odd[0]}")
    return import_model(source, fdl.get_callable(model), fdl.build(model.config), folder)


def _paths(config: DemixConfig, stage: str) -> tuple[Path, Path]:
    if config.convert.source is None or config.convert.output is None:
        raise ConfigError(f"{stage}: set convert.source= (what to read) and convert.output= (the folder to write)")
    for key in ("source", "output"):
        if isinstance(checkpoint_path(getattr(config.convert, key)), StorePath):
            raise ConfigError(
                f"convert.{key}={getattr(config.convert, key)}: expected a folder of this machine; copy it"
            )
    source, output = Path(config.convert.source).resolve(), Path(config.convert.output).absolute()
    if not source.is_dir():
        raise CheckpointError(f"convert.source={source}: not found; expected a folder")
    if output.exists() or output.is_symlink():
        raise ConfigError(f"convert.output={output}: exists already; nothing is overwritten. Move it or name another")
    return source, output


@contextmanager
def _converting(config: DemixConfig, stage: str, output: Path) -> Iterator[Path]:
    """Make a temporary folder beside the output, gone at the end however it ends; NeMo's output goes to the log."""
    log = config.run_dir / "logs" / stage / "rank_0.log"
    folder = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    started = time.monotonic()
    logger.info("%s: %s; log: %s", stage, config.convert.source, log)
    from safetensors import SafetensorError

    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True)
        with open(log, "ab") as file, output_to(file):
            yield folder
    except (OSError, SafetensorError) as error:
        raise DemixError(f"{stage}: {error}; {output} was not written. See {log}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    logger.info("%s: done in %.1f s", stage, time.monotonic() - started)


def _publish(made: Path, output: Path) -> None:
    """Bring a finished folder to the disk, then under its name."""
    readable = made.parent.stat().st_mode & 0o666  # as the user's umask has it; safetensors makes files private
    folders = [made, *(path for path in made.rglob("*") if path.is_dir())]
    for path in (path for path in made.rglob("*") if path.is_file()):
        path.chmod(readable)
        sync(path)
    for path in folders:
        sync(path)
    if output.exists():
        raise ConfigError(f"convert.output={output}: something else wrote it meanwhile; nothing is overwritten")
    os.rename(made, output)
    sync(output.parent)


def _hf_json(path: Path) -> dict[str, Any]:
    try:
        real = path.resolve()  # Hugging Face's cache is made of links
        content = parse_json(read_file(real.parent, real), path)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: not found; expected a Hugging Face model (config.json, *.safetensors, a tokenizer)"
        ) from None
    except CheckpointError:
        raise
    except DemixError as error:
        raise CheckpointError(f"{str(error).partition(';')[0]}; copy the model again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def _vocabulary(source: Path, hf_config: dict[str, Any]) -> int:
    """Return the rows of a Hugging Face model's embedding."""
    rows = hf_config.get("vocab_size")
    if type(rows) is not int or rows < 1:
        raise CheckpointError(f"{source / 'config.json'}: vocab_size: expected a whole number, found {rows!r:.40}")
    return rows


def _indexed(index: Path) -> list[str]:
    """Return the files that an index names."""
    places = _hf_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index}: weight_map: expected files by tensor, found {type(places).__name__}")
    return sorted({check_name(name, f"{index}: weight_map") for name in places.values()})


def _tensors(source: Path, hf_config: dict[str, Any]) -> tuple[dict[str, Path], Any]:
    """Return the file of each tensor in a folder's safetensors, and the dtype that holds the values of all."""
    import torch
    from safetensors import SafetensorError, safe_open

    index = source / "model.safetensors.index.json"
    files: dict[str, Path] = {}
    dtypes: set[str] = set()
    for name in _indexed(index) if index.exists() else ["model.safetensors"]:
        path = source / name
        if path.parent != source or not path.is_file():
            raise CheckpointError(
                f"{path}: not found; expected the model's safetensors beside config.json (pickled weights are not read)"
            )
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118, it is not a mapping
                    files[key] = path
                    dtypes.add(file.get_slice(key).get_dtype())
        except SafetensorError as error:
            raise CheckpointError(f"{path}: truncated or damaged ({error}); copy it again") from None
    known = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    if not dtypes or not dtypes <= set(known):
        raise CheckpointError(f"{source}: holds tensors in {', '.join(sorted(dtypes))}; expected some of {list(known)}")
    dtype = functools.reduce(torch.promote_types, (known[name] for name in dtypes))
    stated = hf_config.get("dtype") or hf_config.get("torch_dtype")
    if len(dtypes) > 1 and f"torch.{stated}" != str(dtype):
        raise CheckpointError(
            f"{source / 'config.json'}: says {stated}, but the tensors are {', '.join(sorted(dtypes))}; all values are "
            f"kept as {str(dtype).removeprefix('torch.')}: say so there (dtype)"
        )
    if stated is not None and f"torch.{stated}" != str(dtype):
        raise CheckpointError(
            f"{source / 'config.json'}: says {stated}, but the tensors are {dtype}; change one of them"
        )
    return files, dtype


def _sized_model(config: DemixConfig, source: "SourceFolder", folder: Path) -> Any:
    """Return the recipe's model as a `fiddle.Config`, with a folder's vocabulary, dtype and longest text."""
    from nemo_demix.runtime.huggingface import dtype_settings
    from nemo_demix.runtime.nemo.recipe import base_recipe
    from nemo_demix.runtime.recipe import apply_overrides

    recipe = base_recipe(config, folder, "import")
    if "model" in config.model.overrides:
        apply_overrides(recipe, {"model": config.model.overrides["model"]})
    values = {**dtype_settings(source.dtype), "vocab_size": config.model.vocab_size or source.num_rows}
    length = source.config.get("max_position_embeddings")  # which an export says again, of the one or the other
    if type(length) is int and length > 0:
        known = inspect.signature(recipe.model.config.__fn_or_cls__).parameters
        values |= {name: length for name in ("seq_length", "max_position_embeddings") if name in known}
    for name, value in values.items():
        setattr(recipe.model.config, name, value)
    return recipe.model


def _check_same_model(config: DemixConfig, source: "SourceFolder", model: Any, folder: Path) -> Any:
    """Return a Hugging Face folder's configuration, compared with the recipe's model key by key.

    Raises:
        ConfigError: if the folder's model is another.
        CheckpointError: if transformers cannot read its configuration.
    """
    import fiddle as fdl

    from nemo_demix.runtime.huggingface import expected_config, load_config_folder

    path = source.path / "config.json"
    expected = expected_config(fdl.get_callable(model), model.config, source.tokenizer, folder / "expected")
    kind = source.config.get("model_type")
    if kind != expected.model_type:
        raise ConfigError(
            f"{path}: model_type is {kind}; model.recipe={config.model.recipe} is a {expected.model_type}. "
            "Use a recipe of the folder's architecture"
        )
    found = load_config_folder(source.path)
    differences = [
        f"{key} is {getattr(found, key, None)}, the recipe's {getattr(expected, key, None)}"
        for key in (*_ARCHITECTURE, "vocab_size")
        if getattr(found, key, None) != getattr(expected, key, None)
    ]
    if differences:
        raise ConfigError(
            f"{path}: {'; '.join(differences)}. Use the recipe of this model, or set model.overrides.model.config"
            " and model.vocab_size to its sizes"
        )
    return found
