"""`nemo-demix STAGE [--config-name RECIPE] [key=value ...]`: every stage is a Hydra application over one schema."""

import errno
import logging
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from nemo_demix.command_line import DEFAULT_RECIPE, READ_ONLY, fail, hydra_arguments, retold, set_up_hydra
from nemo_demix.config import DemixConfig, register_schema, save_resolved, to_dataclasses
from nemo_demix.config.demix import missing_keys, name_errors
from nemo_demix.config.limits import limit_errors
from nemo_demix.config.overrides import stage_config
from nemo_demix.config.recipes import READING
from nemo_demix.errors import ConfigError, DemixError, near, refuse
from nemo_demix.ranks import stopping
from nemo_demix.ranks.lock import folder_lock
from nemo_demix.ranks.team import Team, join_team
from nemo_demix.runtime.ranks import layout_errors
from nemo_demix.terminal import heard_verbose, set_up

logger = logging.getLogger(__name__)
# These write elsewhere, and see to it themselves that they are alone there.
_ELSEWHERE = ("merge", "export", "import", "launch", "status", "cancel", "check", "report")
# These begin with every rule of every stage.
_CHECKED = ("check", "run", "launch", "doctor")
# Of a full or read-only disk, a quota, permissions: nothing that a trace would tell more of.
_OF_THE_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
# These may start ranks.
_WITH_RANKS = ("train", "score", "search", "verify", "final", "run")


def _prepare(config: DemixConfig) -> None:
    from nemo_demix.stages.prepare import prepare_stage

    prepare_stage(config)


def _train(config: DemixConfig) -> None:
    from nemo_demix.stages.models import train_stage

    train_stage(config)


def _score(config: DemixConfig) -> None:
    from nemo_demix.stages.score import score_stage

    score_stage(config)


def _search(config: DemixConfig) -> None:
    if config.search.imported.scores is not None:
        from nemo_demix.stages.imported import imported_stage

        imported_stage(config)
        _write_page(config)  # this is all of such a run
        return
    from nemo_demix.stages.search import search_stage

    search_stage(config)


def _verify(config: DemixConfig) -> None:
    from nemo_demix.stages.verify import verify_stage

    verify_stage(config)
    _write_page(config)


def _final(config: DemixConfig) -> None:
    from nemo_demix.stages.final import final_stage

    final_stage(config)
    _write_page(config)
    _track(config)


def _merge(config: DemixConfig) -> None:
    from nemo_demix.stages.merge import merge_stage

    merge_stage(config)


def _export(config: DemixConfig) -> None:
    from nemo_demix.stages.convert import export_stage

    export_stage(config)


def _import(config: DemixConfig) -> None:
    from nemo_demix.stages.convert import import_stage

    import_stage(config)


def _check(config: DemixConfig) -> None:
    """Do nothing more: the check is made before any stage, see `_checked`."""


def _run(config: DemixConfig) -> None:
    from nemo_demix.stages.run import run_stages

    run_stages(config)
    _write_page(config)
    _track(config)


def _report(config: DemixConfig) -> None:
    from nemo_demix.report.page import report_stage

    report_stage(config)


def _write_page(config: DemixConfig) -> None:
    _afterwards(_report, config, "report: no page was written", ", and `nemo-demix report` tries again")


def _track(config: DemixConfig) -> None:
    from nemo_demix.stages.track import track_run

    _afterwards(track_run, config, "track: not all was logged")


def _afterwards(work: Callable[[DemixConfig], None], config: DemixConfig, what: str, remedy: str = "") -> None:
    """Do what ends a run; that it failed does not touch the run's result."""
    try:
        work(config)
    except Exception as error:
        told = " ".join(str(error).split())
        logger.warning("%s (%s: %s); the run's result stands%s", what, type(error).__name__, told, remedy)


def _launch(config: DemixConfig) -> None:
    from nemo_demix.stages.launch import launch_stage

    launch_stage(config)


def _status(config: DemixConfig) -> None:
    from nemo_demix.stages.status import status_stage

    status_stage(config)


def _cancel(config: DemixConfig) -> None:
    from nemo_demix.stages.launch import cancel_stage

    cancel_stage(config)


COMMANDS: dict[str, tuple[Callable[[DemixConfig], None], str]] = {
    "prepare": (_prepare, "text or .bin/.idx -> candidate datasets, tokenizer, held-out splits, benchmarks"),
    "train": (_train, "a NeMo recipe on a blend: role=base | component [component=NAME] | reference | final"),
    "merge": (_merge, "K sharded checkpoints x M mixtures -> M checkpoints; merge verify DIR, merge inspect PATH"),
    "score": (_score, "score.checkpoint=DIR, score.mixtures=FILE, or the base and the components"),
    "search": (_search, "the iterative search over live merged proxies -> search/mixture.json"),
    "verify": (_verify, "trained references, and how well proxies order these -> verify/fidelity.json"),
    "final": (_final, "blend files, the final run and its baselines, the comparison"),
    "export": (_export, "convert.source=CHECKPOINT -> convert.output=DIR, a Hugging Face folder"),
    "import": (_import, "convert.source=DIR, a Hugging Face folder -> convert.output=CHECKPOINT"),
    "check": (_check, "every static rule of every stage: all that is wrong in one list, and what was understood"),
    "run": (_run, "all of it, skipping what is done"),
    "report": (_report, "one HTML page, from the run's records alone -> report.html; report compare RUN RUN ..."),
    "launch": (_launch, "all of it as Slurm jobs, submitting what is neither done nor queued; --dry-run prints them"),
    "status": (_status, "of the stages: done or not, jobs, progress, ETA"),
    "cancel": (_cancel, "the run's jobs; `launch` goes on from there"),
}


def main() -> None:
    """Run `nemo-demix`, or `python -m nemo_demix`."""
    stages = {
        "init": "FOLDER... [--output FILE]: a commented recipe for folders of text",
        **{name: text for name, (_, text) in COMMANDS.items()},
        "doctor": "what is installed, used and missing",
    }
    sys.argv = heard_verbose(sys.argv)
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        rows = "\n".join(f"  {name:8} {text}" for name, text in stages.items())
        print(f"usage: nemo-demix STAGE [--config-name RECIPE] [key=value ...]\n\n{rows}\n")
        print("`nemo-demix STAGE --help` shows a stage's configuration; RECIPE may be a path to your own YAML file.")
        print("-v shows what libraries say too; else it is in the run's logs/.")
        sys.exit(0 if len(sys.argv) > 1 else 2)
    stage = sys.argv[1]
    if stage not in stages:
        fail(f"{stage}: no such stage{near(stage, stages)}; expected one of {', '.join(stages)}")
    set_up(None)
    if stage == "init":
        from nemo_demix.stages.init import init_command

        _apart(init_command)
        return
    if stage == "merge":  # works apart in every process
        _main(stage)
        return
    try:
        team = join_team()
    except DemixError as error:
        fail(str(error))
    if team.is_leader:
        _lead(team, stage)
    else:
        from nemo_demix.ranks.agent import follow

        try:
            sys.exit(follow(team))
        except DemixError as error:  # a message that the leader did not write, no secret in common
            fail(str(error))


def _lead(team: Team, stage: str) -> None:
    """Run the command, and let the team's other processes go."""
    if team.peers.size > 1:
        try:
            team.introduce()  # opens the store: the others are looking for it already
        except DemixError as error:
            fail(str(error))
    try:
        _main(stage)
    finally:
        team.end()


def _main(stage: str) -> None:
    """Run one command in this process."""
    if stage == "merge" and sys.argv[2:3] in (["verify"], ["inspect"]):
        from nemo_demix.stages.merge_command import merge_command

        _apart(merge_command)
        return
    if stage == "report" and sys.argv[2:3] == ["compare"]:
        from nemo_demix.report.compare import compare_command

        _apart(compare_command)
        return
    sys.argv = [f"nemo-demix {stage}", *hydra_arguments(stage, sys.argv[2:])]
    register_schema()
    set_up_hydra()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and we say it in one line
    application = hydra.main(version_base="1.3", config_path=None, config_name=DEFAULT_RECIPE)(
        lambda config: _run_stage(stage, config)
    )
    try:
        application()
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        fail(" ".join(retold(error).split()))
    except OSError as error:  # Hydra's own, which makes the run's folder; a stage's do not come here
        if error.filename is None:
            fail(f"the folder that this was started in ({error.strerror}); change to one that is there")
        fail(f"runs_dir: {error.filename} cannot be made ({error.strerror}); name a folder that can be written")


def _apart(command: Callable[[list[str]], None]) -> None:
    """Run a command that takes its own arguments, and no recipe."""
    try:
        command(sys.argv[2:])
    except DemixError as error:
        fail(str(error))


def _run_stage(stage: str, composed: DictConfig) -> None:
    """Run one stage; the user's mistakes end in one line and exit code 2, failures in their trace and 1."""
    terminal = set_up(None)
    try:
        config = _checked(stage, composed)
        if stage not in READ_ONLY:
            terminal = set_up(config.run_dir / "logs" / "libraries.log")
        if stage == "doctor":
            if code := _doctor(config):
                sys.exit(code)
            return
        if stage == "check":
            return
        is_imported = stage == "search" and config.search.imported.scores is not None
        if not is_imported:  # a laptop can search imported scores
            from nemo_demix.stack import check_stack

            waits = config.launch.executor != "slurm"  # of these a dry run builds the jobs as NeMo-Run does
            through = stage == "launch" and config.launch.through != "slurm" and (waits or not config.launch.dry_run)
            check_stack(f"launch.through={config.launch.through}" if through else stage, config.backend)
        stopping.listen()
        if stage in _WITH_RANKS and not is_imported:
            from nemo_demix.ranks.processes import start_fork_server

            start_fork_server()  # it imports what ranks need while the stage reads what it needs
        with _lock(stage, config):
            COMMANDS[stage][0](config)
            if stage not in _ELSEWHERE and config.index is None:
                save_resolved(config, config.run_dir / "config.yaml")  # what --run reads
    except DemixError as error:
        fail(str(error))
    except OSError as error:
        end_of_disk(stage, error)
    except KeyboardInterrupt:
        _stopped(signal.SIGINT)
    except stopping.Stopped as stopped:
        _stopped(stopped.number)
    except Exception:
        terminal.close()
        traceback.print_exc()
        sys.exit(1)
    finally:
        terminal.close()


def _checked(stage: str, composed: DictConfig) -> DemixConfig:
    """Return the configuration, held to the schema; for some commands to every rule of every stage.

    Raises:
        DemixError: the first of what is wrong; where all is asked for, all is listed, and the command ends.
    """
    errors = list(dict.fromkeys(map(str, READING.errors)))
    told = " ".join(errors)
    if absent := [key for key in missing_keys(composed) if key not in told]:
        errors.append(f"required configuration is missing: {', '.join(absent)}; set each in the recipe or as key=value")
    if stage not in _CHECKED:
        if errors:
            more = f" (and {len(errors) - 1} more: `nemo-demix check` lists all)" if len(errors) > 1 else ""
            raise ConfigError(errors[0] + more)
        config = to_dataclasses(composed)
        # The page of a run can be made wherever somebody has copied the run to.
        refuse(chain(limit_errors(config), () if stage == "report" else name_errors(config)))
        return config
    if missing_keys(composed):
        _list(errors, "the other rules are held to it when it is whole")
        _refuse_all(errors)
    config = to_dataclasses(composed)
    from nemo_demix.check import mistakes, print_understood, warnings_of

    if errors := list(dict.fromkeys([*errors, *map(str, mistakes(config))])):
        _list(errors)
        if stage == "doctor" and not any(limit_errors(config)) and not any(layout_errors(config.parallel)):
            _doctor(config)  # what is here, and the memory that the model needs, is of use all the same
        _refuse_all(errors)
    for line in warnings_of(config):
        print(f"warning: {line}", file=sys.stderr)
    if stage in ("check", "run"):
        print_understood(config)
    return config


def _doctor(config: DemixConfig) -> int:
    from nemo_demix.doctor import doctor

    return doctor(config, stage_config(config, "search"))


def _list(errors: list[str], note: str = "") -> None:
    """Print all that is wrong, a line each."""
    for number, error in enumerate(errors, start=1):
        print(f"{number:3}  {' '.join(error.split())}", file=sys.stderr)
    if note:
        print(f"     ({note})", file=sys.stderr)


def _refuse_all(errors: list[str]) -> NoReturn:
    fail(f"{len(errors)} mistake{'s' if len(errors) > 1 else ''} in the configuration; nothing was started")


def _lock(stage: str, config: DemixConfig) -> AbstractContextManager[None]:
    """Lock the run's folder; single models of a role may be trained side by side, by an array of jobs."""
    if stage in _ELSEWHERE:
        return nullcontext()
    part = None
    if stage == "train":
        from nemo_demix.stages.models import part_of

        part = part_of(config)
    return folder_lock(config.run_dir, "name=", part)


def end_of_disk(stage: str, error: OSError) -> NoReturn:
    """End with what a disk or its permissions refused, where, and how much room is left; else with the trace."""
    if error.errno not in _OF_THE_PLACE:
        traceback.print_exc()
        sys.exit(1)
    path = next((str(name) for name in (error.filename2, error.filename) if isinstance(name, str | os.PathLike)), "")
    there = Path(path or ".").absolute()
    there = next(one for one in (there, *there.parents) if one.exists())
    fail(
        f"{stage}: {path or 'a file'}: {error.strerror} ({shutil.disk_usage(there).free:,} bytes are free at {there}); "
        "make room, or name a place that can be written. What was finished stands: the same command goes on from here"
    )


def _stopped(number: signal.Signals) -> None:
    print(f"stopped by {number.name}; the same command goes on from here", file=sys.stderr)
    sys.exit(128 + number)
