"""A Slurm for the session, and a stand-in for `nemo-demix` where what is tested is what Slurm does with it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.lab import Lab, missing

STAND_IN = Path(__file__).with_name("stand_in.sh")


@pytest.fixture(scope="session")
def slurm_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A Slurm without accounting."""
    if reason := missing():
        pytest.skip(reason)
    lab = Lab(tmp_path_factory.mktemp("slurm"))
    try:
        lab.start()
        yield lab
    finally:
        lab.stop()


@pytest.fixture
def slurm(slurm_session: Lab) -> Iterator[Lab]:
    """The session's Slurm, with an empty queue before and after."""
    yield slurm_session
    slurm_session.cancel_all()


@pytest.fixture(scope="session")
def slurm_with_accounting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A Slurm with slurmdbd, so that sacct knows of jobs."""
    if reason := missing(accounting=True):
        pytest.skip(reason)
    lab = Lab(tmp_path_factory.mktemp("slurm_accounting"), accounting=True)
    try:
        lab.start()
        yield lab
    finally:
        lab.stop()


@pytest.fixture
def stand_in(tmp_path: Path) -> dict[str, str]:
    """The environment in which jobs find stand_in.sh as `nemo-demix`; `calls` reads what it was started with."""
    (tmp_path / "bin").mkdir()
    os.symlink(STAND_IN, tmp_path / "bin" / "nemo-demix")
    return {"DEMIX_SETUP": f"PATH={tmp_path}/bin:$PATH", "STAND_IN_CALLS": str(tmp_path / "calls")}
