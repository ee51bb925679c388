"""What lm-evaluation-harness finds around it while its code runs inside this package: seeds, metrics, documents.

It keeps its settings in modules' globals, so each is set for a `with` block and put back after it. One thread at a
time.
"""

import functools
import importlib
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from nemo_demix.tasks.code_eval import CodeEval

Splits = Mapping[str, Any]  # a `datasets.Dataset` by the name of its split
Download = Callable[[], None]  # the harness's own: fills `task.dataset` from the hub, a cache or files


@contextmanager
def harness() -> Iterator[None]:
    """Run the harness's code: no progress bars, our `code_eval`, its seeds, templates compiled once.

    Every rank that builds the same tasks inside gets the same requests: the harness's `simple_evaluate` sets the same
    seeds. Random states are put back.
    """
    from unittest.mock import patch  # brings asyncio: not wanted where names of tasks alone are looked up

    import datasets
    import lm_eval.api.task
    import lm_eval.utils

    template = functools.lru_cache(maxsize=512)(lm_eval.utils.env.from_string)
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with ExitStack() as stack:
        stack.enter_context(_own_code_eval())
        stack.enter_context(patch.object(lm_eval.utils.env, "from_string", template))
        stack.enter_context(patch.object(lm_eval.api.task, "tqdm", lambda rows, **_: rows))
        if not datasets.are_progress_bars_disabled():
            datasets.disable_progress_bars()
            stack.callback(datasets.enable_progress_bars)
        random.seed(0)
        np.random.seed(1234)  # noqa: NPY002 tasks of the harness draw from the global state
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002


class _Evaluate(ModuleType):
    """The package `evaluate` until something other than `code_eval` is wanted of it: it takes seconds to import."""

    def load(self, path: str, *args: Any, **kwargs: Any) -> Any:
        return CodeEval() if path == "code_eval" else self._package().load(path, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._package(), name)

    def _package(self) -> ModuleType:
        if sys.modules.get("evaluate") is self:
            del sys.modules["evaluate"]
        return importlib.import_module("evaluate")


@contextmanager
def _own_code_eval() -> Iterator[None]:
    """Make `evaluate.load("code_eval")` give `CodeEval`, while inside."""
    from unittest.mock import patch

    package = sys.modules.get("evaluate")
    if package is not None:
        load = package.load
        with patch.object(
            package, "load", lambda path, *a, **k: CodeEval() if path == "code_eval" else load(path, *a, **k)
        ):
            yield
        return
    own = _Evaluate("evaluate")
    sys.modules["evaluate"] = own
    try:
        yield
    finally:
        if sys.modules.get("evaluate") is own:
            del sys.modules["evaluate"]


@contextmanager
def documents_from(read: Callable[[Any, Download], Splits]) -> Iterator[None]:
    """Give a task that is built while inside the documents that `read` returns.

    Args:
        read: Reads them, given the task (its configuration is set, unless it is a class of its own that has none) and
            the harness's own way to its documents, which fills `task.dataset`.
    """
    from unittest.mock import patch

    from lm_eval.api.task import ConfigurableTask, Task

    with ExitStack() as stack:
        for kind in (Task, ConfigurableTask):
            stack.enter_context(patch.object(kind, "download", _download(kind.download, read)))
        yield


def _download(original: Callable[..., None], read: Callable[[Any, Download], Splits]) -> Callable[..., None]:
    def download(task: Any, *args: Any, **kwargs: Any) -> None:
        task.dataset = read(task, lambda: original(task, *args, **kwargs))

    return download
