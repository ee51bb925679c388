from itertools import combinations

import pytest

from nemo_demix.tasks.code_eval import CodeEval
from nemo_demix.tasks.judging import Judge, judged_by


@pytest.mark.parametrize("size", [1, 2, 3])
def test_pass_at_k_is_the_share_of_draws_with_a_solution(size: int) -> None:
    candidates = [["right", "wrong", "wrong", "right", "wrong"], ["wrong"] * 5]
    judge = Judge({"program": lambda questions: [text.startswith("right") for (text,) in questions]})
    with judged_by(judge):
        CodeEval().compute(predictions=candidates, references=["test"] * 2, k=[size])
        judge.settle()
        scores, details = CodeEval().compute(predictions=candidates, references=["test"] * 2, k=[size, 6])
    draws = [list(combinations(problem, size)) for problem in candidates]
    expected = sum(sum("right" in draw for draw in problem) / len(problem) for problem in draws) / 2
    assert scores == {f"pass@{size}": pytest.approx(expected)}  # of 6 there are not enough
    assert [row["passed"] for _, row in details[0]] == [True, False, False, True, False]
