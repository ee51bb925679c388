"""Questions that a task's metric asks and that are not answered in the caller's process: does a program pass its tests,
is an expression the expected one.

A metric is a function of one document, but programs run together are many times faster than one by one. So results are
computed twice: the first time the questions are only noted (and answered with no), then all of them are settled at
once, and the second time they are answered.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

Question = tuple[str, ...]
Settle = Callable[[Sequence[Question]], Sequence[bool]]  # answers, in order

_current: "Judge | None" = None


class Judge:
    """Answers to the questions of one model's responses, by kind: `program` (its text), `math` (gold, response)."""

    def __init__(self, settle: Mapping[str, Settle]) -> None:
        self._settle = settle
        self._answers: dict[str, dict[Question, bool]] = {}
        self._noted: dict[str, dict[Question, None]] = {}
        self.num_asked = 0  # times that an answer was not known

    def verdict(self, kind: str, question: Question) -> bool:
        """Return the answer where it is known; else the question is noted, and the answer is no."""
        known = self._answers.get(kind, {})
        if question not in known:
            self.num_asked += 1
            self._noted.setdefault(kind, {})[question] = None
        return known.get(question, False)

    def settle(self) -> int:
        """Answer what was noted; returns how many questions that were, each counted once."""
        total = 0
        for kind, noted in self._noted.items():
            questions = list(noted)
            answers = self._settle[kind](questions)
            self._answers.setdefault(kind, {}).update(zip(questions, answers, strict=True))
            total += len(questions)
        self._noted = {}
        return total


@contextmanager
def judged_by(judge: Judge | None) -> Iterator[None]:
    """Let metrics ask this judge while inside; None: they ask nobody, and every answer is no."""
    global _current
    previous, _current = _current, judge
    try:
        yield
    finally:
        _current = previous


def verdict(kind: str, *question: str) -> bool:
    """Return what the current judge says; no, where there is none."""
    return _current is not None and _current.verdict(kind, question)
