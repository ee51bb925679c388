"""A back end's recipe, named in the configuration: its factory, what the run changes in it, and its model's sizes.

The factory is called with what it accepts; everything a run must control is then set on the recipe it returns, so that
factories with short signatures work too. The caller applies `model.overrides` last, so that they win.
"""

import ast
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra.utils import get_object

from nemo_demix.config import DemixConfig, ModelConfig
from nemo_demix.errors import ConfigError, DemixError, near
from nemo_demix.model_shape import ModelShape, check_layout, shape_of
from nemo_demix.runtime.backend import backend_of
from nemo_demix.stack import locate

logger = logging.getLogger(__name__)

_EXAMPLES = {
    "nemo": "nemo.collections.llm.recipes.qwen3_1p7b.pretrain_recipe",
    "bridge": "megatron.bridge.recipes.qwen.qwen3_1p7b_pretrain_config",
}
DTYPES = {"bf16-mixed": "bfloat16", "16-mixed": "float16", "32": "float32"}  # torch's names, by train.precision


def load_factory(config: DemixConfig) -> Callable[..., Any]:
    """Return the recipe factory at the dotted path `model.recipe`.

    Raises:
        ConfigError: if there is no such module or function.
    """
    path, example = config.model.recipe, _EXAMPLES[config.backend]
    try:
        factory = get_object(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"model.recipe={path}: not found ({error}); expected a factory of backend={config.backend} such as "
            f"{example}"
        ) from None
    if not callable(factory):
        raise ConfigError(f"model.recipe={path}: expected a function, found {type(factory).__name__}")
    return factory  # type: ignore[no-any-return]


def call_factory(config: DemixConfig, offered: Mapping[str, Any]) -> Any:
    """Return the recipe as its framework has it; of the offered arguments the factory gets those that it takes.

    Raises:
        ConfigError: if the factory, or an argument of `model.recipe_args`, does not exist.
    """
    factory = load_factory(config)
    accepted = inspect.signature(factory).parameters
    arguments = {key: value for key, value in offered.items() if key in accepted}
    for key, value in config.model.recipe_args.items():
        if key not in accepted:
            known = ", ".join(accepted) or "no arguments"
            raise ConfigError(f"model.recipe_args.{key}: {config.model.recipe} takes {known}")
        arguments[key] = value
    return factory(**arguments)


def factory_errors(model: ModelConfig, backend: str) -> Iterator[DemixError]:
    """Yield errors for a factory that is not there, or does not take an argument, by its source: it is not imported."""
    example = f"expected a factory of backend={backend} such as {_EXAMPLES[backend]}"
    module, _, name = model.recipe.rpartition(".")
    try:
        spec = locate(module) if module else None
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        yield ConfigError(f"model.recipe={model.recipe}: no module {module or model.recipe}; {example}")
        return
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    functions = {one.name: one for one in tree.body if isinstance(one, ast.FunctionDef)}
    if name not in functions:
        named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        named |= {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        if name not in named:
            hint = near(name, functions) or f"; expected one of {', '.join(functions)}"
            yield ConfigError(f"model.recipe={model.recipe}: {module} has no {name}{hint}")
        return  # made in another way than by `def`: known when it is imported
    arguments = functions[name].args
    known = [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    for key in model.recipe_args:
        if key not in known and arguments.kwarg is None:
            takes = ", ".join(known) or "no arguments"
            yield ConfigError(f"model.recipe_args.{key}: {model.recipe} takes {takes}{near(key, known)}")


def apply_overrides(target: Any, overrides: Mapping[str, Any], path: str = "model.overrides") -> None:
    """Set nested attributes of a recipe; a name it does not have is refused.

    Raises:
        ConfigError: naming the key and what is there instead.
    """
    for name, value in overrides.items():
        key = f"{path}.{name}"
        try:
            current = getattr(target, name)
        except AttributeError:
            known = _accepted_names(target)
            if name not in known:
                near = get_close_matches(name, known) or sorted(known)
                raise ConfigError(f"{key}: the recipe has no such attribute; it has {', '.join(near)}") from None
            current = None
        if isinstance(value, Mapping) and not isinstance(current, Mapping):
            if current is None:
                raise ConfigError(f"{key}: nothing is set there by the recipe, so {dict(value)} cannot go into it")
            apply_overrides(current, value, key)
        else:
            setattr(target, name, value)


def _accepted_names(target: Any) -> set[str]:
    made_by = getattr(target, "__fn_or_cls__", None)  # of a part of NeMo's recipes, which is built later
    if made_by is not None:
        return set(inspect.signature(made_by).parameters)
    return {name for name in dir(target) if not name.startswith("_")}


def model_shape(config: DemixConfig, tokenizer_size: int | None) -> ModelShape | None:
    """Return the sizes of the run's model, overrides included, as it would be on GPUs; nothing is built.

    Args:
        tokenizer_size: Where `model.vocab_size` leaves the vocabulary to the tokenizer; None: not known yet.
    Returns:
        None where nothing says how large the vocabulary is.
    Raises:
        ConfigError: if the recipe or an override does not exist, or the layout does not divide the model.
    """
    shape = recipe_shape(config, known_vocab_size(config, tokenizer_size))
    return None if shape is None else check_shape(shape, config)


def known_vocab_size(config: DemixConfig, tokenizer_size: int | None) -> int | None:
    """Return the model's vocabulary, as `padded_vocab_size`; None where the recipe alone says how large it is."""
    if not (config.model.vocab_size or tokenizer_size):
        return None
    return padded_vocab_size(config, {"vocab_size": tokenizer_size or config.model.vocab_size})


def recipe_shape(config: DemixConfig, vocab_size: int | None) -> ModelShape | None:
    """Return the sizes of a recipe's model before they are checked: by `model.*`, `train.seq_length` and the vocabulary
    alone.

    Returns, Raises: as `model_shape`, but for the layout.
    """
    values = backend_of(config).shape_values(config, vocab_size)
    return shape_of(values) if values["vocab_size"] else None


def check_shape(shape: ModelShape, config: DemixConfig) -> ModelShape:
    """Return the same sizes, if the run can have them.

    Raises:
        ConfigError: if the layout does not divide the model, or the suite's texts are longer than it can read.
    """
    check_layout(shape, config.parallel)
    longest, trained = config.suite.max_length, config.train.seq_length
    if shape.num_positions and longest > shape.num_positions:
        raise ConfigError(
            f"suite.max_length={longest}: the model has learned positions for {shape.num_positions} tokens "
            "(train.seq_length); lower suite.max_length to that"
        )
    if longest > trained:
        logger.warning(
            "suite.max_length=%d is beyond train.seq_length=%d: longer texts are scored at places that no sequence of "
            "this run's training has",
            longest,
            trained,
        )
    return shape


def padded_vocab_size(config: DemixConfig, tokenizer: Mapping[str, Any]) -> int:
    """Return the model's vocabulary: as configured, or the tokenizer's rounded up to a multiple of 128.

    It never depends on the parallel layout, so checkpoints of different layouts have the same shapes.

    Raises:
        ConfigError: if the configured size cannot hold the tokenizer, or does not divide over the tensor ranks.
    """
    needed = int(tokenizer["vocab_size"])
    size = config.model.vocab_size or -(-needed // 128) * 128
    if size < needed:
        raise ConfigError(f"model.vocab_size={size}: the tokenizer has {needed} tokens; raise it or leave it null")
    if size % config.parallel.tensor:
        raise ConfigError(f"model.vocab_size={size} does not divide over parallel.tensor={config.parallel.tensor}")
    return size
