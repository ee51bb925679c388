"""The command line: what a mistake looks like, and what Hydra still does."""

import errno
import fcntl
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_demix.cli import COMMANDS, end_of_disk
from nemo_demix.config import DemixConfig, PredictorConfig
from nemo_demix.config.demix import name_errors
from nemo_demix.config.overrides import read_overrides
from nemo_demix.errors import ConfigError, DemixError, refuse
from nemo_demix.stages.imported import imported_stage
from nemo_demix.stages.run import spent
from tests.helpers import REPOSITORY, run_cli
from tests.search.test_imported_search import BEST, settings, write_csv


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["zoom"],
            "zoom: no such stage; expected one of init, prepare, train, merge, score, search, verify, final, ",
        ),
        (["prepar"], "prepar: no such stage; did you mean prepare or report?; expected"),
        (["train", "search=demx"], "search=demx: no such choice; did you mean demix"),
        (["train", "datasets.mat_1.capability=x"], "there is no mat_1 in datasets; did you mean math_1"),
        (["train", "datasets.my.web.capability=x"], "written in the recipe: `datasets: {my.web: {capability: x}}`"),
        (["train", "base.checkpoint=a--b=1"], "the character '=' (number 21) is not taken in a value without quotes"),
        (["train", "role"], "role: expected key=value"),
        (["train", "role=base", "sed=1"], "sed: no such key; did you mean seed?"),
        (["train", "seed=one"], "seed: found 'one', expected a whole number"),
        (
            ["train", "--config-name", "nothing"],
            "--config-name nothing: no such recipe; expected one of bridge_llama3_8b, bridge_qwen3_1p7b, ",
        ),
        (["train", "--config-name", "here/nothing.yaml"], "here/nothing.yaml: no such recipe"),
        (["search", "name=never_prepared"], "manifest.json: does not exist yet; run `nemo-demix prepare`"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path, arguments: list[str], expected: str) -> None:
    stage, *rest = arguments
    where = [f"runs_dir={tmp_path}"] if stage == "search" else []
    result = run_cli(stage, *rest, *where, expect=2)
    assert expected in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_key_that_stands_twice_in_a_recipe_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("defaults: [demix_schema, _self_]\nname: one\nname: two\n")
    result = run_cli("status", "--config-name", str(tmp_path / "mine.yaml"), expect=2)
    assert "found duplicate key name" in result.stderr
    assert "mine.yaml" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_all_missing_values_are_named_at_once(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("defaults: [demix_schema, _self_]\nname: mine\n")
    result = run_cli("prepare", "--config-name", str(recipe), f"runs_dir={tmp_path}", expect=2)
    for key in ("model.recipe", "tokenizer.kind", "base.num_tokens", "train.seq_length"):
        assert key in result.stderr
    assert "name," not in result.stderr


def test_hydra_shows_the_composed_configuration_of_a_users_own_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("defaults: [quickstart, _self_]\nname: mine\nsearch: {iterations: [4, 2]}\n")
    shown = run_cli("run", "--config-name", str(recipe), "--cfg", "job", "seed=7").stdout
    assert "name: mine" in shown
    assert "seed: 7" in shown
    assert "iterations:\n  - 4\n  - 2\n" in shown
    assert not (REPOSITORY / "outputs").exists()


def test_a_current_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    program = f'rmdir "$PWD" && exec "{sys.executable}" -m nemo_demix check --config-name smoke'
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        ["bash", "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 2
    assert "the folder that this was started in (No such file or directory); change to one" in done.stderr


def test_help_is_all_that_help_prints() -> None:
    shown = run_cli("--help")
    assert shown.stdout.startswith("usage: nemo-demix STAGE")
    assert shown.stderr == ""


def test_hydra_sweeps(tmp_path: Path) -> None:
    alone = run_cli("doctor", "--config-name", "smoke", f"runs_dir={tmp_path}")
    assert all(line[9:].startswith("asking nemo") for line in alone.stderr.splitlines())  # nothing of libraries
    once = alone.stdout
    here = tmp_path / "here"
    here.mkdir()
    result = run_cli("doctor", "-m", "seed=1,2", "--config-name", "smoke", f"runs_dir={tmp_path}", cwd=here)
    assert result.stdout.count("megatron-core") == 2 * once.count("megatron-core") > 0
    assert not list(here.iterdir()), "what only reads leaves nothing behind"


def test_two_processes_do_not_share_a_run(tmp_path: Path) -> None:
    (tmp_path / "smoke").mkdir()
    with open(tmp_path / "smoke/.lock", "w") as file:
        json.dump({"host": "here", "process": os.getpid(), "job": "7_1"}, file)
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        result = run_cli("prepare", "--config-name", "smoke", f"runs_dir={tmp_path}", expect=2)
    assert (
        f"smoke: in use by process {os.getpid()} on here, Slurm job 7_1; wait for it, or set another" in result.stderr
    )


def test_every_command_that_a_message_names_is_one() -> None:
    known, words = {*COMMANDS, "init", "doctor"}, {"merge": {"verify", "inspect"}, "report": {"compare"}}
    seen = set()
    for path in sorted((REPOSITORY / "nemo_demix").rglob("*.py")):
        source = re.sub(r'"\s*\n\s*f?"', "", path.read_text(encoding="utf-8"))  # texts of several lines
        for hint in re.findall(r"`nemo-demix ([^`]+?)`", source):
            stage, *rest = re.sub(r"\{[^}]*\}", "x", hint).split()
            if stage == "STAGE":
                continue
            assert stage in known, (path, hint)
            errors: list[DemixError] = []
            read_overrides([word for word in rest if "=" in word], errors)
            assert not errors, (path, hint)
            plain = [word for word in rest if "=" not in word and word[0] not in "-["]
            assert (
                stage == "init" or {"--config-name", "--run"} & {*rest} or set(plain[:1]) <= words.get(stage, set())
            ), (path, hint)
            seen.add(stage)
    assert {"prepare", "search", "final", "verify", "import", "doctor"} <= seen


def test_a_record_that_is_damaged_is_mended_as_its_message_says(tmp_path: Path) -> None:
    scores = write_csv(tmp_path / "scores.csv", [f"train_{one}" for one in BEST])
    config = settings(tmp_path, scores, [])
    config.search.strategy, config.search.predictor = "recommended", PredictorConfig(kind="ridge", folds=2, repeats=1)
    config.search.objective, config.search.pool_size, config.search.num_refits = "mean", 500, 2
    imported_stage(config)
    path = config.run_dir / "search/mixture.json"
    kept = path.read_bytes()
    path.write_text("{")
    with pytest.raises(DemixError, match=r"expected JSON, found: .*; delete it and run its stage again"):
        imported_stage(config)
    path.unlink()
    imported_stage(config)
    assert path.read_bytes() == kept


@pytest.mark.parametrize("name", ["a|b", "a b", "..", "a/b", "-a", "x" * 101, "a'b", "ä"])
def test_a_name_of_a_run_has_one_rule_that_comes_first(name: str) -> None:
    with pytest.raises(ConfigError, match="expected a plain folder name"):
        refuse(name_errors(DemixConfig(name=name)))


def test_status_reads_only_and_a_path_may_hold_what_looks_like_an_override(tmp_path: Path) -> None:
    folder = tmp_path / "lr=0.1 it's"
    folder.mkdir()
    recipe = folder / "mine.yaml"
    recipe.write_text("defaults: [quickstart, _self_]\nname: mine\n")
    found = run_cli("status", "--config-name", str(recipe), cwd=folder, expect=2)
    assert f"no run here: {folder}/runs/mine" in found.stderr
    assert [path.name for path in folder.iterdir()] == ["mine.yaml"]
    (folder / "runs/mine").mkdir(parents=True)
    assert "to do" in run_cli("status", "--config-name", str(recipe), cwd=folder).stdout
    assert list((folder / "runs/mine").iterdir()) == []


def test_a_disk_that_refuses_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        end_of_disk("merge", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "a/b")))
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"nemo-demix: merge: {tmp_path}/a/b: No space left on device (")
    assert f"bytes are free at {tmp_path})" in line


def test_what_a_rerun_took_is_added_to_what_a_stage_cost() -> None:
    rows = [
        {"stage": "prepare", "wall_time_s": 10.0, "peak_memory_gib": 1.0},
        {"stage": "train", "wall_time_s": 800.0, "peak_memory_gib": 3.0},
        {"stage": "prepare", "wall_time_s": 0.5, "peak_memory_gib": 0.5},
        {"stage": "train", "wall_time_s": 1.0, "peak_memory_gib": 0.5},
    ]
    assert spent(rows) == "prepare 10 s (1.0 GiB), train 801 s (3.0 GiB)"
