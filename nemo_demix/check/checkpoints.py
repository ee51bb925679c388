"""Brought checkpoints: there, whole, of one architecture and vocabulary with each other and with the run's model."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from nemo_demix.checkpoints.layouts import detect
from nemo_demix.checkpoints.metadata import is_training_state, read_metadata
from nemo_demix.checkpoints.store import checkpoint_path
from nemo_demix.config import DemixConfig
from nemo_demix.errors import CheckpointError, ConfigError, DemixError
from nemo_demix.memory_check import known_shape
from nemo_demix.model_shape import ModelShape

_EMBEDDING = "word_embeddings.weight"
# An architecture's field, and the same of a ModelShape.
_SAME = {"num_layers": "num_layers", "hidden_size": "hidden_size", "num_attention_heads": "num_heads",
         "num_query_groups": "num_query_groups", "num_experts": "num_experts"}  # fmt: skip


def checkpoint_errors(config: DemixConfig) -> Iterator[DemixError]:
    """Yield what is wrong with the checkpoints that the configuration names; their tensors are not read."""
    of_run: dict[str, str | None] = {
        f"components.checkpoints.{name}": path for name, path in config.components.checkpoints.items()
    }
    for role in ("base", "final", "reference"):
        if (path := getattr(config, role).checkpoint) is not None:
            of_run[f"{role}.checkpoint"] = path
    many = {"components": config.components.checkpoint, "search.trained": config.search.trained.checkpoint}
    for key, path in many.items():
        if path is not None:
            yield ConfigError(f"{key}.checkpoint: these are many models; name each, or take the key out")
    others: dict[str, str | None] = {f"merge.components.{name}": path for name, path in config.merge.components.items()}
    others |= {"merge.base": config.merge.base, "score.checkpoint": config.score.checkpoint}
    shape = known_shape(config)
    yield from _of_one_model({key: path for key, path in of_run.items() if path}, shape)
    yield from _of_one_model({key: path for key, path in others.items() if path}, None)
    yield from _conversion(config)


def _of_one_model(paths: Mapping[str, str], shape: ModelShape | None) -> Iterator[DemixError]:
    first: tuple[str, dict[str, tuple[int, ...]]] | None = None
    for key, path in paths.items():
        try:
            layout = detect(checkpoint_path(path))
            stored = read_metadata(layout.weights)
        except DemixError as error:
            yield type(error)(f"{key}: {error}")
            continue
        found = {name: one.shape for name, one in stored.tensors.items() if not is_training_state(name)}
        for name, own in _SAME.items():
            said = getattr(layout.architecture, name)
            if shape is not None and said is not None and said != getattr(shape, own):
                yield CheckpointError(
                    f"{key}: {path} has {name}={said}, the recipe's model {getattr(shape, own)}; it is of another "
                    "architecture: bring one of this model, or set model.* to it"
                )
        yield from _vocabulary(key, path, found, shape)
        if first is None:
            first = key, found
            continue
        odd = [name for name in sorted({*first[1], *found}) if first[1].get(name) != found.get(name)]
        if odd:
            yield CheckpointError(
                f"{key}: {path} differs from {first[0]} in {len(odd)} tensors, first {odd[0]}: {found.get(odd[0])} and "
                f"{first[1].get(odd[0])}; expected checkpoints of one model"
            )


def _vocabulary(
    key: str, path: str, tensors: Mapping[str, tuple[int, ...]], shape: ModelShape | None
) -> Iterator[DemixError]:
    rows = next((size[0] for name, size in tensors.items() if name.endswith(_EMBEDDING) and size), None)
    if shape is not None and rows is not None and rows != shape.vocab_size:
        yield CheckpointError(
            f"{key}: {path}: its vocabulary has {rows} rows, this run's model {shape.vocab_size}; it was trained with "
            "another tokenizer: set tokenizer.* to that one, or model.vocab_size"
        )


def _conversion(config: DemixConfig) -> Iterator[DemixError]:
    source, output = config.convert.source, config.convert.output
    if source is not None and not Path(source).is_dir():
        yield CheckpointError(f"convert.source={source}: not found; expected a folder")
    if output is not None and Path(output).exists():
        yield ConfigError(f"convert.output={output}: exists already; nothing is overwritten. Move it or name another")
