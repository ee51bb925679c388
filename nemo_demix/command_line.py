"""The command line as Hydra takes it: where recipes are looked for, `--run`, paths of recipes, counts as words."""

import atexit
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from hydra._internal.hydra import Hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.errors import MissingConfigException
from hydra.plugins.search_path_plugin import SearchPathPlugin

from nemo_demix.config.overrides import read_overrides
from nemo_demix.config.recipes import READING, RecipeSource
from nemo_demix.config.recorded import recorded_place, recorded_recipe
from nemo_demix.errors import ConfigError, near, one_line

DEFAULT_RECIPE = "quickstart"
# These can go on from what a run's folder records.
_OF_A_RUN = ("status", "search", "verify", "final", "report", "score", "cancel", "check")
_OF_ONE_COMMAND = ("role=null", "component=null", "index=null", "force=false", "yes=false", "watch=false")
_TAKE_A_WORD = (
    "--config-name -cn --config-dir -cd --config-path -cp --run --cfg -c --package -p --info -i --experimental-rerun"
).split()
_MULTIRUN = {"-m", "--multirun"}
_STORAGE_PLUGIN = "hydra_plugins.hydra_msc_plugin"
_config_folders: list[Path] = []  # of the user's recipe, and of --config-dir
# Hydra's own output goes into the run folder; logging is ours. An override on the command line comes later and wins.
_HYDRA_DEFAULTS = ("hydra.run.dir=${runs_dir}/${name}/logs/hydra", "hydra/job_logging=none")
READ_ONLY = ("check", "status", "doctor")  # stages that leave nothing behind
_WRITES_NOTHING = ("hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none")


class RecipeSearchPath(SearchPathPlugin):
    """Lets `--config-name` and the recipes' defaults find the recipes and the package's groups."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append both folders, after the user's own."""
        for folder in (*_config_folders, Path(__file__).parent / "conf", recipes_folder()):
            search_path.append(provider="nemo-demix", path=f"recipe://{Path(folder).resolve()}")


def recipes_folder() -> Path:
    """Return the shipped recipes: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def set_up_hydra() -> None:
    """Make our folders known to Hydra, and how they are read; a configuration is composed once."""
    plugins = _hydra_plugins()
    plugins.register(RecipeSearchPath)
    plugins.register(RecipeSource)
    if not _MULTIRUN & set(sys.argv):
        # Hydra composes all of it once more, only to look for `hydra.mode`. None: it is a run.
        Hydra.get_mode = lambda *_, **__: None  # type: ignore[method-assign]


def _hydra_plugins() -> Plugins:
    """Return Hydra's plugins, all imported at its start: launchers and sweepers, but not NVIDIA's for msc:// addresses.

    multi-storage-client comes with NeMo, and reading configurations from an object store costs every command 0.3 s.
    """
    asked_for = any("msc:" in argument for argument in sys.argv)
    if asked_for or _STORAGE_PLUGIN in sys.modules:
        return Plugins.instance()
    sys.modules[_STORAGE_PLUGIN] = None  # type: ignore[assignment] # Python's mark of what is not to be imported
    try:
        return Plugins.instance()
    finally:
        del sys.modules[_STORAGE_PLUGIN]


def hydra_arguments(stage: str, arguments: list[str]) -> list[str]:
    """Return the command line as Hydra takes it: flags first, then our defaults, then the user's overrides.

    `--config-name some/dir/mine.yaml` becomes `--config-name mine` with the folder searched first; `--run DIR` the
    configuration that the run has recorded; `--dry-run`, `--yes` and `--watch` are keys.
    """
    dry_run = f"{'launch' if stage == 'launch' else 'merge'}.dry_run=true"
    arguments = [dry_run if argument == "--dry-run" else argument for argument in arguments]
    flags_as_keys = {"--yes": "yes=true", "--watch": "watch=true"}
    arguments = [flags_as_keys.get(argument, argument) for argument in arguments]
    # What follows one of these flags is its value, whatever it looks like: a path may have a "=" in it.
    valued = {place + 1 for place, item in enumerate(arguments) if item in _TAKE_A_WORD}
    flags, overrides = [], []
    for place, item in enumerate(arguments):
        if place in valued or item.startswith("-"):
            flags.append(item)
        elif "=" in item or item[:1] in ("+", "~"):
            overrides.append(item)
        else:
            fail(f"{item}: expected key=value, or a flag such as --config-name")
    flags = _recipe_as_path(_run_as_recipe(stage, flags, overrides))
    overrides, groups = read_overrides(overrides, READING.errors)
    READING.chosen |= groups
    if stage not in READ_ONLY:
        return [*flags, *_HYDRA_DEFAULTS, *overrides]
    return [*flags, *_WRITES_NOTHING, *(_sweeps_nowhere() if _MULTIRUN & set(flags) else ()), *overrides]


def _sweeps_nowhere() -> tuple[str, ...]:
    """Return a folder for what Hydra's sweeper always writes, its configuration; it goes with the command."""
    folder = tempfile.mkdtemp(prefix="nemo-demix-sweep-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return (f"hydra.sweep.dir={_quoted(folder)}",)


def _run_as_recipe(stage: str, flags: list[str], overrides: list[str]) -> list[str]:
    """Turn `--run DIR` into the recipe that the folder records, by its own name, from where its command was started."""
    result, pending = [], list(flags)
    while pending:
        flag = pending.pop(0)
        name, _, value = flag.partition("=")
        if name != "--run":
            result.append(flag)
            continue
        if stage not in _OF_A_RUN:
            fail(f"--run: {stage} takes a recipe; expected one of {', '.join(_OF_A_RUN)}")
        if not value and not pending:
            fail("--run: expected the folder of a run, as in --run runs/mine")
        folder = Path(value or pending.pop(0)).absolute()
        recipe = recorded_recipe(folder)
        if recipe is None:
            fail(f"No run here: {folder}")
        overrides[:0] = [f"runs_dir={_quoted(folder.parent)}", f"name={_quoted(folder.name)}", *_OF_ONE_COMMAND]
        try:
            started_in = recorded_place(folder)
        except ConfigError as error:
            fail(str(error))
        if started_in is not None:
            os.chdir(started_in)
        result += ["--config-name", str(recipe)]
    return result


def _quoted(value: Path | str) -> str:
    """Return a value of an override as it is, whatever is in it."""
    return "'" + str(value).replace("'", "\\'") + "'"


def _recipe_as_path(arguments: list[str]) -> list[str]:
    result: list[str] = []
    pending = list(arguments)
    while pending:
        argument = pending.pop(0)
        if argument in ("--config-name", "-cn") and pending:
            value = pending.pop(0)
        elif argument.startswith(("--config-name=", "-cn=")):
            value = argument.split("=", 1)[1]
        elif argument in ("--config-dir", "-cd") and pending:
            _config_folders.insert(0, _folder(pending.pop(0)))
            continue
        elif argument.startswith(("--config-dir=", "-cd=")):
            _config_folders.insert(0, _folder(argument.split("=", 1)[1]))
            continue
        else:
            result.append(argument)
            continue
        path = Path(value)
        if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
            if not path.is_file():
                fail(f"{path}: no such recipe; expected a YAML file, or a name in {recipes_folder()}")
            _config_folders.append(path.resolve().parent)
            result += ["--config-name", path.stem]
        else:
            result += ["--config-name", value]
    return result


def _folder(value: str) -> Path:
    if not Path(value).is_dir():
        fail(f"--config-dir={value}: no such folder")
    return Path(value).resolve()


def retold(error: Exception) -> str:
    """Return what Hydra refuses, with the names that are near to the one at fault, and what to do."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file is not None:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if group:
            known = sorted(error.options or ())
            return f"{group}={name}: no such choice{near(name, known)}; expected one of {', '.join(known)}"
        known = sorted(path.stem for path in recipes_folder().glob("*.yaml"))
        return (
            f"--config-name {name}: no such recipe{near(name, known)}; expected one of {', '.join(known)}, or the path "
            "of a YAML file"
        )
    refused = re.match(r"Could not override '([^']+)'", str(error))
    for mapping, names in READING.names.items() if refused else ():
        if refused is not None and refused[1].startswith(f"{mapping}."):
            name = refused[1].removeprefix(f"{mapping}.").partition(".")[0]
            return (
                f"{refused[1]}: there is no {name} in {mapping}{near(name, names)}; it has {', '.join(sorted(names))}; "
                f"a new one is added with +{refused[1]}=VALUE"
            )
    return f"{error}: {error.__cause__}" if error.__cause__ else str(error)


def fail(message: str) -> NoReturn:
    """End with one line on stderr and exit code 2."""
    print(f"nemo-demix: {one_line(message)}", file=sys.stderr)
    sys.exit(2)
