"""YAML from other people, read as plain values: no classes, no key twice, no text that is larger than it looks."""

from collections.abc import Hashable
from typing import Any

import yaml

_MOST_NODES = 200_000  # once aliases are written out
_DEEPEST = 100  # values within values; PyYAML takes the square of it in time


def parse_yaml(data: bytes | str, unknown_tags: bool = False) -> Any:
    """Return the value of a YAML document.

    Args:
        unknown_tags: Whether a value with a tag that is not YAML's own is read as None, rather than refused.
    Raises:
        ValueError: in one line: what is wrong, and where. Nothing of it was run.
    """
    try:
        loader = (_Untagged if unknown_tags else _Plain)(data if isinstance(data, str) else data.decode("utf-8-sig"))
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node, {})
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, TypeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(reason if len(reason) <= 300 else f"{reason[:297]}...") from None


def _check_size(node: yaml.Node, sizes: dict[int, int | None]) -> int:
    """Return how many nodes there are once every alias is written out: a file of ten lines can stand for millions."""
    if id(node) in sizes:
        known = sizes[id(node)]
        if known is None:
            raise yaml.YAMLError("a value that holds itself")
        return known
    sizes[id(node)] = None
    total = 1
    if isinstance(node, yaml.CollectionNode):
        for item in node.value:
            total += sum(_check_size(part, sizes) for part in (item if isinstance(item, tuple) else (item,)))
    if total > _MOST_NODES:
        raise yaml.YAMLError(f"more than {_MOST_NODES:,} values, aliases written out")
    sizes[id(node)] = total
    return total


class _Plain(yaml.SafeLoader):
    """The safe loader, without keys that stand twice, and for texts of a bounded depth."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Read one value, unless it lies too deep: the interpreter's own limit may be set to anything."""
        if self._depth == _DEEPEST:
            raise yaml.YAMLError(f"values nested more than {_DEEPEST} deep")
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Make a dict as the safe loader does, but refuse a key that stands twice.

        What a merge (`<<`) brings may be given anew, as YAML has it.
        """
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                    raise yaml.YAMLError(f"the key {key.value[:80]!r} stands twice, in line {key.start_mark.line + 1}")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Untagged(_Plain):
    """Whatever carries another tag is read as nothing."""


_Untagged.add_constructor(None, lambda loader, node: None)  # type: ignore[arg-type]
