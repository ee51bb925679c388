"""Where the harness itself defines a task: looked for in the text of its definitions.

The harness's own index parses every definition that it has, each with what it includes, which takes many seconds. Here
they are read as text, and only folders that have a wanted name are given to it to parse.
"""

import functools
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

_NAMES = re.compile(rb"^[\"']?(?:task|group|tag)[\"']?[ ]*:(.*(?:\n[ ]*-.*)*)", re.MULTILINE)
_INCLUDES = re.compile(rb"^[\"']?include[\"']?[ ]*:(.*(?:\n[ ]*-.*)*)", re.MULTILINE)
_WORD = re.compile(rb"[^\s\"'\[\],#-][^\s\"'\[\],#]*")


def stock_folder() -> Path:
    """Return the folder of the harness's definitions."""
    import lm_eval.tasks

    return Path(lm_eval.tasks.__file__).parent


def stock_names() -> list[str]:
    """Return the names of the harness's tasks, groups and tags, as its files spell them."""
    return sorted(_places().named)


def folders_with(names: Iterable[str]) -> tuple[Path, ...]:
    """Return folders of definitions that name any of these, or include what does; none within another."""
    places, found = _places(), set[str]()
    waiting = [path for name in names for path in places.named.get(name, ())]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += places.included_by.get(path, ())
    folders = sorted({Path(path).parent for path in found})
    return tuple(one for one in folders if not any(other in one.parents for other in folders))


def members(entry: Any) -> set[str]:
    """Return the names that lead on from an entry of the harness's index: what a group or a tag consists of."""
    if entry.yaml_path is None:
        return set(entry.tags)
    return set(_named_in(entry.cfg.get("task"))) if "group" in entry.cfg else set()


def _named_in(value: Any) -> Iterable[str]:
    for one in value if isinstance(value, list) else ():
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            yield from (one[key] for key in ("task", "group") if isinstance(one.get(key), str))
            yield from _named_in(one.get("task"))


class _Places(NamedTuple):
    """Holds what definitions say, and what they include, which may be called anything; files are absolute paths."""

    named: dict[str, set[str]]  # by word: the files in which it is a task, a group or a tag, or among several
    included_by: dict[str, set[str]]  # by file: those that include it themselves


@functools.cache
def _places() -> _Places:
    """Read all definitions."""
    places = _Places(defaultdict(set), defaultdict(set))
    waiting = [str(path) for path in stock_folder().glob("**/*.yaml")]
    seen = set(waiting)
    while waiting:
        path = waiting.pop()
        text = Path(path).read_bytes()
        for word in _words(_NAMES, text):
            places.named[word].add(path)
        for word in _words(_INCLUDES, text):
            included = os.path.normpath(os.path.join(os.path.dirname(path), word))
            places.included_by[included].add(path)
            if included not in seen and os.path.isfile(included):
                seen.add(included)
                waiting.append(included)
    return places


def _words(key: re.Pattern[bytes], text: bytes) -> list[str]:
    """Return the words that are given for a key."""
    return [word.decode(errors="replace") for value in key.findall(text) for word in _WORD.findall(value)]
