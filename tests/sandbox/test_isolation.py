"""Hostile programs, for real, on this machine as it is and on poorer ones."""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from nemo_demix.errors import ScoreError
from nemo_demix.sandbox import available_isolation, run_programs
from nemo_demix.sandbox.contract import FAILED, PASSED, Limits
from tests.conftest import TEMPORARIES
from tests.sandbox.hostile import ARRIVED, SAMPLES, Sample
from tests.sandbox.places import LIMITS, NO_NAMESPACES, PLACES, Unavailable, elsewhere


def run_elsewhere(refuse: list[str], user: int | None, **job: Any) -> dict[str, Any]:
    try:
        return elsewhere(refuse, user, **job)
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=PLACES)
def attacked(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The hostile samples' outcomes in one place."""
    refuse, user = PLACES[request.param]
    return run_elsewhere(refuse, user, samples=True)


def ends(found: dict[str, Any]) -> list[tuple[Sample, str]]:
    """How each sample ended."""
    return [
        (sample, f"{outcome['status']}: {outcome['detail']}")
        for sample, outcome in zip(SAMPLES, found["outcomes"], strict=True)
    ]


def test_no_attack_succeeds(attacked: dict[str, Any]) -> None:
    isolation = attacked["isolation"]
    assert isolation["seccomp"]
    hidden = "mount" in isolation["namespaces"] or isolation["landlock"]
    # What is not hidden can be read, and one knows this sandbox from inside: both are said where they matter.
    passing = [sample for sample in SAMPLES if sample.succeeds or (sample.reads and not hidden)]
    wrong = {
        (sample.kind, sample.tries): end
        for sample, end in ends(attacked)
        if not re.fullmatch("passed: " if sample in passing else sample.ends, end)
    }
    assert wrong == {}
    assert hidden == ("NOT PROTECTED: this account's files" not in attacked["describe"])


def test_without_a_sandbox_the_attacks_succeed() -> None:
    """Those that may be let loose: so what keeps them from it elsewhere is the sandbox."""
    program = Path(__file__).with_name("unprotected.py")
    result = subprocess.run([sys.executable, "-B", str(program)], cwd="/", capture_output=True, text=True, check=True)
    succeeded = json.loads(result.stdout.splitlines()[-1])
    assert len(succeeded) >= 20
    assert [tries for tries, done in succeeded.items() if not done] == []


def test_nothing_is_changed_outside(attacked: dict[str, Any]) -> None:
    seen = attacked["seen"]
    assert seen["folder_intact"]
    assert seen["neighbour_alive"]
    assert seen["connections"] == 0
    assert seen["processes_left"] == 0
    assert seen["disk_used_mib"] < 500  # others may write meanwhile; the attacks try 64 GiB
    assert seen["most_processes"] <= 2 * 3 + 1  # two workers, those that wait for them, a program each; the neighbour
    assert seen["most_memory_mib"] < 2 * (LIMITS["memory_mib"] + 100)


def test_without_a_filter_or_namespaces_nothing_is_run() -> None:
    found = run_elsewhere([*NO_NAMESPACES, "prctl_seccomp"], None, sources=["pass"])
    assert "neither seccomp filters, nor namespaces" in found["error"]
    assert "suite.allow_code_execution=false" in found["error"]


def test_what_is_not_protected_is_said() -> None:
    refuse = ["prctl_seccomp"]
    if "error" in run_elsewhere(refuse, None):
        pytest.skip("without a filter nothing is run on this machine")
    found = run_elsewhere(refuse, None, samples=True)
    assert "NOT PROTECTED: the network" in found["describe"]
    assert "NOT PROTECTED: other processes can be started" in found["describe"]
    found_ends = {(sample.kind, sample.tries): end for sample, end in ends(found)}
    assert found_ends["processes", "daemon that outlives the program"] == "passed: "
    assert {end for sample, end in ends(found) if sample.kind == "arrival"} == {ARRIVED}
    # The namespaces hold by themselves: the daemon was started, and has ended; nothing came out.
    assert {**found["seen"], "most_processes": 0, "most_memory_mib": 0, "disk_used_mib": 0} == {
        "folder_intact": True, "neighbour_alive": True, "connections": 0, "processes_left": 0,
        "most_processes": 0, "most_memory_mib": 0, "disk_used_mib": 0,
    }  # fmt: skip
    assert (
        found["seen"]["most_processes"] > 7
    )  # the daemon's and the fork bomb's, which were seen while they were there


def test_the_trial_tells_what_programs_then_get() -> None:
    isolation = available_isolation()
    assert isolation is available_isolation()
    programs = ["open('file', 'w').close()", "import threading; threading.Thread(target=int).start()"]
    written, threaded = run_programs(programs, Limits(), 1)
    assert (written.status == PASSED) == ("mount" in isolation.namespaces)
    assert ("programs can write no file" in isolation.describe()) == (written.status == FAILED)
    assert (threaded.status == PASSED) == isolation.threads


def test_where_the_name_of_the_temporary_folder_is_long(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / TEMPORARIES
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    assert available_isolation.__wrapped__() == available_isolation()


def test_a_python_that_does_not_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ScoreError, match="the worker ended with code 1; expected /bin/false to run"):
        run_programs(["pass"], Limits(), 1)
