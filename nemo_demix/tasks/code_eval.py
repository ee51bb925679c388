"""A stand-in for `evaluate.load("code_eval")`, which needs a hub and would run programs in the scorer's process."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from nemo_demix.tasks.judging import verdict


class CodeEval:
    """pass@k of programs, asked of the judge (`judging`): nothing runs here."""

    def compute(
        self, *, predictions: Sequence[Sequence[str]], references: Sequence[str], k: Sequence[int] = (1, 10, 100)
    ) -> tuple[dict[str, float], dict[int, list[tuple[int, dict[str, Any]]]]]:
        """Return the share of problems solved by one of k candidates.

        Args:
            predictions: Candidate programs, by problem.
            references: Test code, by problem; a candidate passes if itself followed by it ends without an error.
            k: Candidates drawn from each problem's.
        Returns:
            {"pass@k": a mean over problems}, for each k that every problem has as many candidates of, and by problem
            what became of every candidate.
        Source: Chen et al. 2021, section 2.1: the unbiased estimate.
        """
        details: dict[int, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
        for problem, (candidates, tests) in enumerate(zip(predictions, references, strict=True)):
            for number, candidate in enumerate(candidates):
                passed = verdict("program", f"{candidate}\n{tests}")
                result = "passed" if passed else "failed"
                row = {"task_id": problem, "completion_id": number, "passed": passed, "result": result}
                details[problem].append((number, row))
        counts = [(len(rows), sum(bool(row["passed"]) for _, row in rows)) for rows in details.values()]
        scores = {
            f"pass@{size}": float(np.mean([_pass_at(size, total, passed) for total, passed in counts]))
            for size in k
            if counts and all(total >= size for total, _ in counts)
        }
        return scores, dict(details)


def _pass_at(size: int, total: int, passed: int) -> float:
    """Return the chance that one of `size` candidates, drawn from `total` of which some passed, is one that did."""
    if total - passed < size:
        return 1.0
    return float(1.0 - np.prod(1.0 - size / np.arange(total - passed + 1, total + 1)))
