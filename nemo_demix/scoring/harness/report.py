"""The harness's own results of one model: the JSON that its tools and tables read."""

import json
import os
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from nemo_demix.config import SuiteConfig
from nemo_demix.errors import ScoreError
from nemo_demix.scoring.harness.scored import ScoredTask

# Of metrics over all documents at once, f1 say: the harness draws 100,000 times, in other processes, for minutes.
_BOOTSTRAP_DRAWS = 100


def eval_results(tasks: Sequence[ScoredTask], config: SuiteConfig) -> dict[str, Any]:
    """Return the harness's `EvalResults` of what the tasks' last responses came to, without samples, as plain JSON
    values.

    A value that is no finite number is null.

    Raises:
        ScoreError: if a metric over all documents cannot be computed.
    """
    from unittest.mock import patch

    from lm_eval.evaluator_utils import _process_results

    accumulated = {
        leaf.name: {"task": leaf.task, "raw_metrics": leaf.raw, "logged_samples": []}
        for task in tasks
        for leaf in task.leaves
    }
    groups = {name: group for task in tasks for name, group in task.groups.items()}
    try:
        with patch.dict(os.environ, {"DISABLE_MULTIPROC": "1"}):  # its pool forks; this process has threads
            results = _process_results(accumulated, groups, _BOOTSTRAP_DRAWS)._to_eval_results()
    except (ValueError, TypeError, KeyError, ZeroDivisionError) as error:
        raise ScoreError(
            f"tasks {', '.join(accumulated)}: a metric of the harness fails on the documents' values: {error}; take "
            "the metric out of the task's definition, or the task out of the suite"
        ) from error
    results["config"] = {
        "bootstrap_iters": _BOOTSTRAP_DRAWS,
        "limit": None,
        "limits": {leaf.name: len(leaf.doc_ids) for task in tasks for leaf in task.leaves},
        "suite_seed": config.seed,
    }
    results["lm_eval_version"] = version("lm_eval")
    return _plain(results)


def _plain(value: Any) -> Any:
    """Turn a value into plain JSON, by the harness's own conversion; NaN and infinity become None."""
    from lm_eval.utils import handle_non_serializable

    return json.loads(json.dumps(value, default=handle_non_serializable), parse_constant=lambda _: None)
