"""What the pages say that a program can check: links lead somewhere, commands and keys are the program's."""

import ast
import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_demix.cli import COMMANDS
from nemo_demix.command_line import recipes_folder
from nemo_demix.config.overrides import read_overrides
from nemo_demix.errors import DemixError
from tests.helpers import REPOSITORY
from tests.merging.grids import random_model, write_checkpoint
from tests.test_recipes import composed

PAGES = [REPOSITORY / "README.md", REPOSITORY / "AGENTS.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
COMMAND = re.compile(r"^(?:    )?(?:done; |\$ )?nemo-demix ([a-z].*?)(?:  +#.*)?$", re.MULTILINE)
TARGET = re.compile(r"(?:`|^    )make ([a-z]+)", re.MULTILINE)
SCRIPT = re.compile(r"benchmarks/([a-z_]+\.py)((?: --[a-z-]+(?: [A-Z]+)?)*)")
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@by_page
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing


def test_the_site_has_every_page_of_docs_and_links_none_outside() -> None:
    pages = PAGES[2:]
    named = re.findall(r"[\w.]+\.md", (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(named) == sorted(page.name for page in pages)
    outside = [page.name for page in pages if "](../" in page.read_text(encoding="utf-8")]
    assert not outside


@by_page
def test_modules_that_are_named_are_there(page: Path) -> None:
    named = re.findall(r"`((?:[a-z_0-9]+/)+[a-z_0-9]+\.py|[a-z_0-9/]+\.sbatch)`", page.read_text(encoding="utf-8"))
    places = (REPOSITORY, REPOSITORY / "nemo_demix")
    missing = {name for name in named if not any((place / name).exists() for place in places)}
    assert missing <= {"apex/optimizers/fused_adam.py"}  # NVIDIA's


@by_page
def test_tests_that_are_named_are_there(page: Path) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", page.read_text(encoding="utf-8"))
    assert {
        (path, test) for path, test in named if f"def {test}(" not in (REPOSITORY / path).read_text(encoding="utf-8")
    } == set()


@by_page
def test_commands_are_of_stages_and_keys_that_there_are(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMIX_DATA", "/data")  # of the recipes for clusters
    text = page.read_text(encoding="utf-8").replace(" \\\n", " ")
    for command in COMMAND.findall(text):
        stage, *words = shlex.split(re.sub(r"\[(?=merge)|\]$", "", command))  # what may be left out is in brackets
        assert stage in COMMANDS or stage == "init", command
        if stage == "init" or "-m" in words:  # it takes folders; a sweep has values of its own grammar
            continue
        names = [after for before, after in itertools.pairwise(words) if before == "--config-name"]
        shipped = [name for name in names if (recipes_folder() / f"{name}.yaml").exists()]
        overrides = [word for word in words if "=" in word and not word.startswith(("-", "hydra"))]
        errors: list[DemixError] = []
        composed(shipped[0] if shipped else "quickstart", *read_overrides(overrides, errors)[0])
        assert not errors, command


@by_page
def test_targets_of_make_and_options_of_benchmarks_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert {target for target in TARGET.findall(text) if f"\n{target}:" not in makefile} == set()
    sources = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "benchmarks").glob("*.py"))
    for script, options in SCRIPT.findall(text):
        assert (REPOSITORY / "benchmarks" / script).is_file(), script
        assert {one for one in options.split() if one.startswith("--") and f'"{one}"' not in sources} == set(), script


def test_figures_are_what_the_results_say() -> None:
    command = [sys.executable, str(REPOSITORY / "benchmarks/figures.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_readme_is_read_in_five_minutes() -> None:
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("name", ["README.md", "docs/python.md"])
def test_examples_in_python_run_as_printed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One after another, in a folder that has the files they name."""
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    csv = (REPOSITORY / "docs/imported_scores.md").read_text(encoding="utf-8").partition("```csv\n")[2]
    (tmp_path / "scores.csv").write_text(csv.partition("```")[0])
    model = random_model(0)
    for seed, component in enumerate(("general", "code")):
        write_checkpoint(tmp_path / "ckpt" / component, random_model(seed, near=model))
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert examples
    for example in examples:
        exec(compile(example, name, "exec"), {"__name__": "example"})
        printed = capsys.readouterr().out
        if "data_shares" in example:
            found = ast.literal_eval(printed[printed.index("{") : printed.index("}") + 1])
            assert sum(found.values()) == pytest.approx(1, abs=1e-9)
        assert printed
