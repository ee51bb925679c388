import random
import sys

import numpy as np

from nemo_demix.tasks.code_eval import CodeEval
from nemo_demix.tasks.environment import harness


def test_everything_is_put_back() -> None:
    import datasets
    import lm_eval.api.task
    import lm_eval.utils

    random.seed(5)
    np.random.seed(5)
    expected = (random.random(), np.random.rand())
    random.seed(5)
    np.random.seed(5)
    before = (lm_eval.api.task.tqdm, lm_eval.utils.env.from_string, sys.modules.get("evaluate"))
    bars = datasets.are_progress_bars_disabled()
    with harness():
        first = (random.random(), np.random.rand())
        assert datasets.are_progress_bars_disabled()
    with harness():
        assert (random.random(), np.random.rand()) == first
    assert (random.random(), np.random.rand()) == expected
    assert (lm_eval.api.task.tqdm, lm_eval.utils.env.from_string, sys.modules.get("evaluate")) == before
    assert datasets.are_progress_bars_disabled() == bars


def test_code_eval_is_ours_whether_or_not_evaluate_is_there_already() -> None:
    with harness():
        import evaluate

        assert isinstance(evaluate.load("code_eval"), CodeEval)
        assert evaluate.EvaluationModule.__module__.startswith("evaluate.")  # the package itself, when it is wanted
    import evaluate as real

    original = real.load
    with harness():
        assert isinstance(real.load("code_eval"), CodeEval)
    assert real.load is original
