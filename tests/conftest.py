"""The one slow thing: a whole run of the smoke recipe, trained once for the session."""

from pathlib import Path

import pytest

from tests.helpers import run_cli


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`runs/smoke`, finished. Tests must not change it: `fork_run` makes a copy."""
    runs = tmp_path_factory.mktemp("runs")
    run_cli("run", "--config-name", "smoke", f"runs_dir={runs}", timeout=580)
    return runs / "smoke"
