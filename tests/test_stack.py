"""The version guards, against packages really on disk, in an interpreter that sees nothing else."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import packaging
import pytest

from nemo_demix.stack import within

REPOSITORY = Path(__file__).parents[1]
GOOD = {
    "torch": ("2.13.0", "torch"),
    "nemo_toolkit": ("2.7.3", "nemo/collections/llm"),
    "megatron_core": ("0.15.3", "megatron/core"),
    "nemo_run": ("0.11.1", "nemo_run"),
    "psutil": ("7.2.2", "psutil"),
    "lightgbm": ("4.7.0", "lightgbm"),
}


class FakeSite:
    """A folder of installed packages, and an interpreter whose only third-party packages are these."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "packaging").symlink_to(Path(packaging.__file__).parent)
        (folder / "nemo_demix").symlink_to(REPOSITORY / "nemo_demix")

    def install(self, name: str, version: str, module: str) -> None:
        """A distribution with its metadata and a module that must never be imported."""
        metadata = self.folder / f"{name}-{version}.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        self.write(f"{module}/__init__.py", "raise SystemExit('imported')\n")
        for parent in Path(module).parents:
            if parent != Path("."):
                self.write(f"{parent}/__init__.py", "raise SystemExit('imported')\n")

    def write(self, path: str, text: str) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def run(self, code: str) -> str:
        program = f"import sys; sys.path.insert(0, {str(self.folder)!r})\nfrom nemo_demix.stack import *\n{code}"
        done = subprocess.run(
            [sys.executable, "-S", "-E", "-c", program],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=self.folder,
            env={"PATH": os.environ["PATH"]},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def check(self, command: str = "train") -> str:
        """What `check_stack` says; empty if it is content."""
        return self.run(f"try:\n    check_stack({command!r})\nexcept StackError as error:\n    print(error)")


@pytest.fixture
def site(tmp_path: Path) -> FakeSite:
    return FakeSite(tmp_path / "site")


def install_good(site: FakeSite, **instead: tuple[str, str] | None) -> None:
    for name, found in {**GOOD, **instead}.items():
        if found is not None:
            site.install(name, *found)


def test_the_tested_releases_pass_and_nothing_is_imported(site: FakeSite) -> None:
    install_good(site)
    assert site.check() == ""


def test_releases_are_of_what_is_here(site: FakeSite) -> None:
    install_good(site, lightgbm=None)
    found = json.loads(site.run("import json\nprint(json.dumps(releases('nemo')))"))
    assert (found["torch"], found["megatron-core"], found["python"]) == ("2.13.0", "0.15.3", platform.python_version())
    assert "lightgbm" not in found


def test_nemo_3_without_its_llm_collection_names_the_last_line_that_has_it(site: FakeSite) -> None:
    install_good(site, nemo_toolkit=("3.0.0", "nemo/collections/asr"))
    message = site.check()
    assert "nemo_toolkit 3.0.0 has no nemo.collections.llm" in message
    assert "pip install 'nemo_toolkit[llm]>=2.7,<3'" in message
    assert "\n" not in message


@pytest.mark.parametrize("version", ["0.14.1", "0.16.0", "0.16.0rc1", "0.16.1+abc123"])
def test_megatron_core_outside_the_range_is_named(site: FakeSite, version: str) -> None:
    install_good(site, megatron_core=(version, "megatron/core"))
    message = site.check()
    assert f"megatron-core {version} is outside the tested range" in message
    assert "megatron-core==0.15.3" in message


@pytest.mark.parametrize("version", ["0.15.0rc8", "0.15.3+abc123", "0.15.0.dev4", "0.15.0rc8+5ab481c"])
def test_container_builds_of_a_tested_release_pass(site: FakeSite, version: str) -> None:
    install_good(site, megatron_core=(version, "megatron/core"))
    assert site.check() == ""


def test_missing_packages_are_all_named_in_one_line(site: FakeSite) -> None:
    install_good(site, torch=None, psutil=None)
    message = site.check()
    assert "torch is not installed" in message
    assert "psutil is not installed" in message
    assert "nemo_toolkit" not in message
    assert "\n" not in message


BASE = {"nemo_toolkit": None, "megatron_core": None, "nemo_run": None}


@pytest.mark.parametrize(
    "command", ["prepare", "train", "score", "search", "verify", "final", "run", "export", "import"]
)
def test_a_plain_installation_is_told_the_extra_that_a_stage_needs(site: FakeSite, command: str) -> None:
    install_good(site, torch=None, **BASE)
    assert site.check(command) == (
        f"{command} needs torch, nemo_toolkit, megatron-core, nemo_run, not installed here: "
        "pip install 'nemo-demix[nemo]'"
    )


def test_a_merge_needs_torch_alone(site: FakeSite) -> None:
    install_good(site, torch=None, **BASE)
    assert site.check("merge") == "merge needs torch, not installed here: pip install 'nemo-demix[merge]'"
    site.install("torch", "2.5.0", "torch")
    assert "torch 2.5.0 is outside the tested range" in site.check("merge")
    assert site.check("train").startswith("train needs nemo_toolkit, megatron-core, nemo_run, not installed here")


@pytest.mark.parametrize("command", ["status", "launch", "cancel"])
def test_what_looks_at_files_and_jobs_needs_no_more(site: FakeSite, command: str) -> None:
    install_good(site, torch=None, **BASE)
    assert site.check(command) == ""


def test_a_source_tree_on_the_path_is_judged_by_itself_and_not_by_older_metadata(site: FakeSite) -> None:
    install_good(site)
    site.write("megatron/core/package_info.py", 'MAJOR = 0\nMINOR = 16\nPATCH = 1\nPRE_RELEASE = "rc0"\n')
    assert "megatron-core 0.16.1 is outside" in site.check()


def test_a_source_tree_without_metadata_passes(site: FakeSite) -> None:
    install_good(site, megatron_core=None)
    site.write("megatron/__init__.py", "raise SystemExit('imported')\n")
    site.write("megatron/core/__init__.py", "raise SystemExit('imported')\n")
    site.write("megatron/core/package_info.py", 'MAJOR = 0\nMINOR = 15\nPATCH = 0\nPRE_RELEASE = "rc8"\n')
    assert site.check() == ""


def test_the_unrelated_apex_is_refused_and_never_imported(site: FakeSite) -> None:
    install_good(site)
    site.install("apex", "0.9.10.dev0", "apex")
    site.write("apex/lib/__init__.py", "")
    assert site.run("print(find_apex())") == "impostor"
    message = site.check()
    assert "apex 0.9.10.dev0" in message
    assert "pip uninstall apex" in message


def test_a_single_file_called_apex_is_an_impostor(site: FakeSite) -> None:
    site.write("apex.py", "raise SystemExit('imported')\n")
    assert site.run("print(find_apex())") == "impostor"


def test_nvidias_apex_is_recognised_without_importing_it(site: FakeSite) -> None:
    install_good(site)
    site.install("apex", "0.1", "apex/optimizers")
    site.write("apex/optimizers/fused_adam.py", "raise SystemExit('imported')\n")
    assert site.run("print(find_apex())") == "nvidia"
    assert site.check() == ""


def test_no_apex_is_fine(site: FakeSite) -> None:
    assert site.run("print(find_apex())") == "None"


def test_a_version_that_is_none_is_outside_every_range() -> None:
    assert not within("unknown", ">=0.15,<0.16")


def install_bridge(site: FakeSite) -> None:
    absent = {"nemo_toolkit": None, "nemo_run": None, "megatron_core": ("0.19.2", "megatron/core")}
    install_good(site, **absent)
    site.install("megatron_bridge", "0.6.2", "megatron/bridge")


def test_the_tested_releases_of_bridge_pass_and_nothing_is_imported(site: FakeSite) -> None:
    install_bridge(site)
    assert site.run("print(stack_problems('train', 'bridge'), installed_backend())") == "[] bridge"


def test_a_run_of_the_other_back_end_is_told_which_one_fits(site: FakeSite) -> None:
    install_good(site)
    message = site.run("print(*stack_problems('train', 'bridge'))")
    assert "pip install megatron-bridge==0.6.2" in message
    assert "megatron-core 0.15.3 is outside the tested range" in message
    assert message.endswith("what is installed here fits backend=nemo")


def test_one_environment_for_each_back_end(site: FakeSite) -> None:
    install_bridge(site)
    message = site.run("print(*stack_problems('train', 'nemo'))")
    assert "nemo_toolkit is not installed" in message
    assert message.endswith("what is installed here fits backend=bridge")


def documented_containers() -> list[tuple[dict[str, str], str]]:
    """The versions of NVIDIA's containers as docs/bridge.md has them, and the back end that it says fits."""
    page = (REPOSITORY / "docs/bridge.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if "| 2" in line[:4]]
    names = ("nemo_toolkit", "megatron_bridge", "megatron_core", "torch", "nemo_run")
    found = []
    for _, *versions, _python, fits, _source in rows:
        told = {name: version.split()[0] for name, version in zip(names, versions, strict=True)}
        known = {name: version for name, version in told.items() if version[0].isdigit()}
        found.append((known, fits.split()[0].strip("`")))
    return found


MODULES = {
    "nemo_toolkit": "nemo/collections/llm",
    "megatron_bridge": "megatron/bridge",
    "megatron_core": "megatron/core",
    "torch": "torch",
    "nemo_run": "nemo_run",
}


def test_the_back_end_that_the_table_of_containers_names_is_the_one_that_fits(tmp_path: Path) -> None:
    rows = documented_containers()
    assert len(rows) >= 5
    for number, (versions, fits) in enumerate(rows):
        site = FakeSite(tmp_path / f"site_{number}")
        for name, version in versions.items():
            site.install(name, version, MODULES[name])
        expected = () if fits == "neither" else (fits,)
        assert site.run("print(fitting_backends())") == str(expected), versions


def test_where_no_back_end_fits_both_are_named_as_they_are_here(site: FakeSite) -> None:
    """NeMo and a megatron-core that it cannot train with, beside a Megatron-Bridge of another release."""
    install_good(site, megatron_core=("0.16.0", "megatron/core"))
    site.install("megatron_bridge", "0.3.0", "megatron/bridge")
    for backend in ("nemo", "bridge"):
        message = site.run(f"print(*stack_problems('train', {backend!r}), sep=' ')")
        assert "no back end fits what is installed here (nemo_toolkit 2.7.3, megatron-core 0.16.0" in message
        assert "megatron-bridge 0.3.0" in message


def test_a_python_that_bridge_is_not_made_for_is_said(site: FakeSite) -> None:
    said = site.run("print(python_warning('bridge'), python_warning('nemo'), sep='; ')")
    is_made_for = sys.version_info[:2] == (3, 12)
    assert said == ("None; None" if is_made_for else f"Python {platform.python_version()}: Megatron-Bridge 0.6 is made "
                    "for Python >=3.12,<3.13, and nobody supports it on another; None")  # fmt: skip
