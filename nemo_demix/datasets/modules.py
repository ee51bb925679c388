"""Python modules as text: their sources, and the docstrings inside them (parsed, never imported)."""

import ast
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

from nemo_demix.errors import DatasetError

MIN_DOCUMENT_CHARS = 200
LONG_DOCSTRING_CHARS = 4000  # such a docstring is a document by itself

_Scope = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def python_files(folder: Path, without: Iterable[str] = ()) -> Iterator[Path]:
    """The .py files below a folder, sorted, leaving out every folder or file whose name is in `without`."""
    excluded = {"__pycache__", *without}
    for path in sorted(folder.rglob("*.py")):
        if excluded.isdisjoint(path.relative_to(folder).parts):
            yield path


def module_source(path: Path) -> str:
    """A module's text, decoded as Python itself would.

    Raises:
        DatasetError: if the file is not decodable.
    """
    try:
        with tokenize.open(path) as file:
            return file.read()
    except (SyntaxError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: expected Python source, found: {error}; reinstall its package") from None


def docstring_documents(path: Path) -> Iterator[str]:
    """A module's docstrings: each long one by itself, all others joined, in the order of the source.

    Raises:
        DatasetError: if the file is not Python this interpreter can parse.
    """
    source = module_source(path)
    if '"""' not in source and "'''" not in source:
        return
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise DatasetError(f"{path}: expected Python source, found: {error}; reinstall its package") from None
    short: list[str] = []
    for docstring in _docstrings(tree):
        if len(docstring) >= LONG_DOCSTRING_CHARS:
            yield docstring
        else:
            short.append(docstring)
    joined = "\n\n".join(short)
    if len(joined) >= MIN_DOCUMENT_CHARS:
        yield joined


def _docstrings(scope: _Scope) -> Iterator[str]:
    docstring = ast.get_docstring(scope)
    if docstring:
        yield docstring
    for node in scope.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _docstrings(node)
