"""The table of stages agrees with the commands and keys that it names."""

from dataclasses import fields

from nemo_demix.cli import COMMANDS
from nemo_demix.config.launch import LaunchJobsConfig
from nemo_demix.config.stages import STAGE_OF, STAGES, STEPS


def test_every_stage_can_be_a_job_and_is_done_by_a_command() -> None:
    assert [field.name for field in fields(LaunchJobsConfig)] == list(STAGES)
    assert {stage.command[0] for stage in STAGES.values()} <= set(COMMANDS)
    assert set(STEPS) <= set(COMMANDS)
    assert {f"role={role}" for role in STAGE_OF if role != "final"} == {
        stage.command[1] for stage in STAGES.values() if stage.command[0] == "train"
    }


def test_a_stage_comes_after_what_it_needs() -> None:
    before: list[str] = []
    for stage in STAGES.values():
        assert set(stage.needs) <= set(before)
        before.append(stage.name)
