"""Three component models of a finished run, to be merged and damaged."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from nemo_demix.checkpoints.checksums import write_checksums
from tests.merging.faults import MIXTURES, NAMES, Components, component_of, meaning, plan_of, run_merge


@pytest.fixture(scope="module")
def originals(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Components:
    """Three component models of a run, with the checksums that training leaves; nothing here changes them."""
    folder = tmp_path_factory.mktemp("originals")
    for name in NAMES:
        shutil.copytree(component_of(smoke_run, name), folder / name)
        write_checksums(folder / name)
    return {name: folder / name for name in NAMES}


@pytest.fixture(scope="module")
def expected(originals: Components, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the undamaged components merge to."""
    output = tmp_path_factory.mktemp("expected")
    run_merge(plan_of(originals, MIXTURES), output)
    return meaning(output)


@pytest.fixture
def components(originals: Components, tmp_path: Path) -> Components:
    """Copies to be damaged; the first gives the outputs their grid and small files."""
    for name in NAMES:
        shutil.copytree(originals[name], tmp_path / name)
    return {name: tmp_path / name for name in NAMES}
