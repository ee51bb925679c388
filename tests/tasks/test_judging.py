from collections.abc import Sequence

from nemo_demix.tasks.judging import Judge, Question, judged_by, verdict


def test_questions_are_settled_together_and_each_once() -> None:
    asked: list[list[Question]] = []

    def settle(questions: Sequence[Question]) -> list[bool]:
        asked.append(list(questions))
        return [len(text) > 1 for (text,) in questions]

    judge = Judge({"program": settle})
    with judged_by(judge):
        assert [verdict("program", text) for text in ("a", "bb", "a")] == [False] * 3
        assert judge.num_asked == 3
        assert judge.settle() == 2
        assert [verdict("program", text) for text in ("a", "bb", "a")] == [False, True, False]
        assert judge.settle() == 0
    assert asked == [[("a",), ("bb",)]]
    assert verdict("program", "bb") is False  # nobody is asked any more
