"""A suite's tasks as requests to a model, built once, and what a model's responses come to, model after model.

Axes: I documents.
"""

import dataclasses
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import SuiteConfig, TaskConfig
from nemo_demix.errors import ConfigError, DatasetError, ScoreError
from nemo_demix.scoring.harness.identity import selected, task_fingerprints
from nemo_demix.scoring.harness.items import TaskItems, unit_of
from nemo_demix.scoring.harness.judges import Judges
from nemo_demix.scoring.harness.leaf import Leaf, prepare_leaf
from nemo_demix.scoring.harness.report import eval_results
from nemo_demix.scoring.harness.scored import ScoredTask, scored_task
from nemo_demix.tasks.build import BuiltTask, build_saved
from nemo_demix.tasks.environment import harness
from nemo_demix.tasks.judging import judged_by

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskResults:
    """What one model's responses come to.

    Attributes:
        items: The documents' values of the metric that is a task's score, by task key.
        lm_eval: The harness's own results: every metric of every task and group, with standard errors.
        samples: What the harness logs of each document, by its task name; empty unless `suite.log_samples`.
    """

    items: dict[str, TaskItems]
    lm_eval: dict[str, Any]
    samples: dict[str, list[dict[str, Any]]]


class TaskSet:
    """The tasks of a suite; the same on every rank that builds it."""

    def __init__(self, tasks: Sequence[ScoredTask], config: SuiteConfig, fingerprints: Mapping[str, str]) -> None:
        """Use `load`."""
        self._tasks = list(tasks)
        self._config = config
        self._judges = Judges(config)
        self.fingerprints = dict(fingerprints)
        self.instances: dict[str, list[Any]] = {}
        self.instances_of: dict[str, dict[str, list[Any]]] = {}  # the same, by task key
        for task in self._tasks:
            own = self.instances_of[task.key] = {}
            for leaf in task.leaves:
                for instance in leaf.instances:
                    own.setdefault(instance.request_type, []).extend([instance] * instance.repeats)
            for kind, rows in own.items():
                self.instances.setdefault(kind, []).extend(rows)

    @staticmethod
    def load(config: SuiteConfig, manifest: DataManifest, uses: Collection[str] | None = None) -> "TaskSet":
        """Build the requests of the suite's tasks from the documents that `prepare` wrote; no network is used.

        Args:
            config: The suite.
            manifest: The manifest that `prepare` wrote.
            uses: Uses of the tasks to include; None: all. There may be none of them: the set is empty then.
        Raises:
            ConfigError: if a task is unknown, its metric is no mean over documents, or a setting does not fit it.
            DatasetError: if its documents are not there.
        Memory: all documents and requests.
        """
        taken: dict[str, str] = {}
        tasks = []
        for key, task in selected(config, uses).items():
            place = f"suite.tasks.{key}"
            with harness():
                built = _keep_names_apart(key, _build(key, task, config, manifest), taken)
                leaves = [
                    prepare_leaf(place, name, leaf, task.limit, config.seed) for name, leaf in built.leaves.items()
                ]
                tasks.append(scored_task(key, task, built, leaves))
        return TaskSet(tasks, config, task_fingerprints(config, manifest, uses))

    @property
    def units(self) -> dict[str, str]:
        """Units of the scores, by task key."""
        return {task.key: unit_of(task.metric.name) for task in self._tasks}

    @property
    def directions(self) -> dict[str, bool]:
        """Whether higher is better, by task key."""
        return {task.key: task.higher_is_better for task in self._tasks}

    @property
    def keys(self) -> list[str]:
        """Keys of `suite.tasks`, in its order."""
        return [task.key for task in self._tasks]

    def results(self, responses: Mapping[str, Sequence[Any]]) -> TaskResults:
        """Return what a model's responses come to; may be called again for the next model.

        Args:
            responses: Responses by request type, in the order of `instances`: (log-likelihood, is greedy) of a
                `loglikelihood`, a log-likelihood of a `loglikelihood_rolling`, text of a `generate_until`.
        Raises:
            ScoreError: if a number of responses differs, or a log-likelihood is no finite number.
        Collective: none; one rank does it. It may run programs that the model wrote, in the sandbox.
        """
        self._hand_out(responses)
        judge = self._judges.new()
        with harness(), judged_by(judge):
            asking = []
            for leaf in self._leaves:
                leaf.task.apply_filters()
                asked = judge.num_asked
                leaf.process(self._config.log_samples)
                if judge.num_asked > asked:
                    asking.append(leaf)
            if asking:
                log.info("tasks: %d programs and expressions to check", judge.settle())
            for leaf in asking:
                leaf.process(self._config.log_samples)
            report = eval_results(self._tasks, self._config)
            items = {task.key: task.items() for task in self._tasks}
        samples = {leaf.name: leaf.samples for leaf in self._leaves if leaf.samples}
        for leaf in self._leaves:
            leaf.clear()
        return TaskResults(items, report, samples)

    def _hand_out(self, responses: Mapping[str, Sequence[Any]]) -> None:
        for kind, instances in self.instances.items():
            given = responses.get(kind, ())
            if len(given) != len(instances):
                raise ScoreError(f"{kind}: expected {len(instances)} responses of the model, found {len(given)}")
        for leaf in self._leaves:
            leaf.clear()
        for kind, instances in self.instances.items():
            for instance, response in zip(instances, responses[kind], strict=True):
                if kind != "generate_until":
                    value = response[0] if kind == "loglikelihood" else response
                    if not math.isfinite(value):
                        raise ScoreError(
                            f"{instance.task_name}: document {instance.doc_id}: the model gives a log-likelihood of "
                            f"{value}; its weights are not usable"
                        )
                instance.resps.append(response)

    @property
    def _leaves(self) -> list[Leaf]:
        return [leaf for task in self._tasks for leaf in task.leaves]


def _build(key: str, task: TaskConfig, config: SuiteConfig, manifest: DataManifest) -> BuiltTask:
    record = manifest.tasks.get(key)
    if record is None:
        raise DatasetError(
            f"suite.tasks.{key}: its documents are not prepared (found: {', '.join(manifest.tasks) or 'none'}); run "
            "`nemo-demix prepare`"
        )
    return build_saved(f"suite.tasks.{key}", task, config.allow_code_execution, record)


def _keep_names_apart(key: str, built: BuiltTask, taken: dict[str, str]) -> BuiltTask:
    """Give a task whose name is there already its key as its name: the harness keeps results by these names.

    Raises:
        ConfigError: if a task of a group is there already.
    """
    double = [name for name in built.leaves if name in taken]
    if double and built.top is None and len(built.leaves) == 1:
        (leaf,) = built.leaves.values()
        leaf.set_config("task", key)
        built = dataclasses.replace(built, leaves={key: leaf})
        double = [name for name in built.leaves if name in taken]
    if double:
        raise ConfigError(
            f"suite.tasks.{key}.task: {', '.join(double[:4])}: the harness keeps results by task, and "
            f"suite.tasks.{taken[double[0]]} has it too; leave one of them out"
        )
    taken.update(dict.fromkeys(built.leaves, key))
    return built
