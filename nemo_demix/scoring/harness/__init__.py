"""Scores of lm-evaluation-harness: its tasks' requests, built once, and what a model's responses come to."""

from nemo_demix.scoring.harness.identity import task_fingerprints
from nemo_demix.scoring.harness.items import TaskItems
from nemo_demix.scoring.harness.task_set import TaskResults, TaskSet

__all__ = ["TaskItems", "TaskResults", "TaskSet", "task_fingerprints"]
