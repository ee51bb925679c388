"""Python modules as text: their sources, and the docstrings inside them (parsed, never imported)."""

import ast
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

from nemo_demix.errors import DatasetError

MIN_DOCUMENT_CHARS = 200
DOCUMENT_CHARS = 16_000  # a longer module becomes several documents of about this length

_Scope = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def python_files(folder: Path, without: Iterable[str] = ()) -> Iterator[Path]:
    """Yield the .py files below a folder, sorted, leaving out every folder or file whose name is in `without`."""
    excluded = {"__pycache__", *without}
    for path in sorted(folder.rglob("*.py")):
        if excluded.isdisjoint(path.relative_to(folder).parts):
            yield path


def source_documents(path: Path) -> Iterator[str]:
    """Yield a module's source; a long one in several documents, cut between its top-level definitions.

    Raises:
        DatasetError: if the file is not decodable.
    """
    yield from _grouped(_module_source(path).split("\n\n\n"), "\n\n\n")


def docstring_documents(path: Path) -> Iterator[str]:
    """Yield a module's docstrings joined in the order of the source; many or long ones in several documents.

    Raises:
        DatasetError: if the file is not Python that this interpreter can parse.
    """
    source = _module_source(path)
    if '"""' not in source and "'''" not in source:
        return
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise DatasetError(f"{path}: expected Python source, found: {error}; reinstall its package") from None
    yield from _grouped(_docstrings(tree), "\n\n")


def _grouped(pieces: Iterable[str], separator: str) -> Iterator[str]:
    """Yield neighbouring pieces joined into documents of DOCUMENT_CHARS or a little more; too short a rest is
    left out.
    """
    group: list[str] = []
    size = 0
    for piece in pieces:
        group.append(piece)
        size += len(piece) + len(separator)
        if size >= DOCUMENT_CHARS:
            yield separator.join(group)
            group, size = [], 0
    rest = separator.join(group)
    if len(rest) >= MIN_DOCUMENT_CHARS:
        yield rest


def _module_source(path: Path) -> str:
    try:
        with tokenize.open(path) as file:
            return file.read()
    except (SyntaxError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: expected Python source, found: {error}; reinstall its package") from None


def _docstrings(scope: _Scope) -> Iterator[str]:
    docstring = ast.get_docstring(scope)
    if docstring:
        yield docstring
    for node in scope.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _docstrings(node)
