"""Who answers what metrics ask (`nemo_demix/tasks/judging.py`): the sandbox, and a process that knows mathematics."""

from collections.abc import Sequence

from nemo_demix.config import SuiteConfig
from nemo_demix.errors import ConfigError
from nemo_demix.sandbox import Limits, run_programs
from nemo_demix.scoring.harness.math_answers import MathAnswers
from nemo_demix.tasks.judging import Judge, Question


class Judges:
    """A judge for each model, by the suite's settings."""

    def __init__(self, config: SuiteConfig) -> None:
        self._config = config
        self._math = MathAnswers(config.code.workers)

    def new(self) -> Judge:
        """Make a judge that knows nothing yet."""
        return Judge({"program": self._programs, "math": self._expressions})

    def _programs(self, questions: Sequence[Question]) -> list[bool]:
        """Return whether each program ends without an error."""
        if not self._config.allow_code_execution:
            raise ConfigError(
                "a task's metric runs programs that the model wrote: set suite.allow_code_execution=true, or take "
                "the task out"
            )
        code = self._config.code
        limits = Limits(wall_s=code.wall_s, memory_mib=code.memory_mib)
        return [outcome.passed for outcome in run_programs([program for (program,) in questions], limits, code.workers)]

    def _expressions(self, questions: Sequence[Question]) -> list[bool]:
        """Return whether each response's answer is the solution's."""
        return self._math.check([(gold, response) for gold, response in questions])
