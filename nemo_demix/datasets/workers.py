"""A few processes for tasks that depend on nothing but their argument."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


class Workers:
    """Runs tasks in processes, or in this one when a single worker is asked for; results come in the tasks' order."""

    def __init__(self, pool: ProcessPoolExecutor | None) -> None:
        """Use `workers()` instead."""
        self._pool = pool

    def run(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """Return the result of each task; the first task that raises ends the iteration with its error."""
        return map(function, tasks) if self._pool is None else self._pool.map(function, tasks)


@contextmanager
def workers(count: int) -> Iterator[Workers]:
    """Spawn `count` processes for as long as the context lasts; tasks still waiting at its end are cancelled."""
    if count == 1:
        yield Workers(None)
        return
    pool = ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"), initializer=_one_thread)
    try:
        yield Workers(pool)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _one_thread() -> None:
    """Keep the tokenizer library to one thread a process."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
