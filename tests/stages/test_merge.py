"""`nemo-demix merge` as a user types it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY, merge_checkpoints, run_cli

NAMES = ("general", "math_1", "code_1")
MIXTURES = {"mix_0": {"general": 0.25, "math_1": 0.5, "code_1": 0.25}, "mix_1": {"math_1": 1.0}}


@pytest.fixture(scope="module")
def command(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three components of a run, given by their paths; no recipe is needed."""
    folder = tmp_path_factory.mktemp("mixtures")
    (folder / "mixtures.json").write_text(json.dumps(MIXTURES))
    paths = [f"+merge.components.{name}={_component(smoke_run, name)}" for name in NAMES]
    return ["merge", f"merge.mixtures={folder / 'mixtures.json'}", f"runs_dir={folder}", *paths]


def _component(run: Path, name: str) -> Path:
    return run / f"models/component/{name}/checkpoints/step_00000016"


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_merge_is_planned_made_verified_and_done(command: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out"
    planned = run_cli(*command, f"merge.output={output}", "merge.workers=2", "--dry-run").stdout
    assert "2: 0 done, 2 to merge" in planned
    assert not output.exists(), "a dry run writes nothing"
    made = run_cli(*command, f"merge.output={output}", "merge.workers=2").stderr
    assert "merge: 2 mixtures by linear" in made
    assert "merge: done already" in run_cli(*command, f"merge.output={output}").stderr
    verified = run_cli("merge", "verify", str(output / "mix_0")).stdout
    assert "every checksum holds" in verified
    assert "merged again from the sources: the same" in verified
    summary = json.loads(run_cli("merge", "inspect", str(output / "mix_0"), "--json").stdout)
    assert summary["kind"] == "nemo2"
    assert summary["merge"]["weights"] == MIXTURES["mix_0"]
    assert not list(output.glob(".merge-*"))


@pytest.mark.slow
def test_processes_under_torchrun_share_the_work(command: list[str], smoke_run: Path, tmp_path: Path) -> None:
    arguments = [*command, f"merge.output={tmp_path / 'two'}", "merge.workers=1", "merge.method=ties"]
    arguments += [f"merge.base={smoke_run / 'models/base/base/checkpoints/step_00000040'}"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "nemo_demix"]
    result = subprocess.run(
        [*launcher, *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("merge: 2 mixtures by ties") == 1, "rank 0 speaks"
    report = json.loads((tmp_path / "two/last_merge.json").read_text())
    assert report["bytes_read"] == 4 * 4 * 147_904, "of both, three components and the base, in fp32"
    components = {name: _component(smoke_run, name) for name in NAMES}
    base = smoke_run / "models/base/base/checkpoints/step_00000040"
    merge_checkpoints(components, tmp_path / "one", MIXTURES, "ties", base=base)
    for name in MIXTURES:
        two, one = _files(tmp_path / "two" / name), _files(tmp_path / "one" / name)
        assert two.keys() == one.keys()
        for file in two.keys() - {"merge.json"}:
            assert two[file] == one[file], file


def test_a_runs_own_components_are_the_default(command: list[str], smoke_run: Path, tmp_path: Path) -> None:
    settings = ("--config-name", "smoke", f"runs_dir={smoke_run.parent}", command[1])
    run_cli("merge", *settings, f"merge.output={tmp_path}", "merge.method=task_arithmetic", "merge.dtype=bf16")
    record = json.loads((tmp_path / "mix_0/merge.json").read_text())
    assert record["method"] == "task_arithmetic"
    assert record["dtypes"] == ["bfloat16"]
    assert "base" in record["sources"]
    assert len(record["sources"]) == 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["merge.method=tiez"], "merge.method: expected one of"),
        (["+merge.parameters.density=0.5"], "merge.parameters.density: linear has no such parameter"),
        (["merge.method=ties"], "merge.base: ties works on differences from a base"),
        (["merge.dtype=int8"], "merge.dtype=int8: expected one of fp32, bf16, fp16"),
        (["merge.objects_from=nobody"], "merge.objects_from=nobody: expected one of general, math_1, code_1"),
        (["+merge.components.gone=/nowhere"], "/nowhere: not found"),
        (["~merge.components.code_1"], "unknown name 'code_1'"),
        (["merge.mixtures=null"], "merge.mixtures: not set"),
    ],
)
def test_mistakes_are_one_line(command: list[str], tmp_path: Path, settings: list[str], message: str) -> None:
    result = run_cli(*command, f"merge.output={tmp_path / 'out'}", *settings, expect=2)
    lines = [line for line in result.stderr.splitlines() if line.startswith("nemo-demix: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "out").exists()
