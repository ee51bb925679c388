"""Recipes as users write them: what replaces what, counts as words, folders that know their recipe, and `init`."""

import gzip
import json
import shutil
from pathlib import Path

import pytest

from nemo_demix.config.overrides import read_overrides
from nemo_demix.config.values import count_of
from nemo_demix.errors import DemixError
from tests.check.test_check import write_data
from tests.helpers import REPOSITORY, run_cli


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    write_data(folder)
    return folder


def shown(recipe: Path, *overrides: str) -> str:
    """The composed configuration."""
    return run_cli("check", "--config-name", str(recipe), "--cfg", "job", *overrides).stdout


def test_the_documented_recipe_works_as_printed(folder: Path) -> None:
    text = (REPOSITORY / "docs/data.md").read_text(encoding="utf-8")
    recipe = folder / "readme.yaml"
    recipe.write_text(text.partition("```yaml\n")[2].partition("```")[0])
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["two and two is four"] * 50}), folder / "data/math/a.parquet")
    done = run_cli("check", "--config-name", str(recipe), "runs_dir=runs", cwd=folder)
    for name in ("general", "math_1", "code_1"):
        assert f"│ {name} " in done.stdout
    assert "math_2" not in done.stdout
    assert "registry" not in done.stdout
    assert "MB │" not in done.stdout  # no cap of the quickstart's


def test_a_block_of_own_names_replaces_and_fixed_keys_merge(folder: Path) -> None:
    parent, child = folder / "parent.yaml", folder / "child.yaml"
    parent.write_text(
        "defaults: [quickstart, _self_]\nname: parent\n"
        "datasets: {general: {capability: general, max_bytes: 1M, sources: [{path: a.txt}]}}\n"
        "search: {floors: {general: 0.1}}\nbase: {num_tokens: 2.5e9}\n"
    )
    child.write_text(
        "defaults: [parent, _self_]\nname: child\n"
        "datasets: {general: {capability: general, sources: [{path: b.txt}]}}\n"
        "suite: {tasks: {mine: {task: demix_gsm8k, capability: math}}, benchmarks: {}}\n"
        "search: {floors: {math: 0.2}}\n"
    )
    first, second = shown(parent), shown(child)
    assert "max_bytes: 1000000" in first
    assert "num_tokens: 2500000000" in first
    assert "general: 0.1" in first
    assert "math_1" not in first
    assert "path: b.txt" in second
    assert "max_bytes: null" in second
    assert "num_tokens: 2500000000" in second  # a section of fixed keys is merged
    assert "general: 0.1" not in second
    assert "math: 0.2" in second
    assert "arc_easy" not in second


def test_a_block_is_merged_into_a_group_that_its_recipe_names(folder: Path) -> None:
    recipe = folder / "named.yaml"
    recipe.write_text(
        "defaults: [quickstart, override datasets: quickstart, _self_]\nname: named\n"
        "datasets: {math_1: {max_bytes: 5000}}\n"
    )
    config = shown(recipe)
    assert "max_bytes: 5000" in config
    assert "registry: symbolic_docs" in config
    assert "math_2" in config


def test_all_mistakes_of_a_recipe_and_a_command_line_are_in_one_list(folder: Path) -> None:
    recipe = folder / "wrong.yaml"
    recipe.write_text(
        "defaults: [quickstart, _self_]\nname: wrong\nsed: 3\ntrain: {seq_length: many, global_batch_size: 9}\n"
        "components: {beta: 1.5}\nparallel: {tensor: 3}\nsearch: {constraints: {min: {math_9: 0.1}}}\n"
    )
    for command in ("check", "run", "launch", "doctor"):
        told = run_cli(command, "--config-name", str(recipe), f"runs_dir={folder}/runs", "bas.seed=1", expect=2).stderr
        lines = [line.split(maxsplit=1)[1] for line in told.splitlines() if line[:3].strip().isdigit()]
        starts = "bas sed train.seq_length train.global_batch_size model.vocab_size components.beta".split()
        assert all(any(line.startswith(start) for line in lines) for start in starts), lines
        assert any("math_9" in line and "did you mean math_" in line for line in lines)
        assert "did you mean seed" in told
        assert "7 mistakes in the configuration; nothing was started" in told
        assert not (folder / "runs/wrong/datasets").exists()


@pytest.mark.parametrize(
    ("text", "count"),
    [("1B", 10**9), ("300M", 300 * 10**6), ("2.5e9", 25 * 10**8), (2.5e9, 25 * 10**8), ("1_000", 1000), ("1.5k", 1500),
     (7, 7), ("12.3", None), ("many", None), (-3, None), (True, None), ("1e-3", None)],
)  # fmt: skip
def test_counts_are_read_as_they_are_written(text: object, count: int | None) -> None:
    assert count_of(text) == count


def test_overrides_are_held_to_the_schema_before_hydra_sees_them() -> None:
    errors: list[DemixError] = []
    texts = [
        "base.num_tokens=1B",
        "search=demix",
        "sed=1",
        "train.seq_length=many",
        "seed=1,2",
        "+datasets.a.max_bytes=2k",
    ]
    kept, groups = read_overrides([*texts, "base.keep_tokens=[1M,2B]"], errors)
    assert kept == [
        "base.num_tokens=1000000000", "search=demix", "seed=1,2", "++datasets={a:{max_bytes:2000}}",
        "base.keep_tokens=[1000000, 2000000000]",
    ]  # fmt: skip
    assert groups == {"search"}
    assert [str(error).partition(":")[0] for error in errors] == ["sed", "train.seq_length"]


def test_a_run_is_found_by_its_folder_wherever_it_is(folder: Path, tmp_path: Path) -> None:
    recipe = folder / "kept.yaml"
    recipe.write_text(
        "defaults: [quickstart, _self_]\nname: kept\ntokenizer: {vocab_size: 300}\n"
        "datasets: {general: {capability: general, sources: [{path: data/math/*.jsonl}]}}\n"
        "suite: {benchmarks: {gsm8k: {capability: general, registry: gsm8k}}}\nsearch: {floors: {general: 0.1}}\n"
    )
    run_cli("prepare", "--config-name", str(recipe), cwd=folder)
    shutil.move(folder / "runs/kept", tmp_path / "moved")
    done = run_cli("status", "--run", str(tmp_path / "moved"), cwd=tmp_path)
    assert "prepare" in done.stdout
    assert done.stdout.count("done") == 1
    shown = run_cli("check", f"--run={tmp_path / 'moved'}", "--cfg", "job", cwd=tmp_path).stdout
    assert "name: moved" in shown
    assert "general: 0.1" in shown
    assert f"No run here: {tmp_path}" in run_cli("final", "--run", str(tmp_path), expect=2).stderr
    assert "--run: train takes a recipe" in run_cli("train", "--run", str(tmp_path), expect=2).stderr


@pytest.mark.parametrize(("general", "code", "beta"), [(1000, 9000, 0.05), (3000, 7000, 0.15), (9000, 1000, 0.25)])
def test_init_leaves_room_below_what_there_is_of_general_text(
    general: int, code: int, beta: float, tmp_path: Path
) -> None:
    for name, size in (("notes/a.txt", general), ("source/b.py", code)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("x" * size)
    recipe = tmp_path / "mine.yaml"
    said = run_cli("init", str(tmp_path / "notes"), str(tmp_path / "source"), "--output", str(recipe)).stdout
    assert f"notes, about {general // 100} % of all text" in said
    assert f"beta: {beta}\n" in shown(recipe)


def test_init_counts_packed_text_as_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "source").mkdir()
    rows = json.dumps({"text": "words that repeat are packed well " * 9}) + "\n"
    with gzip.open(tmp_path / "notes" / "a.jsonl.gz", "wt") as file:
        file.write(rows)
    stored = (tmp_path / "notes" / "a.jsonl.gz").stat().st_size
    (tmp_path / "source" / "b.py").write_text("x" * (3 * stored))  # as much as three times the packed bytes
    recipe = tmp_path / "mine.yaml"
    said = run_cli("init", str(tmp_path / "notes"), str(tmp_path / "source"), "--output", str(recipe)).stdout
    assert "notes, about 50 % of all text" in said


def test_init_writes_a_recipe_that_check_takes_and_overwrites_nothing(folder: Path) -> None:
    folders = [str(folder / "data" / name) for name in ("web", "math", "repositories")]
    made = folder / "init.yaml"
    said = run_cli("init", *folders, "--output", str(made)).stdout
    for guess in (
        "web: capability general",
        "math: capability math",
        "repositories: capability code",
        "text_field text",
    ):
        assert guess in said
    assert "web: # most bytes are in .jsonl.gz files" in made.read_text()
    done = run_cli("check", "--config-name", str(made), f"runs_dir={folder}/runs")
    assert "repositories" in done.stdout
    before = made.read_bytes()
    assert "exists already" in run_cli("init", *folders, "--output", str(made), expect=2).stderr
    assert made.read_bytes() == before
    empty = folder / "empty"
    empty.mkdir()
    assert "found no file ending in" in run_cli("init", str(empty), "--output", str(folder / "e.yaml"), expect=2).stderr
