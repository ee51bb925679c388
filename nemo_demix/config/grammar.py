"""What Hydra's grammar does not take, told anew: which argument, which character, and how to write it instead.

Hydra's own message names neither, and NeMo's default names of checkpoints have `=` in them.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import yaml
from antlr4 import CommonTokenStream, InputStream
from antlr4.error.ErrorListener import ErrorListener
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.grammar.gen.OverrideLexer import OverrideLexer
from hydra.grammar.gen.OverrideParser import OverrideParser

from nemo_demix.errors import ConfigError
from nemo_demix.plain_yaml import parse_yaml

_UNQUOTED = re.compile(r"[\w\-./+@]+", re.ASCII)
_COLON = re.compile(r"(?<=[{,])(\s*[^\s:,{}\[\]]+):(?=\S)")


class _Found(Exception):
    """Where the grammar stops."""

    def __init__(self, column: int) -> None:
        super().__init__(column)
        self.column = column


class _Listener(ErrorListener):  # type: ignore[misc]
    """Stops at the first fault, with its place; Hydra's keeps the message alone."""

    def syntaxError(  # antlr's name
        self, recognizer: Any, offending_symbol: Any, line: int, column: int, message: str, error: Any
    ) -> NoReturn:
        raise _Found(column)


def parsed(text: str) -> Override:
    """Return an argument as Hydra reads it.

    Raises:
        ConfigError: if its grammar does not take the argument, with what to write.
    """
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise refusal(text, " ".join(str(error).split())) from None


def refusal(text: str, why: str = "") -> ConfigError:
    """Make the error for an argument that the grammar does not take.

    Args:
        why: Hydra's words, for a fault that is not one of characters.
    """
    column = fault(text)
    key, equals, value = text.partition("=")
    if not equals:
        return ConfigError(f"{text}: expected key=value")
    if column is None:
        return ConfigError(f"{text}: {why}")
    what = f"the character {text[column]!r} (number {column + 1})" if column < len(text) else "its end"
    in_key = column < len(key)
    told = f"{text}: {what} is not taken in a {'key' if in_key else 'value without quotes'} on the command line"
    ways = []
    if not in_key and (quoted := _quoted_value(key, value)) is not None:
        ways.append(f"write {shlex.quote(f'{key}={quoted}')}")
    if (recipe := in_yaml(key.lstrip("+").split("."), value)) is not None:
        ways.append(f"{'or ' if ways else 'write '}in the recipe: {recipe}")
    return ConfigError(f"{told}; {', '.join(ways) or 'close its brackets and quotes'}")


def fault(text: str) -> int | None:
    """Return the place of the first character that the grammar does not take, `len(text)` for the end; None: there is
    none.
    """
    lexer = OverrideLexer(InputStream(text))
    lexer.removeErrorListeners()
    lexer.addErrorListener(_Listener())
    parser = OverrideParser(CommonTokenStream(lexer))
    parser.removeErrorListeners()
    parser.addErrorListener(_Listener())
    try:
        parser.override()
    except _Found as found:
        return found.column
    return None


def _quoted_value(key: str, value: str) -> str | None:
    """Return the value with its words in quotes, where the grammar then takes it."""
    content = _yaml_value(value)
    text = None if content is None else _as_hydra(content)
    return text if text is not None and fault(f"{key}={text}") is None else None


def _yaml_value(value: str) -> Any:
    """Return what YAML reads the value as, whose mappings want a space after the colon; None where it is nothing."""
    try:
        return parse_yaml(_COLON.sub(r"\1: ", value) if value[:1] in "[{" else value)
    except ValueError:
        return None if value[:1] in "[{'\"" else value


def _as_hydra(value: Any) -> str | None:
    """Return a value in Hydra's grammar; None where a key of it has to be quoted, which the grammar has no way for."""
    if isinstance(value, Mapping):
        items = [(str(name), _as_hydra(item)) for name, item in value.items()]
        if any(item is None or not _UNQUOTED.fullmatch(name) for name, item in items):
            return None
        return "{" + ",".join(f"{name}:{item}" for name, item in items) + "}"
    if isinstance(value, list):
        parts = [_as_hydra(item) for item in value]
        return None if None in parts else "[" + ",".join(str(part) for part in parts) + "]"
    if isinstance(value, str):
        return value if _UNQUOTED.fullmatch(value) else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def in_yaml(parts: Sequence[str], value: str) -> str | None:
    """Return what an argument says as a recipe says it, on one line; None where its value is nothing.

    Args:
        parts: The names that its key is made of.
    """
    content = _yaml_value(value)
    if content is None or not all(parts):
        return None
    for part in reversed(parts[1:]):
        content = {part: content}
    flow = yaml.safe_dump({parts[0]: content}, default_flow_style=True, allow_unicode=True, width=10**9)
    return f"`{flow.strip()[1:-1]}`"
