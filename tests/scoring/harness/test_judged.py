"""Metrics that ask the sandbox and math-verify."""

import json
import time
from pathlib import Path

import pytest

from nemo_demix.config import CodeConfig, SuiteConfig, TaskConfig
from nemo_demix.errors import ConfigError
from nemo_demix.scoring.harness.math_answers import MathAnswers
from tests.scoring.harness.toy import prepared, task_set

RIGHT = "    return a + b\n"
WRONG = "    return a - b\n"
LEAVES_EARLY = "    return 0\nimport os\nos._exit(0)\n"


def problems(path: Path, count: int = 4) -> Path:
    rows = [
        {
            "task_id": f"t/{number}",
            "prompt": f"def add{number}(a, b):\n",
            "canonical_solution": RIGHT,
            "test": f"def check(candidate):\n    assert candidate({number}, 2) == {number + 2}\n",
            "entry_point": f"add{number}",
        }
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("task", ["humaneval", "demix_humaneval"])
def test_programs_pass_or_fail_in_the_sandbox(tmp_path: Path, task: str) -> None:
    config = TaskConfig(task=task, capability="code", data=str(problems(tmp_path / "p.jsonl")))
    suite = SuiteConfig(tasks={"code": config}, allow_code_execution=True, code=CodeConfig(wall_s=2.0))
    tasks = task_set(suite, tmp_path)
    found = tasks.results({"generate_until": [RIGHT, WRONG, LEAVES_EARLY, "    while True: pass\n"]})
    assert found.items["code"].metric == "pass@1"
    assert found.items["code"].values_I.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert found.lm_eval["results"][task]["pass@1,create_test"] == 0.25
    assert tasks.results({"generate_until": [RIGHT] * 4}).items["code"].values_I.tolist() == [1.0] * 4


def test_shots_and_functions_of_mbpp_are_the_harness_s(tmp_path: Path) -> None:
    suite = SuiteConfig(
        tasks={"mbpp": TaskConfig(task="demix_mbpp", capability="code", limit=3)}, allow_code_execution=True
    )
    tasks = task_set(suite, tmp_path)
    prompts = [one.args[0] for one in tasks.instances["generate_until"]]
    assert all(prompt.count("[DONE]") == 3 and prompt.endswith("[BEGIN]\n") for prompt in prompts)
    solutions = [one.doc["code"] for one in tasks.instances["generate_until"]]
    found = tasks.results({"generate_until": [solutions[0], "raise SystemExit(0)", solutions[2]]})
    assert found.items["mbpp"].values_I.tolist() == [1.0, 0.0, 1.0]


def test_code_is_refused_unless_allowed(tmp_path: Path) -> None:
    config = TaskConfig(task="demix_humaneval", capability="code", data=str(problems(tmp_path / "p.jsonl")))
    with pytest.raises(
        ConfigError, match=r"suite\.tasks\.code\.task: demix_humaneval runs programs.*allow_code_execution"
    ):
        prepared(SuiteConfig(tasks={"code": config}), tmp_path)


def test_mathematics_by_meaning_and_by_text(tmp_path: Path) -> None:
    rows = [
        {"problem": "half", "solution": r"so $\boxed{\frac{1}{2}}$", "answer": r"\frac{1}{2}"},
        {"problem": "three", "solution": r"so $\boxed{3}$", "answer": "3"},
        {"problem": "set", "solution": r"so $\boxed{x^2+1}$", "answer": "x^2+1"},
        {"problem": "none", "solution": r"so $\boxed{7}$", "answer": "7"},
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    suite = SuiteConfig(
        tasks={"math": TaskConfig(task="demix_math", capability="math", data=str(tmp_path / "m.jsonl"))}
    )
    tasks = task_set(suite, tmp_path)
    assert all(one.args[0].count("Solution:") == 5 for one in tasks.instances["generate_until"])
    found = tasks.results(
        {
            "generate_until": [
                " Final Answer: The final answer is $0.5$. I hope it is correct.",
                " Final Answer: The final answer is $3$. I hope it is correct.",
                r" which is $\boxed{1+x^2}$",
                "",
            ]
        }
    )
    assert found.items["math"].metric == "math_verify"
    assert found.items["math"].values_I.tolist() == [1.0, 1.0, 1.0, 0.0]
    assert found.lm_eval["results"]["demix_math"]["exact_match,none"] == 0.25


def test_an_expression_that_never_ends_is_wrong_and_the_next_one_is_answered() -> None:
    answers = MathAnswers(1, timeout_s=1.0)
    answers.check([(r"$\boxed{1}$", "1")])  # it has started
    start = time.monotonic()
    found = answers.check([(r"$\boxed{3}$", r"$9^{9^{9^{9}}}$"), (r"$\boxed{4}$", r"$\boxed{2+2}$")])
    assert found == [False, True]
    assert time.monotonic() - start < 60
