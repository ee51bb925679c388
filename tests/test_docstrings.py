"""What docstrings owe their readers: a sentence that begins with its verb or its subject, and the shapes of arrays."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "nemo_demix"  # without tests/, so that `make check` can run this alone
# A sentence that begins with one of these leaves its verb or its subject to be guessed: "Of the run."
CLIPPED = re.compile(
    r"(Of|By|As|In|At|For|From|On|To|With|Without|Inside|Beside|Until|Through|Nothing|Both|Also|Whose|Those|That)\b"
)
# What a function does begins with a verb: "Return whether", "Yield what". (The linter's D401 knows more words.)
NO_VERB = re.compile(r"(All|An?|Each|Every|How|Its|No|One|Only|The|What|Where|Whether|Which|Why)\b")
SECTION = re.compile(r"(Args|Attributes):$")
ENTRY = re.compile(r" {4}(\w+(?:, \w+)*): (.*)")
ARRAY = re.compile(r"\b(Array|Hashes|Mask|NDArray|Tensor|ndarray)\b")
SHAPE = re.compile(r"\bshapes?\b|\([A-Z][A-Z0-9 +]*,[A-Z0-9 ,+]*\)")  # in words, or as (M, C)
AXES = re.compile(r"_[A-Z]+[0-9]?$")  # the name says it
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def _modules() -> dict[str, ast.Module]:
    return {
        path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def _documented(node: Documented) -> Iterator[Documented]:
    """The node and the classes and functions in it; those inside an `if` or a `with` are not looked for."""
    yield node
    for child in node.body:
        if isinstance(child, Documented):
            yield from _documented(child)


def _sentences(docstring: str) -> Iterator[str]:
    """Its first line, and what stands behind the names of arguments and attributes."""
    first, *rest = docstring.splitlines()
    yield first
    inside = False
    for line in rest:
        inside = bool(SECTION.match(line)) or (inside and not line[:1].strip())
        entry = ENTRY.match(line)
        if inside and entry is not None:
            yield entry[2]


def _public_functions(node: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            if isinstance(child, ast.ClassDef):
                yield from _public_functions(child)
            else:
                yield child


def test_sentences_begin_with_their_verb_or_subject() -> None:
    clipped = [
        f"{name}:{getattr(node, 'lineno', 1)}: {sentence}"
        for name, module in _modules().items()
        for node in _documented(module)
        for sentence in _sentences(ast.get_docstring(node) or "\n")
        if CLIPPED.match(sentence)
    ]
    assert not clipped, "\n".join(clipped)


def test_what_a_function_does_begins_with_a_verb() -> None:
    without = [
        f"{name}:{node.lineno}: {node.name}"
        for name, module in _modules().items()
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if not any("property" in ast.unparse(decorator) for decorator in node.decorator_list)
        if NO_VERB.match(ast.get_docstring(node) or "")
    ]
    assert not without, "\n".join(without)


def test_the_shape_of_a_returned_array_is_told() -> None:
    untold = [
        f"{name}:{function.lineno}: {function.name}"
        for name, module in _modules().items()
        for function in _public_functions(module)
        if function.returns is not None and ARRAY.search(ast.unparse(function.returns))
        if not AXES.search(function.name) and not SHAPE.search(ast.get_docstring(function) or "")
    ]
    assert not untold, "\n".join(untold)
