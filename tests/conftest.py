"""The one slow thing: a whole run of the smoke recipe, trained once for the session."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.helpers import run_cli

# No test here is about time, and the machines that run them may be busy.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`runs/smoke`, finished. Tests must not change it: `fork_run` makes a copy."""
    runs = tmp_path_factory.mktemp("runs")
    run_cli("run", "--config-name", "smoke", f"runs_dir={runs}", timeout=580)
    return runs / "smoke"
