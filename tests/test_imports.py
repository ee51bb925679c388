"""Commands that need no model import nothing of what models need: which heavy packages each may import is held here."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from nemo_demix.checkpoints.metadata import Chunk, TensorEntry
from nemo_demix.checkpoints.metadata_writer import metadata_bytes
from nemo_demix.checkpoints.pickled import Dtype
from nemo_demix.machine import collect
from nemo_demix.memory_check import judge_memory
from tests.helpers import REPOSITORY, fork_run
from tests.test_recipes import composed, data_root

__all__ = ["data_root"]  # a fixture: recipes read DEMIX_DATA

HEAVY = (
    "torch megatron nemo nemo_run lightning sklearn lightgbm pandas transformers datasets lm_eval pyarrow scipy "
    "matplotlib multistorageclient"
).split()
# Each command is a fork of a process that has imported the command line alone: the very state of one just started.
PROGRAM = f"""
import json, os, sys
from nemo_demix.cli import main
for arguments in json.loads(sys.argv[1]):
    if not os.fork():
        sys.argv = ["nemo-demix", *arguments]
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        print("imported:", code, *(name for name in {HEAVY} if name in sys.modules), flush=True)
        os._exit(0)
    os.wait()
"""


def all_imported(folder: Path, *commands: Sequence[str]) -> list[tuple[int, set[str]]]:
    """Exit code and the heavy packages that each command has imported by its end."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(commands)],
        cwd=REPOSITORY, env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}, capture_output=True, text=True,
        timeout=300, check=True,
    )  # fmt: skip
    found = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("imported: ")]
    assert len(found) == len(commands), done.stdout + done.stderr
    return [(int(code), set(names)) for code, *names in found]


def imported(folder: Path, *arguments: str) -> set[str]:
    """The heavy packages that a command has imported by its end, which is a good one."""
    ((code, found),) = all_imported(folder, arguments)
    assert code == 0
    return found


@pytest.mark.slow
def test_what_needs_no_model_imports_nothing_for_one(tmp_path: Path) -> None:
    runs = f"runs_dir={tmp_path}"
    ends = {
        ("--help",): 0,
        ("nosuch",): 2,
        ("run", "--config-name", "smoke", "nosuch.key=1", runs): 2,
        ("check", "--config-name", "smoke", runs): 0,
        ("check", "--config-name", "smoke", "components.beta=2", "search.strategy=demux", runs): 2,
        ("train", "--config-name", "smoke", "role=base", runs): 2,  # nothing is prepared
        ("train", "--config-name", "smoke", "role=nosuch", runs): 2,
        ("run", "--config-name", "smoke", "prepare.workers=0", runs): 2,
        ("launch", "--config-name", "smoke", "--dry-run", runs): 0,
        ("launch", "--config-name", "smoke", "--dry-run", "parallel.nodes=7", runs): 2,
        ("launch", "--config-name", "smoke", "force=true", runs): 2,
        ("status", "--config-name", "smoke", runs): 0,
        ("cancel", "--config-name", "smoke", runs): 0,
        ("merge", "merge.mixtures=null", runs): 2,
        ("merge", "inspect", "nowhere"): 2,
    }
    found = dict(zip(ends, all_imported(tmp_path, *ends), strict=True))
    assert found == {command: (code, set()) for command, code in ends.items()}


def test_a_checkpoint_is_looked_at_without_torch(tmp_path: Path) -> None:
    tensors = {"weight": TensorEntry((4, 3), Dtype("bfloat16"), (Chunk((0, 0), (4, 3), "__0_0.distcp", 0, 1500),))}
    (tmp_path / ".metadata").write_bytes(metadata_bytes(tensors, {}, None, "x"))
    assert imported(tmp_path, "merge", "inspect", str(tmp_path)) == set()


def test_a_finished_run_and_its_checkpoints_are_looked_at_without_torch(smoke_run: Path, tmp_path: Path) -> None:
    under_way = fork_run(smoke_run, tmp_path, "search/mixture.json", "final")
    commands = (
        ("status", "--config-name", "smoke", f"runs_dir={smoke_run.parent}"),
        ("launch", "--config-name", "smoke", "--dry-run", f"runs_dir={smoke_run.parent}"),
        ("status", "--config-name", "smoke", f"runs_dir={under_way}"),
        ("merge", "inspect", str(smoke_run / "models/base/base/checkpoints/step_00000040")),
    )
    assert all_imported(tmp_path, *commands) == [(0, set())] * len(commands)


def test_the_doctor_imports_nothing_heavy_once_the_model_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    recipe = composed("smoke", f"runs_dir={tmp_path}")
    if collect(tmp_path).gpus:
        pytest.skip("a GPU is here: the doctor has to ask torch for it")
    judge_memory(recipe, recipe, None, 8.0)
    assert imported(tmp_path, "doctor", "--config-name", "smoke", f"runs_dir={tmp_path}") == set()


@pytest.mark.parametrize(
    ("kind", "allowed"),
    [
        ("gaussian_process", set()),
        ("ridge", {"sklearn", "pandas", "pyarrow"}),  # scikit-learn looks whether the last two are there
        ("lightgbm", {"sklearn", "pandas", "pyarrow", "lightgbm"}),  # and so does LightGBM
    ],
)
def test_a_search_over_imported_scores_imports_its_predictor_and_draws_its_page(
    tmp_path: Path, kind: str, allowed: set[str]
) -> None:
    rows = np.random.default_rng(0).dirichlet(np.ones(3), 24).tolist()
    lines = [f"m{number},{','.join(map(str, row))},{1 + row[0] ** 2}" for number, row in enumerate(rows)]
    (tmp_path / "scores.csv").write_text("\n".join(["name,train_a,train_b,train_c,one_loss", *lines]) + "\n")
    quick = ("search.pool_size=500", "search.select_top=16", "search.num_refits=0", "search.predictor.num_bootstrap=2")
    found = imported(
        tmp_path, "search", f"runs_dir={tmp_path}", f"search.imported.scores={tmp_path / 'scores.csv'}",
        f"search.predictor.kind={kind}", *quick,
    )  # fmt: skip
    assert found <= allowed | {"scipy", "matplotlib"}
    assert (tmp_path / "quickstart/report.html").exists()
